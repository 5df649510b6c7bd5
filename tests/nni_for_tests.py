"""Experiments of NNI for tests: real managers, dispatchers and trials, in a home of their own."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.nni.client import EXPERIMENT
from autoprune.nni.processes import end_all, marked
from autoprune.results.kept import NNI_TRIALS
from autoprune.store.trials import TrialStore

if TYPE_CHECKING:
    from autoprune.nni.tuner import Begun

PATIENCE_S = 240.0


@dataclass(frozen=True)
class NniRun:
    """A run of the toy in `root`; its registry of NNI lies in `home`."""

    root: Path
    home: Path

    @property
    def folder(self) -> Path:
        return self.root / EXPERIMENT

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "autoprune.cli", "nni", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self.command(*arguments),
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def begin(self, tuner: str, trials: int, *more: str) -> subprocess.Popen[str]:
        settings = ("-o", f"search.max_evaluations={trials}", *more)
        return self.start("run", "toy", "--tuner", tuner, "--run-dir", str(self.root), *settings)

    def done(self, *arguments: str) -> str:
        """What a command says that ends well."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        return said

    def episodes(self) -> list[tuple[str, int, int, float]]:
        """Searcher, number, trial and reward of each."""
        with contextlib.closing(sqlite3.connect(self.root / "trials.sqlite")) as connection:
            query = "SELECT searcher, episode, trial_id, reward FROM episodes ORDER BY searcher, episode"
            return connection.execute(query).fetchall()

    def finished_in_nni(self) -> list[str]:
        """The trials that NNI has a final result of, once for each."""
        return self._trials_in_nni("SELECT trialJobId FROM MetricData WHERE type = 'FINAL'")

    def succeeded_in_nni(self) -> list[str]:
        return self._trials_in_nni("SELECT trialJobId FROM TrialJobEvent WHERE event = 'SUCCEEDED'")

    def begun(self) -> "Begun":
        """The trials that NNI has begun."""
        from autoprune.nni.tuner import begun_in

        return begun_in(self.database())

    def database(self) -> Path:
        """NNI's; it links the latest experiment beside it."""
        (file,) = self.folder.glob("[!_]*/db/nni.sqlite")
        return file.absolute()

    def _trials_in_nni(self, query: str) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.database())) as connection:
            return sorted({trial for (trial,) in connection.execute(query).fetchall()})

    def trials(self) -> dict[str, object]:
        return dict(TrialStore(self.root / "trials.sqlite").kept(NNI_TRIALS) or {})

    def wait_for(self, trials: int) -> None:
        """Until so many are finished."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(sqlite3.Error):
                if (self.root / "trials.sqlite").is_file() and len(self.episodes()) >= trials:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{trials} trials are not finished")

    def manager(self) -> int:
        """The process of node, waited for."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for process in marked(self.folder):
                with contextlib.suppress(OSError):
                    if b"main.js" in Path(f"/proc/{process}/cmdline").read_bytes():
                        return process
            time.sleep(0.05)
        raise AssertionError("no manager")

    def left(self) -> list[int]:
        """Processes of the experiment that are there, after some seconds in which they may end."""
        deadline = time.monotonic() + 10
        while (found := list(marked(self.folder))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


def kill(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def nni_run(folder: Path) -> Iterator[NniRun]:
    """A run in `folder`, of which nothing is left afterwards."""
    home = folder / "home"
    home.mkdir()
    run = NniRun(folder / "run", home)
    try:
        yield run
    finally:
        end_all(run.folder)

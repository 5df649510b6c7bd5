"""A small real job killed with SIGKILL at points by chance, also within writes: it goes on, and nothing blocks, comes
twice or stays behind."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_job
import yaml
from small_job import HERE, TIMEOUT_S, environment
from test_cli_errors import check_whole

KILLING = HERE.with_name("killing.py")
MARK = "AUTOPRUNE_TEST_CHAIN"
MOST_KILLS = 6  # of one run: then it is let to its end


@dataclass(frozen=True)
class Chain:
    """One run folder under attack; everything lies below `folder`."""

    folder: Path
    config: Path
    last_event: int = 130  # about as many files are touched
    last_s: float = 9.0  # and as long it takes
    more_files: frozenset[str] = frozenset()  # than a run without levels leaves

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        return self.folder / "evaluated.log"

    def start(self, *, kill_at: int) -> "subprocess.Popen[str]":
        """The job, anew where there is nothing to resume."""
        resume = ["--resume"] if (self.run_dir / "config.yaml").exists() else []
        command = [sys.executable, str(KILLING), str(self.folder), str(kill_at), str(self.log)]
        arguments = ["run", str(self.config), "--run-dir", str(self.run_dir), "--quiet", *resume]
        return subprocess.Popen(
            [*command, *arguments],
            env=environment(TMPDIR=str(self.temporary), OMP_NUM_THREADS="2", **{MARK: str(self.folder)}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def trials(self) -> list[tuple[Any, ...]]:
        path = self.run_dir / "trials.sqlite"
        if not path.is_file():
            return []
        with closing(sqlite3.connect(path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone():
                return []
            return connection.execute("SELECT * FROM trials ORDER BY id").fetchall()

    def processes(self) -> list[str]:
        """What still runs on behalf of this chain; Linux only."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and f"{MARK}={self.folder}".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended
                continue
        return found


def attack(chain: Chain, chance: random.Random) -> int:
    """Kill the job up to `MOST_KILLS` times, then let it end; how often it was killed. All is checked."""
    chain.temporary.mkdir()
    kills = 0
    before: list[tuple[Any, ...]] = []
    while kills < MOST_KILLS:
        by_time = chance.random() < 0.3
        process = chain.start(kill_at=0 if by_time else 1 + int(chain.last_event * chance.random() ** 2))
        try:
            _, errors = process.communicate(timeout=chain.last_s * chance.random() if by_time else TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        orphans_end(chain)
        now = chain.trials()
        assert now[: len(before)] == before  # with the times at which they were stored
        before = now
        if process.returncode == 0:
            break
        kills += 1
    process = chain.start(kill_at=0)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    orphans_end(chain)
    check_end(chain, before)
    return kills


def orphans_end(chain: Chain) -> None:
    deadline = time.monotonic() + 20
    while left := chain.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def check_end(chain: Chain, before: list[tuple[Any, ...]]) -> None:
    assert chain.trials()[: len(before)] == before
    evaluated = chain.log.read_text().splitlines()
    assert len(evaluated) == len(set(evaluated)), "a trial was evaluated twice"
    assert json.loads((chain.run_dir / "result.json").read_text())["checks"]["target_met"]
    check_whole(chain.run_dir)
    expected = {"config.yaml", "result.json", "trials.sqlite", "policy.json", "report.html"}
    assert {path.name for path in chain.run_dir.iterdir() if path.is_file()} == {*expected, *chain.more_files, ".lock"}
    assert not (chain.run_dir / "state").exists()
    ours = [path.name for path in chain.temporary.iterdir() if path.name.startswith("autoprune-")]
    assert ours == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("seed", [0])
def test_a_job_killed_at_random_goes_on(seed: int, small_config: Path, tmp_path: Path) -> None:
    assert attack(Chain(tmp_path, small_config), random.Random(seed)) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("seed", range(3))
def test_a_job_with_finalists_and_levels_killed_at_random_goes_on(
    seed: int, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Also within a finalist that is gone on with, and between the pruned model and the levels above and below it."""
    config = small_job.write_config(
        tmp_path / "levels.yaml",
        model={"checkpoint": str(small_checkpoint)},
        search={"agent": "ddpg", "max_evaluations": 8, "finalists": 2, "finalist_epochs": 1, "min_keep": 0.02},
        adaptive={"enabled": True, "max_ratios": [0.8, 1.0], "router_rounds": 2},
    )
    chain = Chain(tmp_path, config, 260, 20.0, frozenset({"adaptive.json", "adaptive.html"}))
    assert attack(chain, random.Random(seed)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_kills(small_config: Path, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("AUTOPRUNE_TEST_SEED", "1")))
    kills = chains = 0
    while kills < 100:
        folder = tmp_path / str(chains)
        folder.mkdir()
        kills += attack(Chain(folder, small_config), chance)
        chains += 1


@pytest.mark.parametrize("at", ["before the configuration is there", "after the folder is there"])
def test_a_kill_before_the_configuration_blocks_nothing(at: str, small_config: Path, tmp_path: Path) -> None:
    """Whether or not `--resume` is given."""
    for resume in ((), ("--resume",)):
        run_dir = tmp_path / f"run{len(resume)}"
        run_dir.mkdir()
        (run_dir / ".lock").touch()
        if at.startswith("before"):
            (run_dir / ".config.yaml.autoprune-ab12cd_3.yaml").write_text("seed: ")
            (run_dir / ".config.yaml.ab12cd_3.yaml").write_text("")  # as an earlier version left it
        small_job.done("run", small_config, "-o", "finetune.epochs=0", "--run-dir", run_dir, *resume, "--quiet")
        check_whole(run_dir)
        assert yaml.safe_load((run_dir / "config.yaml").read_text())["finetune"]["epochs"] == 0

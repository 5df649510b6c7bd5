"""A run's directory: where each file lies, who may write there, and when a run goes on from what is there."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig
from autoprune.config.file import dump_config, load_config
from autoprune.errors import ConfigError, InputError
from autoprune.foundation.files import require_free_space, write_text
from autoprune.foundation.paths import require_writable_folder
from autoprune.foundation.progress import say
from autoprune.foundation.scratch import is_temporary, remove_orphans


class RunDir:
    """Where each file of a run lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.result = root / "result.json"
        self.trials = root / "trials.sqlite"
        self.policy = root / "policy.json"
        self.report = root / "report.html"
        self.search_page = root / "search.html"  # of a run that holds a search alone
        self.agent = root / "agent"
        self.pruned = root / "pruned"
        self.original_onnx = root / "export" / "original.onnx"
        self.model_onnx = root / "export" / "model.onnx"
        self.adaptive = root / "adaptive.json"
        self.adaptive_onnx = root / "export" / "adaptive.onnx"
        self.adaptive_report = root / "adaptive.html"
        self.examples = root / "examples"  # pictures of easy and hard inputs
        self.logs = root / "logs"
        self.state = root / "state"  # of trainings, for `--resume`; removed when the run is finished
        self.lock = root / ".lock"

    def level_onnx(self, level: int) -> Path:
        """A level of an adaptive model as a file of its own."""
        return self.root / "export" / f"level-{level}.onnx"

    def level(self, level: int) -> Path:
        """A trained level of an adaptive model, as a pruned model."""
        return self.root / "levels" / str(level)

    @property
    def finished(self) -> bool:
        return self.result.is_file()

    @property
    def is_bare(self) -> bool:
        """Whether nothing is there but what a process that was killed at its start may leave: a run begins anew."""
        return all(path == self.lock or is_temporary(path.name) for path in self.root.iterdir())

    @property
    def holds_work(self) -> bool:
        """Whether an epoch or an episode is done: each is logged."""
        return self.logs.is_dir()


def check_run_dir(root: Path, config: RunConfig, *, resume: bool, field: str = "--run-dir") -> RunDir:
    """Whether a run with `config` may start or go on in `root`, which `field` names; nothing is written yet.

    Raises `InputError` if there is a run already (without `resume`), the disk is nearly full or cannot be written, or
    `root` is a file, and `ConfigError` if the run there has another configuration.
    """
    run_dir = RunDir(root)
    resuming = "--resume" if field.startswith("-") else "resume=True"
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, not a folder; choose another {field}")
    if run_dir.config.is_file():
        if not resume:
            raise InputError(f"{root}: holds a run already; go on with {resuming}, or choose another {field}")
        theirs, ours = (one.model_dump(exclude={"preset", "workers"}) for one in (load_config(run_dir.config), config))
        differing = _differing_keys(theirs, ours)  # where values come from, and who scores, do not matter
        if differing:
            raise ConfigError(
                f"{run_dir.config}: the run there has another configuration ({', '.join(differing)}); "
                f"resume it with its own, or choose another {field}"
            )
    elif resume and not root.is_dir():
        say(f"{root}: nothing is there to go on with; a run begins")
    elif root.is_dir() and not run_dir.is_bare:
        raise InputError(f"{root}: is not empty and holds no run; choose another {field}")
    if not run_dir.finished and not run_dir.adaptive.is_file():  # those are only read back
        require_writable_folder(root, field=field)
    require_free_space(root)
    return run_dir


@contextlib.contextmanager
def opened(run_dir: RunDir, config: RunConfig) -> Iterator[None]:
    """Hold the directory against other processes; bad input leaves nothing behind, unless work was done before. What
    killed writers left is removed."""
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
        lock = run_dir.lock.open("a")
    except OSError as error:
        raise InputError(f"{run_dir.root}: cannot be written ({error.strerror}); choose another --run-dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{run_dir.root}: another process is running there; wait for it, or choose another --run-dir"
            ) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        is_fresh = not run_dir.config.is_file()
        remove_orphans(run_dir.root)
        try:
            if is_fresh:
                write_text(run_dir.config, dump_config(config))
            yield
        except InputError:
            if is_fresh and not run_dir.holds_work:
                _remove_all(run_dir)
            raise
        finally:
            lock.truncate(0)


def holder_of(run_dir: RunDir) -> int | None:
    """The process that works there; None if none does."""
    try:
        with run_dir.lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = run_dir.lock.read_text().strip()
        return int(text) if text.isdecimal() else None
    except OSError:
        pass
    return None


def clean_finished(run_dir: RunDir) -> None:
    """Remove what a finished run needs no more, if a kill or a full disk let it stay: training states, temporary files.

    Nothing happens while another process is at work there, or where the folder cannot be written.
    """
    with contextlib.suppress(OSError), run_dir.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(run_dir.state, ignore_errors=True)
        remove_orphans(run_dir.root)


def _remove_all(run_dir: RunDir) -> None:
    """The configuration goes after all the rest: a kill midway leaves a run that goes on, or an empty folder."""
    last = (run_dir.config, run_dir.lock)
    with contextlib.suppress(OSError):
        for path in [*(path for path in run_dir.root.iterdir() if path not in last), *last]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        run_dir.root.rmdir()


def _differing_keys(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            key
            for name in sorted(ours.keys() | theirs.keys())
            for key in _differing_keys(ours.get(name), theirs.get(name), f"{prefix}.{name}" if prefix else name)
        ]
    return [] if ours == theirs else [prefix]

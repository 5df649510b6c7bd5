"""How trials and our tuner find the service of an experiment, and start it where nobody has."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from autoprune.nni.wire import Message, ServiceGone, connected

EXPERIMENT = "nni"  # the experiment's folder in that of a run
LOG = ".service.log"
START_S = 1800.0  # a model is read and timed first
WAIT_S = 0.1


class NotStarted(Exception):
    """The service ended at once; the message is what it said last."""


def ask(folder: Path, message: Message) -> Message:
    """One question, one answer. Raises `ServiceGone` if there is no service."""
    with connected(folder) as line:
        line.send(message)
        return line.receive()


def folder_of(config: str, run_dir: str | None) -> Path:
    return Path(run_dir or f"runs/{Path(config).stem}-nni") / EXPERIMENT


def ensure_service(config: str, run_dir: str | None, overrides: Sequence[str], *, within: Path) -> Path:
    """The folder of an experiment of the user's own, where a service scores trials of `config`; names of files are
    those of the folder `within`.

    The first who asks starts it, as `autoprune nni serve`; the others wait. Raises `NotStarted` if it cannot be.
    """
    folder = within / folder_of(config, run_dir)
    log_file = folder.parent.with_name(f"{folder.parent.name}{LOG}")  # beside the run's folder, which is not there yet
    said = [argument for override in overrides for argument in ("-o", override)]
    command = ["autoprune.cli", "nni", "serve", config, "--run-dir", str(folder.parent), *said]
    ensure(folder, command, log_file=log_file, within=within)
    return folder


def ensure(folder: Path, module: Sequence[str], *, log_file: Path, within: Path) -> None:
    """Have a service listen in `folder`; if there is none, `python -m` with `module` and its arguments starts it in the
    folder `within`. Raises `NotStarted` if it cannot be."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_served(folder):
            with log_file.open("a+b") as log:  # opened anew: what a process inherits would hold the lock for good
                _start(folder, module, log, within)


def is_served(folder: Path) -> bool:
    try:
        ask(folder, {"ask": "alive"})
    except ServiceGone:
        return False
    return True


def _start(folder: Path, module: Sequence[str], log: IO[bytes], within: Path) -> None:
    command = [sys.executable, "-m", *module]
    begin = log.seek(0, os.SEEK_END)
    # It outlives the trial that starts it, and needs nothing of NNI's.
    process = subprocess.Popen(
        command,
        cwd=within,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=_environment(),
    )
    deadline = time.monotonic() + START_S
    while not is_served(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(begin)
            text = log.read().decode(errors="replace").strip()
            raise NotStarted(text.splitlines()[-1] if text else f"the service ended ({process.returncode})")
        time.sleep(WAIT_S)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}

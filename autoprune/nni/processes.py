"""The processes of an experiment, however they began: each carries the folder's mark in its environment."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "AUTOPRUNE_NNI_RUN"
GRACE_S = 5.0


@dataclass(frozen=True)
class Log:
    """What NNI's manager, or the tuner's process, writes from `begin` on: it is appended to."""

    path: Path
    begin: int

    @classmethod
    def of(cls, path: Path) -> "Log":
        return cls(path, path.stat().st_size if path.is_file() else 0)

    def since(self) -> str:
        if not self.path.is_file():
            return ""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            return file.read().decode(errors="replace")


def marked(folder: Path) -> Iterator[int]:
    """Of this user, but for this process: the manager, the dispatcher and trials of the experiment in `folder`."""
    wanted = os.fsencode(f"{MARK}={folder.resolve()}")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # another user's, or gone meanwhile
            continue
        if wanted in environment.split(b"\0") and is_alive(int(entry.name)):
            yield int(entry.name)


def end_all(folder: Path) -> None:
    """End whatever is left of an experiment."""
    for _ in range(3):  # a process that ends may have begun another
        if not (found := list(marked(folder))):
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(is_alive(process) for process in found):
            _reap(found)
            time.sleep(0.02)


def command_of(process: int) -> str:
    """What a process was begun as; nothing of one that has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def ignores_interrupts(process: int) -> bool:
    """As one does that a script has begun with `&`."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def is_alive(process: int) -> bool:
    """Not one that has ended and that its parent does not look after."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _reap(processes: list[int]) -> None:
    """Our own children leave the list of processes."""
    for process in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, os.WNOHANG)

"""Processes that end when this one is killed, where they would notice late by themselves (Linux)."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def processes_below(parent: int) -> set[int]:
    """The children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            above = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(above, []).append(int(stat.parent.name))
    found = list(children.get(parent, ()))
    for process in found:
        found += children.get(process, ())
    return set(found)


@contextlib.contextmanager
def guarded(processes: Iterable[int]) -> Iterator[None]:
    """If this process is killed while the block runs, another one sees its end of a pipe close, and kills these."""
    command = [sys.executable, "-S", __file__, *map(str, processes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        try:
            yield
        finally:
            guard.kill()


def _guard(processes: Iterable[int]) -> None:
    watched = []
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            watched.append(os.pidfd_open(process))  # a number may come again, this stays theirs
    sys.stdin.read()
    for process in watched:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    _guard(map(int, sys.argv[1:]))

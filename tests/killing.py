"""The command line in a process that kills itself (SIGKILL) before it touches a file for the Nth time:
`python killing.py FOLDER N LOG ARGUMENT...`.

It counts what it opens for writing, makes, renames, removes and connects to under FOLDER (Python's audit events), so
that each N is another point, many of them in the middle of a write. With N = 0 it lives, and writes the count to
LOG.count. To LOG goes a line for each look at a candidate, once it is stored.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVENTS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp",
    "shutil.rmtree", "sqlite3.connect",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def count_down(folder: str, kill_at: int, log: Path) -> list[int]:
    """Install the hook; what it gives holds how many events there were."""
    counted, process = [0], os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or os.getpid() != process or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if str(arguments[0]).startswith(str(log)):
            return
        counted[0] += 1
        if counted[0] == kill_at:
            os.kill(process, signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


def log_trials(log: Path) -> None:
    """Note what is evaluated, each look once it is stored."""
    from autoprune.store.trials import TrialStore

    stored = TrialStore.add_trial

    def noted(self: TrialStore, fingerprint: str, policy: str, scores: Sequence[Any], *, wall_s: float) -> None:
        stored(self, fingerprint, policy, scores, wall_s=wall_s)
        with log.open("a", encoding="utf-8") as file:
            for score in scores:
                file.write(json.dumps([fingerprint, policy, score.look]) + "\n")

    TrialStore.add_trial = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    folder, kill_at, log = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    from autoprune.cli.main import main

    counted = count_down(folder, kill_at, log)
    log_trials(log)
    try:
        main(sys.argv[4:])
    finally:
        log.with_suffix(".count").write_text(str(counted[0]))

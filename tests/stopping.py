"""The command line in a process that stops itself (SIGSTOP) when something has been stored, so that a test that is late
still finds it there: `python stopping.py WHEN ARGUMENT...`.

WHEN is `trials:5` (so many have been stored), `fact:NAME`, or `state:PATTERN` (of a training's state file).
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from autoprune.cli.main import main
from autoprune.store.trials import TrialStore
from autoprune.training import train

Stored = Callable[..., None]


def stopping(store: Stored, is_reached: Callable[..., bool]) -> Stored:
    """`store`, after which the process stops if the positional arguments say so."""

    def stored(*arguments: Any, **keywords: Any) -> None:
        store(*arguments, **keywords)
        if is_reached(*arguments):
            os.kill(os.getpid(), signal.SIGSTOP)

    return stored


def prepare(when: str) -> None:
    kind, _, value = when.partition(":")
    if kind == "trials":
        count = iter(range(1, 1_000_000))
        TrialStore.add_trial = stopping(TrialStore.add_trial, lambda *_: next(count) == int(value))  # type: ignore[method-assign]
    elif kind == "fact":
        TrialStore.keep = stopping(TrialStore.keep, lambda _store, step, _value: step.name == value)  # type: ignore[method-assign]
    elif kind == "state":
        train._save_state = stopping(train._save_state, lambda path, _state: path.match(value))
    else:
        raise ValueError(when)


if __name__ == "__main__":
    prepare(sys.argv[1])
    sys.argv[:] = ["autoprune", *sys.argv[2:]]
    main()

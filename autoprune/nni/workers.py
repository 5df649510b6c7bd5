"""Forked processes that score one policy each, look by look, and can be told to stop between two looks."""

import multiprocessing
import os
import queue
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from autoprune.compute.processes import become_worker
from autoprune.errors import AutopruneError, RunError
from autoprune.foundation.factories import users_errors
from autoprune.search.executors import keep_freed_memory
from autoprune.search.problem import SearchProblem
from autoprune.space.decision import Policy
from autoprune.store.score import Score

KILLED = (
    "a process that scores candidates was killed, perhaps for want of memory; go on with `autoprune nni resume`, with "
    "nni.concurrency=1"
)
END_S = 5.0


class Workers:
    """So many forked processes of one thread each, which share the model, images and tables of a problem.

    They are made before any thread is: a process that forks has one.
    """

    def __init__(self, problem: SearchProblem, count: int) -> None:
        context: Any = multiprocessing.get_context("fork")
        self._free: queue.Queue[Connection] = queue.Queue()
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(problem, theirs, os.getpid()), daemon=True)
            with warnings.catch_warnings():  # that threads are not forked along: none of them is needed
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._free.put(ours)
            self._processes.append(process)

    @contextmanager
    def looks(self, policy: Policy, seen: int) -> Iterator[Iterator[Score]]:
        """The scores of looks after number `seen` (-1: all), by a worker that is waited for; no more than are taken."""
        worker = self._free.get()
        scores = _looks(worker, policy, seen)
        try:
            yield scores
        finally:
            with suppress(RunError):  # a worker that has died is told by its next use
                scores.close()
            self._free.put(worker)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(END_S)


def _looks(worker: Connection, policy: Policy, seen: int) -> Generator[Score, None, None]:
    """Raises `RunError` if the worker has died, and what was raised in it."""
    found = _answer(worker, (policy, seen))
    while found is not None:
        goes_on = False
        try:
            yield found
            goes_on = True
        finally:
            found = _answer(worker, goes_on)


def _answer(worker: Connection, told: object) -> Score | None:
    try:
        worker.send(told)
        found: Score | Exception | None = worker.recv()
    except (OSError, EOFError):
        raise RunError(KILLED) from None
    if isinstance(found, Exception):
        raise found
    return found


def _work(problem: SearchProblem, pipe: Connection, parent: int) -> None:
    become_worker(parent)
    keep_freed_memory()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            policy, seen = pipe.recv()
            try:
                with users_errors():
                    for score in problem.looks_after(policy, seen):
                        pipe.send(score)
                        if not pipe.recv():
                            break
                pipe.send(None)
            except Exception as error:
                if not isinstance(error, AutopruneError):  # its traceback stays here
                    error.add_note(traceback.format_exc())
                pipe.send(error)

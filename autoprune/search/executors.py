"""Who scores the policies that a search is about to ask for: this process alone, or forked ones, which share the model,
images and tables.

Another kind is another `Execute`. Where the problem cannot be shared, `steps.recipe.Recipe` makes it once more.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from autoprune.compute.processes import become_worker, forked_pool, usual_workers
from autoprune.errors import RunError
from autoprune.foundation.factories import users_errors
from autoprune.search.problem import Looked, SearchProblem
from autoprune.search.racing import Bars
from autoprune.space.decision import Policy

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 2**30

Execute = Callable[[SearchProblem], AbstractContextManager[SearchProblem]]
"""The same problem for a block, looked at by an executor meanwhile; what is evaluated comes out the same."""

_problem: SearchProblem | None = None  # in a worker: what it scores


@contextmanager
def inline(problem: SearchProblem) -> Iterator[SearchProblem]:
    """Nothing is scored ahead: each policy is scored when it is asked for, with all threads of this process."""
    yield problem


def forked(workers: int) -> Execute:
    """So many processes of one thread each; `inline` for a single one."""
    return inline if workers < 2 else partial(_forked, workers=workers)


def usual() -> Execute:
    return forked(usual_workers())


@contextmanager
def _forked(problem: SearchProblem, *, workers: int) -> Iterator[SearchProblem]:
    with forked_pool(workers, _begin, problem, os.getpid()) as pool:
        yield problem.looked_at_by(ForkedProcesses(pool, workers))


@dataclass(frozen=True)
class ForkedProcesses:
    pool: ProcessPoolExecutor
    workers: int

    def look(self, asked: Mapping[Policy, int], bars: Bars) -> Iterator[Looked]:
        try:
            futures = [self.pool.submit(_look, policy, seen, bars) for policy, seen in asked.items()]
            for done in as_completed(futures):
                yield done.result()
        except BrokenProcessPool:
            raise RunError(
                "a process that scores candidates was killed, perhaps for want of memory; go on with --resume, in one "
                "process if OMP_NUM_THREADS=1 is set"
            ) from None


def _begin(problem: SearchProblem, parent: int) -> None:
    global _problem
    _problem = problem
    become_worker(parent)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: activations of a thousand images are else given back to the system and
    fetched again, page by page, at each layer. A candidate of a MobileNetV2 takes 4.5 s instead of 6.5 (one thread,
    AVX2). Only here: a worker scores one kind of network, again and again, and ends with its search."""
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        mallopt = ctypes.CDLL(None).mallopt
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(option, KEPT_BYTES)


@users_errors()  # a traceback stays in its process
def _look(policy: Policy, seen: int, bars: Bars) -> Looked:
    assert _problem is not None, "not a worker"
    return _problem.look(policy, seen, bars)

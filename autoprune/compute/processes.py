"""Forked processes: how many there should be, and work done by them that needs nothing but what this one has."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent ends
CHUNKS_EACH = 16  # of the work, for each process: some chunks take longer than others

T = TypeVar("T")
R = TypeVar("R")
_work: Callable[[Any], Any] | None = None  # in a forked process: what it does


def usual_workers() -> int:
    """As many processes as this one would use threads: `OMP_NUM_THREADS` and the cores that it may run on count."""
    return torch.get_num_threads() if sys.platform == "linux" else 1  # elsewhere forked processes are not safe


@contextmanager
def forked_pool(workers: int, begin: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """So many processes, which share what this one has; each calls `begin`, whose arguments need not be pickled."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin, initargs=arguments)
    with warnings.catch_warnings():  # that threads are not forked along: none of them is needed
        warnings.simplefilter("ignore", DeprecationWarning)
        pool.submit(os.getpid)  # the first task starts all workers
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def become_worker(parent: int) -> None:
    """Make a forked process a worker. It ends with its parent, even a killed one: it holds the run's lock too. An
    interrupt is the parent's to handle."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def in_forks(work: Callable[[T], R], items: Sequence[T], *, workers: int) -> list[R]:
    """`work` of each item, side by side. What is raised is what the first item in their order raises.

    Raises `BrokenProcessPool` if a process is killed. Results are pickled.
    """
    size = 1 + len(items) // (CHUNKS_EACH * workers)
    chunks = [items[first : first + size] for first in range(0, len(items), size)]
    with forked_pool(workers, _begin, work, os.getpid()) as pool:
        return [result for done in pool.map(_some, chunks) for result in done]


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    _work = work
    gc.freeze()  # to look through what is shared would copy it
    become_worker(parent)


def _some(items: Sequence[Any]) -> list[Any]:
    assert _work is not None, "not a worker"
    return [_work(item) for item in items]

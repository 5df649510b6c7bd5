"""How many threads PyTorch computes with."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Within the block so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fewer_threads() -> tuple[int, ...]:
    """The numbers of threads that may be faster than all on a machine that others use too: one less, and half of them.

    The threads of an operation get equal parts of it and wait for each other at its end, so that one that shares its
    core holds up all.
    """
    every = torch.get_num_threads()
    return tuple(threads for threads in dict.fromkeys((every - 1, every // 2)) if threads > 0)

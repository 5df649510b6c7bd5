"""Letting some modules of a network compute their outputs in another way for as long as a block runs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def replaced_forward(modules: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """`forward(module, x)` in place of each module's own, which they have again however the block ends."""
    replaced = list(modules)
    for module in replaced:
        module.forward = forward.__get__(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward

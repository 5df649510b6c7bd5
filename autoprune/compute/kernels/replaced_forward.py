"""Letting some modules of a network compute their outputs in another way for as long as a block runs."""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from autoprune.compute.kernels.memory_format import is_channels_first


@contextlib.contextmanager
def replaced_forward(
    model: nn.Module, suits: Callable[[nn.Module], bool], forward: Callable[..., Tensor]
) -> Iterator[None]:
    """`forward(module, x)` in place of the own one of each module that `suits`, which it has again however the block
    ends; of none where a network computes with the channels first."""
    replaced = [] if is_channels_first(model) else [module for module in model.modules() if suits(module)]
    for module in replaced:
        module.forward = forward.__get__(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward

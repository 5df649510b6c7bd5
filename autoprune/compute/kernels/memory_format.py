"""How images and weights lie in memory: channels last, which CPUs train fastest, unless a network cannot run so.

Code that takes `x.view(n, -1)` after a convolution runs only where channels come first. Such a network is given its
images, and keeps its weights, in that order.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _ChannelsFirst:
    """A hook that lays a network's inputs out with the channels first."""

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Of one channel both orders are the same and `contiguous` does nothing, but kernels go by the strides.
        return tuple(
            value.clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value for value in args
        )


def keep_channels_first(model: nn.Module) -> None:
    """Let `model`, and every copy of it, compute with the channels first."""
    if not is_channels_first(model):
        model.register_forward_pre_hook(_ChannelsFirst())


def is_channels_first(model: nn.Module) -> bool:
    return any(
        isinstance(hook, _ChannelsFirst) for module in model.modules() for hook in module._forward_pre_hooks.values()
    )


def laid_out(model: nn.Module) -> nn.Module:
    """`model`, changed in place, with its weights as it trains fastest."""
    if is_channels_first(model):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

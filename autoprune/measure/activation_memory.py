"""How much memory a model's activations take, counted from one small forward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Of all activations at once: a latency table keeps sessions of a layer's widths open together, each with its own.
TABLE_COPIES = 24


@dataclass(frozen=True)
class ActivationBytes:
    """Of one image: what all layers give together, kept for the backward pass, and the most at one layer."""

    total: int
    largest: int

    def of_table(self, batch_size: int) -> int:
        """What measuring a latency table with such batches takes."""
        return batch_size * max(self.largest, TABLE_COPIES * self.total)


def activation_bytes(model: nn.Module, input_shape: tuple[int, int, int]) -> ActivationBytes:
    """Count what the leaves of `model`, in evaluation mode, give for one image (C, H, W)."""
    given: list[int] = []

    def note(_module: nn.Module, inputs: Any, output: Any) -> None:
        given.append(_bytes(inputs) + _bytes(output))

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.no_grad():
            given.append(_bytes(model(torch.zeros(2, *input_shape))))
    finally:
        for hook in hooks:
            hook.remove()
    # Half of what goes in and out of each: it goes out of one and into the next. Of two images, so once more half.
    return ActivationBytes(sum(given) // 4, max(given) // 2)


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    return 0

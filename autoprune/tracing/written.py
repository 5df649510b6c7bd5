"""What a network computes, as text: each operation of one forward pass, with its arguments but for tensors' values."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format)


def written(model: nn.Module, images: Tensor) -> str:
    """Equal for networks that do the same with their weights: comments, names of variables and values of weights do not
    matter; operations, their settings and how they are joined do."""
    with _Writer() as writer, torch.no_grad():
        model(images)
    return "\n".join(writer.lines)


class _Writer(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._numbers: dict[int, int] = {}  # of tensors, by the order in which they turn up
        self._held: list[Tensor] = []  # so that no other gets the same `id`

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        name = resolve_name(func) or getattr(func, "__name__", "")
        self.lines.append(f"{name}({self._told([*args, kwargs])}) -> {self._told(found)}")
        return found

    def _told(self, value: Any) -> str:
        if isinstance(value, Tensor):
            if id(value) not in self._numbers:
                self._numbers[id(value)] = len(self._numbers)
                self._held.append(value)
            return f"%{self._numbers[id(value)]}{tuple(value.shape)}"
        if isinstance(value, dict):
            return self._told([[key, value[key]] for key in sorted(value, key=str)])
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._told, value))}]"
        return repr(value) if isinstance(value, PLAIN) else type(value).__name__

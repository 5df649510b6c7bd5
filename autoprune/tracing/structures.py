"""All tensors in what a model answers, whatever it wraps them in."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def tensors_in(value: Any, *, depth: int = 8) -> list[Tensor]:
    """The tensors in nested mappings, sequences and objects with attributes, in order, each once."""
    found: dict[int, Tensor] = {}
    _collect(value, found, depth)
    return list(found.values())


def _collect(value: Any, found: dict[int, Tensor], depth: int) -> None:
    if isinstance(value, Tensor):
        found.setdefault(id(value), value)
        return
    if depth == 0 or value is None or isinstance(value, str | bytes | int | float | complex):
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        parts = vars(value).values()
    for part in parts:
        _collect(part, found, depth - 1)

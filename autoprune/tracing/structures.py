"""All tensors in what a model answers, whatever it wraps them in."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

MOST_PARTS = 100_000  # looked at in all
WITHOUT_PARTS = (str, bytes, bytearray, int, float, complex, np.ndarray, type, nn.Module)


def tensors_in(value: Any, *, opened: bool = False) -> list[Tensor]:
    """The tensors in nested mappings, collections and objects with attributes, in order, each once.

    With `opened`, those of iterators, too, which are used up by that.
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # kept alive, so that no two share an identity
    waiting: list[Iterator[Any]] = [iter((value,))]
    while waiting and len(seen) < MOST_PARTS:
        part = next(waiting[-1], waiting)
        if part is waiting:
            waiting.pop()
        elif id(part) not in seen:
            seen[id(part)] = part
            if isinstance(part, Tensor):
                found.append(part)
            elif part is not None and not isinstance(part, WITHOUT_PARTS):
                waiting.append(iter(_parts(part, opened)))
    return found


def _parts(value: Any, opened: bool) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Iterator):
        return value if opened else ()
    if isinstance(value, Collection):
        return value
    if isinstance(value, FunctionType):
        return contents(value)
    slots = itertools.chain.from_iterable(_slots_of(one) for one in type(value).__mro__)
    own = [getattr(value, slot) for slot in slots if hasattr(value, slot)]
    return [*own, *getattr(value, "__dict__", {}).values()]


def contents(function: FunctionType) -> list[Any]:
    """What a function has kept of where it was made."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # an empty one
            continue
    return found


def _slots_of(one: type) -> tuple[str, ...]:
    slots = one.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)

"""Copies of a model in which nothing refers back to it, whatever its modules keep and its hooks have closed over."""

import copy
from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn

from autoprune.tracing.structures import contents

KEPT = (nn.Module, list, dict, set)  # what a function may write to, or read weights from


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with `model`."""
    return copy_with(model, {})


def copy_with(model: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy with other tensors in place of some (by identity), wherever they are referred to.

    Functions that modules keep, hooks among them, are copied with what they have closed over of the model.
    """
    memo: dict[int, Any] = dict(tensors)
    again: nn.Module = copy.deepcopy(model, memo)
    made: dict[int, Any] = {}
    for module in again.modules():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType):
                vars(module)[name] = _bound_to(value, memo, made)
            elif name.endswith("_hooks") and isinstance(value, dict):
                value.update({key: _bound_to(hook, memo, made) for key, hook in value.items()})
    return again


def _bound_to(function: Any, memo: dict[int, Any], made: dict[int, Any]) -> Any:
    """`function`, closed over copies in place of the modules and containers that it was closed over."""
    if not isinstance(function, FunctionType) or not any(isinstance(part, KEPT) for part in contents(function)):
        return function
    if id(function) not in made:
        cells = tuple(_copied(cell, memo) for cell in function.__closure__ or ())
        again = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        again.__kwdefaults__ = function.__kwdefaults__
        again.__dict__.update(vars(function))
        made[id(function)] = again
    return made[id(function)]


def _copied(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        value = cell.cell_contents
        return CellType(copy.deepcopy(value, memo)) if isinstance(value, KEPT) else cell
    except Exception:  # it is empty, or holds what cannot be copied and is no part of the model then
        return cell

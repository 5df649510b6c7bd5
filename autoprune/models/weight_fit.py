"""Names of weights as wrappers, compilers and counters leave them, matched to the names that a model has."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoprune.models.weight_sets import EXTRA_STATE, WeightSet

# What wrapping a model puts before (or into) the names of its weights.
WRAPPERS = ("module", "model", "_orig_mod", "net", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Left in the state of a model by profilers and weight averages, which is none of its weights.
COUNTERS = frozenset({"total_ops", "total_params", "n_averaged", EXTRA_STATE})
BATCHES = "num_batches_tracked"


@dataclass(frozen=True)
class Fit:
    """One set of weights under a model's names; `wrong` says what does not fit (nothing: it fits)."""

    tensors: WeightSet
    wrong: tuple[str, ...]


def fit(expected: Mapping[str, Any], tensors: WeightSet) -> Fit:
    """`tensors` under the names of `expected`, the model's state; of the ways to read the names the one that fits best.

    Counters that the model lacks are left out, a missing `num_batches_tracked` is zero, and extra state that is missing
    or holds more than a tensor stays the model's.
    """
    own = {_unwrapped(name) for name, value in expected.items() if isinstance(value, Tensor)}
    kept = {name: tensor for name, tensor in tensors.items() if _last(name) not in COUNTERS or _unwrapped(name) in own}
    fits = [_compared(expected, named) for named in _readings(expected.keys(), kept)]
    return min(fits, key=lambda made: len(made.wrong))


def _readings(expected: Iterable[str], tensors: WeightSet) -> list[WeightSet]:
    """As they stand; without each beginning that all share; without the wrappers' names wherever they are."""
    readings = [tensors]
    while (stripped := _without_common_beginning(readings[-1])) is not None:
        readings.append(stripped)
    wanted, given = _by(_unwrapped, expected), _by(_unwrapped, tensors)
    if wanted is not None and given is not None:  # no two names became one
        readings.append({wanted.get(short, name): tensors[name] for short, name in given.items()})
    return readings


def _without_common_beginning(tensors: WeightSet) -> WeightSet | None:
    for wrapper in WRAPPERS:
        beginning = f"{wrapper}."
        if tensors and all(name.startswith(beginning) for name in tensors):
            return {name.removeprefix(beginning): tensor for name, tensor in tensors.items()}
    return None


def _by(short: Callable[[str], str], names: Iterable[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for name in names:
        if found.setdefault(short(name), name) != name:
            return None
    return found


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _compared(expected: Mapping[str, Any], tensors: WeightSet) -> Fit:
    filled = dict(tensors)
    for name, value in expected.items():
        if name not in filled and _last(name) == BATCHES:
            filled[name] = torch.zeros_like(value)
        if _last(name) == BATCHES and name in filled and filled[name].numel() == 1 and not filled[name].is_meta:
            filled[name] = filled[name].reshape(value.shape)
    weights = {name for name in expected if _last(name) != EXTRA_STATE}  # extra state may be of any shape
    wrong = [f"{name} missing" for name in weights - filled.keys()]
    wrong += [f"{name} unexpected" for name in filled.keys() - expected.keys()]
    wrong += [
        f"{name} is {tuple(filled[name].shape)}, the model wants {tuple(expected[name].shape)}"
        for name in weights & filled.keys()
        if not filled[name].is_nested and filled[name].shape != expected[name].shape
    ]
    return Fit(filled, tuple(sorted(wrong)))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def common(expected: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """How many of the model's names are there, however they are wrapped: what tells weights from other tensors."""
    return len({_unwrapped(name) for name in expected} & {_unwrapped(name) for name in tensors})

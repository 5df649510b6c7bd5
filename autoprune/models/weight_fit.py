"""Names of weights as wrappers, compilers and counters leave them, matched to the names that a model has."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import listed, plain_name, shown
from autoprune.models.weight_baking import baked
from autoprune.models.weight_sets import EXTRA_STATE, WeightSet

# What wrapping a model puts before (or into) the names of its weights.
WRAPPERS = ("module", "model", "_orig_mod", "net", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Left in the state of a model by profilers and weight averages, which is none of its weights.
COUNTERS = frozenset({"total_ops", "total_params", "n_averaged", EXTRA_STATE})
# Words in the names of what trainings keep beside a model: its loss, its metrics, how far it has come.
TRAINERS = frozenset(
    {
        *("criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "acc1", "acc5", "accuracy", "top1"),
        *("auroc", "f1", "precision", "recall", "confmat", "train", "val", "valid", "test", "best", "epoch", "step"),
    }
)
BATCHES = "num_batches_tracked"
LONGEST_BEGINNING = 8  # parts of a name before the model's own
BEGINNINGS_TRIED = 8


@dataclass(frozen=True)
class Fit:
    """One set of weights under a model's names; `wrong` says what does not fit (nothing: it fits).

    `said` is what was changed or left out that it may fit. With `choices` it is undecided which of the weights whose
    names begin with these are meant.
    """

    tensors: WeightSet
    wrong: tuple[str, ...]
    said: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def fit(expected: Mapping[str, Any], tensors: WeightSet) -> Fit:
    """`tensors` under the names of `expected`, the model's state; of the ways to read the names the one that fits best.

    Counters that the model lacks are left out, a missing `num_batches_tracked` is zero, a weight of which only a tied
    one was saved is that, and extra state that is missing or holds more than a tensor stays the model's. Weights that
    are made of others are baked in. What a training keeps beside a whole set is left out, as are copies of the set, and
    a beginning that all names of a set have in common is taken off; `Fit.said` tells.
    """
    own = {_unwrapped(name) for name, value in expected.items() if isinstance(value, Tensor)}
    kept = {name: tensor for name, tensor in tensors.items() if _last(name) not in COUNTERS or _unwrapped(name) in own}
    tied = _tied(expected)
    fits = [_whole(expected, named, tied) for named in _readings(expected, kept)]
    best = min(fits, key=lambda made: len(made.wrong))
    return best if not best.wrong else _begun(expected, kept, tied) or best


def common(expected: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """How many of the model's names are there, however they are wrapped: what tells weights from other tensors."""
    return len({_unwrapped(name) for name in expected} & {_unwrapped(name) for name in tensors})


def _readings(expected: Mapping[str, Any], tensors: WeightSet) -> list[WeightSet]:
    """As they stand, and without the wrappers' names wherever they are, unless two names become one by that."""
    wanted, given = ({_unwrapped(name): name for name in names} for names in (expected, tensors))
    if len(wanted) < len(expected) or len(given) < len(tensors):
        return [tensors]
    return [tensors, {wanted.get(short, short or name): tensors[name] for short, name in given.items()}]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _whole(expected: Mapping[str, Any], tensors: WeightSet, tied: Mapping[str, list[str]]) -> Fit:
    """`tensors` as they fit, without what a training keeps beside a whole set and without copies of it, unless there is
    more that does not fit."""
    made = _compared(expected, tensors, tied)
    roots = {name.partition(".")[0] for name in expected}
    begun = _beginnings(expected, made.unexpected)
    copies = [start for start, names in begun.items() if 2 * len(names) > len(expected)]
    copied = {name for start in copies if start.partition(".")[0] not in roots for name in begun[start]}
    beside = [name for name in made.unexpected if name in copied or _is_beside(name, roots)]
    return _without(made, beside) if len(beside) == len(made.wrong) else made


def _without(made: Fit, names: Iterable[str]) -> Fit:
    left = set(names)
    rest = {name: tensor for name, tensor in made.tensors.items() if name not in left}
    said = (*made.said, f"left out, as the model has none of that name: {listed(sorted(left))}") if left else made.said
    return replace(made, tensors=rest, wrong=(), said=said, unexpected=())


def _is_beside(name: str, roots: set[str]) -> bool:
    parts = [part for part in name.split(".", LONGEST_BEGINNING) if part not in WRAPPERS]
    return bool(parts) and parts[0] not in roots and not TRAINERS.isdisjoint(parts[0].lower().split("_"))


def _beginnings(expected: Container[str], names: Iterable[str]) -> dict[str, list[str]]:
    """By what they begin with, up to a dot and with it, those of `names` that go on as one of the model's."""
    begun: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".", LONGEST_BEGINNING)
        for start in (".".join(parts[:count]) + "." for count in range(1, len(parts))):
            if name.removeprefix(start) in expected:
                begun.setdefault(start, []).append(name)
    return begun


def _begun(expected: Mapping[str, Any], tensors: WeightSet, tied: Mapping[str, list[str]]) -> Fit | None:
    """The weights whose names all begin with the same, which is not the model's; of several such sets a wrapper's."""
    beginnings = _beginnings(expected, tensors)
    found: dict[str, Fit] = {}
    for start in sorted(beginnings, key=lambda start: -len(beginnings[start]))[:BEGINNINGS_TRIED]:
        begun = {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
        made = _whole(expected, begun, tied)
        if not made.wrong:
            found[start] = made
    if not found:
        return None
    known = [start for start in found if all(part in WRAPPERS for part in start[:-1].split("."))]
    chosen = [*known, *found][0]
    choices = () if known or len(found) == 1 else tuple(start.removesuffix(".") for start in sorted(found))
    begins = () if known else (f"its names are read without {shown(chosen)}",)
    made = replace(found[chosen], said=(*begins, *found[chosen].said), choices=choices)
    return _without(made, [name for name in tensors if not name.startswith(chosen)])


def _tied(expected: Mapping[str, Any]) -> dict[str, list[str]]:
    """By name, the other names of the same weight in the model's state."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, value in expected.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_nested):
            alike.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), []).append(name)
    # Tensors without values lie nowhere, and are alike to none.
    return {name: names for names in alike.values() if len(names) > 1 and expected[names[0]].numel() for name in names}


def _compared(expected: Mapping[str, Any], tensors: WeightSet, tied: Mapping[str, list[str]]) -> Fit:
    weights = {name for name in expected if _last(name) != EXTRA_STATE}  # extra state may be of any shape
    filled, made = baked({name: expected[name] for name in weights - tensors.keys()}, expected, tensors)
    said = [f"parametrised weights are baked in, as they act: {listed(sorted(made))}"] if made else []
    for name, value in expected.items():
        if name not in filled and (given := next((other for other in tied.get(name, ()) if other in filled), None)):
            filled[name] = filled[given]
            said.append(f"{plain_name(name)} is {plain_name(given)}, to which the model ties it")
        if name not in filled and _last(name) == BATCHES:
            filled[name] = torch.zeros_like(value)
        if _last(name) == BATCHES and name in filled and filled[name].numel() == 1 and not filled[name].is_meta:
            filled[name] = filled[name].reshape(value.shape)
    missing, unexpected = sorted(weights - filled.keys()), sorted(filled.keys() - expected.keys())
    misshapen = [
        f"{plain_name(name)} is {tuple(filled[name].shape)}, the model wants {tuple(expected[name].shape)}"
        for name in sorted(weights & filled.keys())
        if not filled[name].is_nested and filled[name].shape != expected[name].shape
    ]
    lacks = [f"{plain_name(name)} missing" for name in missing]
    strange = [f"{plain_name(name)} unexpected" for name in unexpected]
    wrong = (*lacks[:2], *strange[:2], *misshapen[:2], *lacks[2:], *strange[2:], *misshapen[2:])  # some of each first
    return Fit(filled, wrong, tuple(said), unexpected=tuple(unexpected))


def _last(name: str) -> str:
    return name.rpartition(".")[2]

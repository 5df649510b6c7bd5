"""Names of weights as wrappers, compilers and counters leave them, matched to the names that a model has."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
    fits = [_compared(expected, named, tied) for named in _readings(expected.keys(), kept)]
    best = min(fits, key=lambda made: len(made.wrong))
    if not best.wrong:
        return best
    whole = [alone for made in fits if (alone := _alone(expected, made)) is not None]
    return whole[0] if whole else _begun(expected, kept, tied) or best


def common(expected: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """How many of the model's names are there, however they are wrapped: what tells weights from other tensors."""
    return len({_unwrapped(name) for name in expected} & {_unwrapped(name) for name in tensors})


def _readings(expected: Iterable[str], tensors: WeightSet) -> list[WeightSet]:
    """As they stand; without each beginning that all share; without the wrappers' names wherever they are."""
    readings = [tensors]
    while len(readings) <= LONGEST_BEGINNING and (stripped := _without_common_beginning(readings[-1])) is not None:
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


def _alone(expected: Mapping[str, Any], made: Fit) -> Fit | None:
    """A whole set without what a training keeps beside it; None where there is more that does not fit."""
    if len(made.wrong) > len(made.unexpected):
        return None
    roots = {name.partition(".")[0] for name in expected}
    copies = _copies(made.unexpected, expected, roots)
    if not all(name in copies or _is_beside(name, roots) for name in made.unexpected):
        return None
    return _without(made, made.unexpected)


def _without(made: Fit, names: Iterable[str]) -> Fit:
    left = set(names)
    rest = {name: tensor for name, tensor in made.tensors.items() if name not in left}
    said = (*made.said, f"left out, as the model has none of that name: {listed(sorted(left))}") if left else made.said
    return replace(made, tensors=rest, wrong=(), said=said, unexpected=())


def _is_beside(name: str, roots: set[str]) -> bool:
    parts = [part for part in name.split(".", LONGEST_BEGINNING) if part not in WRAPPERS]
    return bool(parts) and parts[0] not in roots and not TRAINERS.isdisjoint(parts[0].lower().split("_"))


def _copies(names: Iterable[str], expected: Mapping[str, Any], roots: set[str]) -> set[str]:
    """Those of `names` that begin otherwise than the model's and go on as these do, most of which are there so."""
    begun: dict[str, set[str]] = {}
    for name in names:
        for beginning, rest in _split(name) if name.partition(".")[0] not in roots else ():
            if rest in expected:
                begun.setdefault(beginning, set()).add(rest)
    whole = {beginning: rests for beginning, rests in begun.items() if 2 * len(rests) > len(expected)}
    return {beginning + rest for beginning, rests in whole.items() for rest in rests}


def _split(name: str) -> list[tuple[str, str]]:
    """All ways to part a name after a dot: (its beginning with the dot, the rest)."""
    parts = name.split(".", LONGEST_BEGINNING)
    starts = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
    return [(start, name[len(start) :]) for start in starts]


def _begun(expected: Mapping[str, Any], tensors: WeightSet, tied: Mapping[str, list[str]]) -> Fit | None:
    """The weights whose names all begin with the same, which is not the model's; of several such sets a wrapper's."""
    counted = Counter(start for name in tensors for start, rest in _split(name) if rest in expected)
    found: dict[str, Fit] = {}
    for beginning, _ in counted.most_common(BEGINNINGS_TRIED):
        begun = {name.removeprefix(beginning): each for name, each in tensors.items() if name.startswith(beginning)}
        made = _compared(expected, begun, tied)
        if (whole := made if not made.wrong else _alone(expected, made)) is not None:
            found[beginning] = whole
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

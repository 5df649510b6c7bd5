"""The sets of weights in a file: bare, or under names such as "state_dict" or "ema", beside what else a training keeps.

A set is a mapping of names to tensors. Its own name is the way to it: "ema.state_dict"; "" for a file that is one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from autoprune.errors import ModelError

WeightSet = dict[str, Tensor]
MAX_DEPTH = 3
EXTRA_STATE = "_extra_state"
# The first of these is taken where several would do: the weights themselves come before averages of them.
PREFERRED = (
    *("", "state_dict", "model_state_dict", "model", "net", "net_state_dict", "weights", "params", "module", "network"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "averaged"),
)


def weight_sets(content: Any) -> dict[str, WeightSet]:
    """All sets in what a file holds, by name, the preferred ones first; values that are no tensors are left out."""
    found = dict(_sets(content, "", MAX_DEPTH))
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def chosen_set(sets: Mapping[str, WeightSet], key: str, where: Path) -> dict[str, WeightSet]:
    """The sets under the name `key`; `ModelError` lists the names that there are."""
    if key in sets and key:
        return {key: sets[key]}
    below = {name: tensors for name, tensors in sets.items() if key and name.startswith(f"{key}.")}
    if below:
        return below
    named = [name for name in sets if name]
    if not named:
        raise ModelError(f"{where}: holds one set of weights without a name; leave model.checkpoint_key ({key!r}) out")
    raise ModelError(
        f"{where}: model.checkpoint_key={key!r}: no weights are under this name; there are {', '.join(named)}"
    )


def tensors_in(content: Mapping[str, Any]) -> WeightSet:
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _sets(content: Any, name: str, depth: int) -> Iterator[tuple[str, WeightSet]]:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    if tensors := tensors_in(content):
        yield name, tensors
    for key, value in content.items() if depth else ():
        if key.rpartition(".")[2] != EXTRA_STATE:
            yield from _sets(value, f"{name}.{key}" if name else key, depth - 1)


def _rank(name: str) -> tuple[int, ...]:
    """Known names in their order, outer before inner, then all others as they came."""
    parts = name.split(".")
    return tuple(PREFERRED.index(part) if part in PREFERRED else len(PREFERRED) for part in parts)

"""The sets of weights in a file: bare, or under names such as "state_dict" or "ema", beside what else a training keeps.

A set is a mapping of names to tensors. Its own name is the way to it: "ema.state_dict"; "" for a file that is one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autoprune.errors import ModelError, listed, shown
from autoprune.models.weight_kinds import HOW_TO_SAVE

WeightSet = dict[str, Tensor]
MAX_DEPTH = 3
MAX_SETS = 1000
EXTRA_STATE = "_extra_state"
# The first of these is taken where several would do: the weights themselves come before averages of them.
PREFERRED = (
    *("", "state_dict", "model_state_dict", "model", "net", "net_state_dict", "weights", "params", "module", "network"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "averaged"),
)
OPTIMIZERS = frozenset({"optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "optim", "opt"})


def weight_sets(content: Any, where: Path) -> dict[str, WeightSet]:
    """All sets in what a file holds, by name, the preferred ones first; values that are no tensors are left out.

    What lies there under several names is one object, and is looked into once, since a file may hold itself. Raises
    `ModelError`, which says what is there, if that is no set, or too many.
    """
    found: dict[str, WeightSet] = {}
    seen: dict[int, WeightSet] = {}  # by the identity of the mapping
    waiting = deque([("", content, MAX_DEPTH)])
    while waiting:
        name, value, depth = waiting.popleft()
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            continue
        if id(value) not in seen:
            seen[id(value)] = tensors_in(value)
            if depth:
                waiting.extend((f"{name}.{key}" if name else key, value[key], depth - 1) for key in _inner(value))
        if seen[id(value)]:
            found[name] = seen[id(value)]
        if len(found) > MAX_SETS:
            raise ModelError(f"{where}: holds more than {MAX_SETS} sets of tensors; {HOW_TO_SAVE}")
    if not found:
        raise ModelError(f"{where}: holds no state dict of tensors but {_described(content)}")
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def chosen_set(sets: Mapping[str, WeightSet], key: str, where: Path) -> dict[str, WeightSet]:
    """The sets under the name `key`, or the weights whose names begin with it; `ModelError` lists what there is."""
    if key in sets and key:
        return {key: sets[key]}
    below = {name: tensors for name, tensors in sets.items() if key and name.startswith(f"{key}.")}
    if below:
        return below
    for name, tensors in sets.items():
        if key and key.startswith(f"{name}." if name else ""):
            beginning = f"{key.removeprefix(f'{name}.') if name else key}."
            begun = {each.removeprefix(beginning): tensors[each] for each in tensors if each.startswith(beginning)}
            if begun:
                return {key: begun}
    named = [name for name in sets if name]
    if not named:
        raise ModelError(
            f"{where}: holds one set of weights without a name; leave model.checkpoint_key ({shown(key)}) out"
        )
    raise ModelError(
        f"{where}: model.checkpoint_key={shown(key)}: no weights are under this name; there are {listed(named)}"
    )


def distinct(sets: Mapping[str, WeightSet]) -> dict[str, WeightSet]:
    """Each set under the first of its names alone."""
    first: dict[int, str] = {}
    return {name: tensors for name, tensors in sets.items() if first.setdefault(id(tensors), name) == name}


def undecided(names: Sequence[str]) -> bool:
    """Whether no known name tells which of several sets, in their order, is the one that is meant."""
    if len(names) < 2:
        return False
    first, second = _rank(names[0]), _rank(names[1])
    return first == second or min(first) == len(PREFERRED)


def tensors_in(content: Mapping[str, Any]) -> WeightSet:
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _inner(content: Mapping[str, Any]) -> list[str]:
    return [
        key
        for key, value in content.items()
        if isinstance(value, Mapping) and key.rpartition(".")[2] != EXTRA_STATE and key not in OPTIMIZERS
    ]


def _described(content: Any) -> str:
    """What a file without a set of weights holds instead, and what to save in its place."""
    if isinstance(content, list | tuple):
        return _of_a_list(content, "")
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__} alone; {HOW_TO_SAVE}"
    if not content:
        return f"nothing; {HOW_TO_SAVE}"
    parts = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    if any("shadow_params" in part for part in parts):
        return (
            "an average's parameters without their names (shadow_params); where it was made, copy them into the model "
            "(ema.copy_to(model.parameters())), and save torch.save(model.state_dict(), 'weights.pt')"
        )
    if any("param_groups" in part for part in parts):
        return f"the state of an optimizer; {HOW_TO_SAVE}"
    if any(not isinstance(key, str) for key in content):
        return f"values under names that are no texts; {HOW_TO_SAVE}"
    if any(isinstance(value, np.ndarray) for part in parts for value in part.values()):
        return (
            "NumPy arrays; make tensors of them: torch.save({name: torch.from_numpy(array) for name, array in "
            "ARRAYS.items()}, 'weights.pt')"
        )
    lists = ((key, value) for key, value in content.items() if isinstance(value, list | tuple))
    if (held := next((pair for pair in lists if any(isinstance(each, Mapping) for each in pair[1])), None)) is not None:
        return _of_a_list(held[1], f"[{shown(held[0])}]")
    return f"{listed(content)}, none of which has tensors under names; {HOW_TO_SAVE}"


def _of_a_list(values: Sequence[Any], place: str) -> str:
    return (
        f"a {type(values).__name__} of {len(values)} values; save the one that is wanted alone, for the first: "
        f"torch.save(torch.load(FILE){place}[0], 'weights.pt')"
    )


def _rank(name: str) -> tuple[int, ...]:
    """Known names in their order, outer before inner, then all others as they came."""
    parts = name.split(".")
    return tuple(PREFERRED.index(part) if part in PREFERRED else len(PREFERRED) for part in parts)

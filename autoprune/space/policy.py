"""A pruning policy: how many channels each prunable group keeps; which policies are cuts of others."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import InputError
from autoprune.foundation.bounds import whole_number
from autoprune.foundation.files import read_json, write_json

SCHEMA = 1


@dataclass(frozen=True)
class PruningPolicy:
    """`channels` holds (group name, channels kept) in the model's order. All cuts of a group are nested.

    A group that keeps none is a branch that is gone; which groups are, the model knows. A layer with options of its own
    stands among the groups, with the size of its option for channels kept.
    """

    channels: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if len(self.as_dict()) < len(self.channels):
            raise ValueError("a group is named twice")
        for name, kept in self.channels:
            if kept < 0:
                raise ValueError(f"group {name} would keep {kept} channels")

    @classmethod
    def of(cls, channels: Mapping[str, int]) -> "PruningPolicy":
        return cls(tuple(channels.items()))

    def as_dict(self) -> dict[str, int]:
        return dict(self.channels)

    @property
    def key(self) -> str:
        """A text that is equal for equal policies; the primary key of a trial."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    @classmethod
    def of_key(cls, text: str) -> "PruningPolicy":
        """The policy of a `key`. Raises `ValueError` for a text that is none."""
        try:
            pairs = json.loads(text, object_pairs_hook=tuple)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not text.lstrip().startswith("{"):
            raise ValueError("not the channels of each group")
        return cls(tuple((name, _whole_number(kept)) for name, kept in pairs))


@dataclass(frozen=True)
class StoredPolicy:
    """What `policy.json` holds: a policy, the model that it was found for, and the widths of its groups there.

    What a file does not say of them is left out.
    """

    policy: PruningPolicy
    model: str | None
    widths: Mapping[str, int]


def check_nested(levels: Sequence[PruningPolicy]) -> None:
    """Raises `ValueError` unless each level is a cut of the next."""
    for number, (smaller, larger) in enumerate(itertools.pairwise(levels)):
        kept, allowed = smaller.as_dict(), larger.as_dict()
        if kept.keys() != allowed.keys() or smaller == larger:
            raise ValueError(f"levels {number} and {number + 1} are equal or not of the same groups")
        if wider := [name for name in kept if kept[name] > allowed[name]]:
            raise ValueError(f"level {number} is no cut of level {number + 1}: {', '.join(wider)} is wider")


def is_nested(smaller: PruningPolicy, larger: PruningPolicy) -> bool:
    """Whether one is a cut of the other, of the same groups, or equal to it."""
    kept, allowed = smaller.as_dict(), larger.as_dict()
    return kept.keys() == allowed.keys() and all(kept[name] <= allowed[name] for name in kept)


def save_policy(path: Path, policy: PruningPolicy, *, model: str, original: Mapping[str, int]) -> None:
    """Write `policy.json`: the channels of each group, kept and before."""
    groups = {name: {"kept": kept, "of": original[name]} for name, kept in policy.channels}
    write_json(path, {"schema": SCHEMA, "model": model, "groups": groups})


def load_policy(path: Path) -> PruningPolicy:
    """Read the policy alone; `InputError` names the file and what is wrong with it."""
    return _policy_of(read_json(path), path)


def load_stored_policy(path: Path) -> StoredPolicy:
    """Read all of `policy.json`; `InputError` names the file and what is wrong with it."""
    raw = read_json(path)
    policy = _policy_of(raw, path)
    widths = {
        name: whole_number(f"{path}: groups.{name}.of", entry["of"], least=0)
        for name, entry in raw["groups"].items()
        if "of" in entry
    }
    return StoredPolicy(policy, raw["model"] if isinstance(raw.get("model"), str) else None, widths)


def _policy_of(raw: Any, path: Path) -> PruningPolicy:
    try:
        if raw["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {raw['schema']} is not supported (this version reads {SCHEMA})")
        return PruningPolicy.of({name: _whole_number(entry["kept"]) for name, entry in raw["groups"].items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not a pruning policy ({error!r})") from None


def _whole_number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no number of channels")
    return value

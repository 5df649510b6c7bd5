"""How a file is laid out: the keys that most users set stand in their sections, all others below `advanced`, in
sections of the same names. In memory, and in files of earlier versions, a section is one."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.config.run import RunConfig
from autoprune.config.section import Section, unknown_keys
from autoprune.errors import ConfigError, shown

ADVANCED = "advanced"
# The keys that stand in their sections; "" is the top level.
BASIC: Mapping[str, tuple[str, ...]] = {
    "": ("preset", "problem", "seed", "task", "target"),
    "model": ("name", "width", "checkpoint"),
    "data": ("name", "image_size"),
    "target": ("metric", "max_ratio", "max_value", "unit", "max_drop"),
    "search": ("agent", "max_evaluations"),
    "finetune": ("epochs", "max_minutes", "learning_rate"),
    "adaptive": ("enabled", "max_ratios", "max_drop"),
    "measure": ("threads",),
    "nni": ("tuner",),
}
Key = tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What a file and its overrides say: one section of each name, and the keys that were said below `advanced`."""

    values: Mapping[str, Any]
    below_advanced: frozenset[Key]

    @classmethod
    def of(cls, raw: Mapping[Any, Any]) -> "Written":
        """Raises `ConfigError` for a key below `advanced` that does not belong there, or that is said twice."""
        values = {key: value for key, value in raw.items() if key != ADVANCED}
        found, beside = dict(_advanced_keys(raw.get(ADVANCED))), dict(keys_of(values))
        for path, value in found.items():
            if (said := beside.get(path, value)) != value:
                raise ConfigError(
                    f"{'.'.join((ADVANCED, *path))}: is {shown(value)}, but {'.'.join(path)} is {shown(said)}; they "
                    "are one key: leave one out"
                )
            with contextlib.suppress(LookupError):  # something else in a section's place, which is told as it is read
                values = with_value(values, path, value)
        return cls(values, frozenset(found))

    def overridden(self, parts: Sequence[str], value: Any) -> "Written":
        """With `value` at a key, whose parts may begin with `advanced`; a section there sets the keys that it names.

        Raises `LookupError` of the part that leads nowhere, and `ConfigError` for a key that is not advanced.
        """
        if parts[0] != ADVANCED:
            path = tuple(parts)
            others = {key for key in self.below_advanced if key[: len(path)] != path and path[: len(key)] != key}
            return Written(with_value(self.values, path, value), frozenset(others))
        path, values, keys = tuple(parts[1:]), self.values, set(self.below_advanced)
        for key, said in _advanced_keys(with_value({}, path, value)):
            keys.add(key)
            values = with_value(values, path, value) if len(path) > len(key) else with_value(values, key, said)
        return Written(values, frozenset(keys))

    def name_of(self, location: Iterable[str | int]) -> str:
        """A key or a section as it was written."""
        path = tuple(map(str, location))
        key = ".".join(path)
        is_below = any(path[: len(known)] == known for known in self.below_advanced)
        holds_only_such = key not in BASIC and any(known[: len(path)] == path for known in self.below_advanced)
        return f"{ADVANCED}.{key}" if is_below or holds_only_such else key


def laid_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a configuration as a file has them."""
    basic: Any = {}
    advanced: Any = {}
    for path, value in keys_of(values):
        if path[-1] in BASIC.get(".".join(path[:-1]), ()):
            basic = with_value(basic, path, value)
        else:
            advanced = with_value(advanced, path, value)
    return {**basic, ADVANCED: advanced}


def keys_of(values: Mapping[str, Any], section: type[Section] = RunConfig, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Each key in the sections of a configuration, with its value; so is what stands in a section's place."""
    for key, value in values.items():
        below = section_of(section, key)
        if below is not None and isinstance(value, Mapping):
            yield from keys_of(value, below, (*path, key))
        else:
            yield (*path, key), value


def section_of(section: type[Section], key: Any) -> type[Section] | None:
    """The section below a key, if there is one; a list of them is a value."""
    kind = section.model_fields[key].annotation if key in section.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def advanced_names(section: type[Section], name: str) -> tuple[str, ...]:
    """The keys and sections of a section, under its dotted name, that stand below `advanced`."""
    return tuple(key for key in section.model_fields if key not in BASIC.get(name, ()))


def with_value(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of `node` with `value` at `path`; `LookupError` holds the part that leads nowhere."""
    if not path:
        return value
    first, *rest = path
    if isinstance(node, list) and first.isdecimal() and len(first) < 5 and int(first) < len(node):
        changed = with_value(node[int(first)], rest, value)
        return [changed if index == int(first) else item for index, item in enumerate(node)]
    if node is None or isinstance(node, Mapping):
        return {**(node or {}), first: with_value((node or {}).get(first), rest, value)}
    raise LookupError(first)


def _advanced_keys(given: Any, section: type[Section] = RunConfig, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Each key in what stands below `advanced`, with its value."""
    name, shown_name = ".".join(path), ".".join((ADVANCED, *path))
    if given is None:
        return
    allowed = advanced_names(section, name)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{shown_name}: must be a section with the keys {', '.join(allowed)}, got {shown(given)}")
    for key, value in given.items():
        if key in BASIC.get(name, ()):
            raise ConfigError(f"{shown_name}.{key}: is no advanced key; write {'.'.join((*path, key))}")
        if key not in allowed:
            raise ConfigError(f"{shown_name}: {unknown_keys([key], allowed)}")
        below = section_of(section, key)
        if below is None:
            yield (*path, key), value
        else:
            yield from _advanced_keys(value, below, (*path, key))

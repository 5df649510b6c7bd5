"""YAML as a configuration may hold it: of bounded size, each key once."""

import re
from typing import Any

import yaml

from autoprune.errors import ConfigError, shown

MOST_BYTES = 200_000  # of a configuration file; a whole one has 4,000
MOST_VALUES = 10_000  # with each alias written out
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+][0-9]+)?$|[-+]?\.(inf|nan)$", re.IGNORECASE)
LONGEST_SCALAR = 10_000  # characters; no path or name is so long


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text; `ConfigError` names `where` and the line.

    Refuses what YAML lets pass: keys that come twice, aliases that multiply (a few hundred bytes could stand for
    gigabytes), endless values.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where}: {len(text):,} characters; a configuration has at most {MOST_BYTES:,}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _count(root, {}, set(), where)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        raise ConfigError(f"{where}: not valid YAML ({line}{error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None


def _count(node: yaml.Node, counts: dict[int, int], under_way: set[int], where: str) -> int:
    """How many values `node` stands for, each alias written out. An alias is the very node that it stands for, so what
    `counts` holds already is not walked again."""
    if id(node) in counts:
        return counts[id(node)]
    if id(node) in under_way:
        raise _refusal(node, where, "an alias stands inside what it stands for")
    under_way.add(id(node))
    count = 1 + sum(_count(part, counts, under_way, where) for part in _parts(node, where))
    if count > MOST_VALUES:
        raise _refusal(node, where, f"more than {MOST_VALUES:,} values, aliases written out; no configuration has them")
    counts[id(node)] = count
    return count


def _parts(node: yaml.Node, where: str) -> list[yaml.Node]:
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_SCALAR:
            raise _refusal(node, where, f"a value of {len(node.value):,} characters; at most {LONGEST_SCALAR:,}")
        if node.tag in NUMBERS and node.value[:1] != "." and not DECIMAL.match(node.value):
            read = yaml.safe_load(node.value)
            raise _refusal(
                node,
                where,
                f"{shown(node.value)} would be read as {shown(read)}; write a decimal number, or quote a text",
            )
        return []
    if not isinstance(node, yaml.MappingNode):
        return list(node.value)
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise _refusal(key, where, f"the key {shown(key.value)} is there twice; leave one out")
            seen.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]


def _refusal(node: yaml.Node, where: str, reason: str) -> ConfigError:
    return ConfigError(f"{where}: not valid YAML (line {node.start_mark.line + 1}: {reason})")

"""Prints docs/configuration.md: every section and key of a configuration, read from its schema.

    python scripts/configuration_page.py > docs/configuration.md

What stands on the page is what `autoprune.config` says; a key without a description there has an empty cell here.
"""

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoprune.config import RunConfig
from autoprune.config.section import Section

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
LARGEST_WRITTEN_OUT = 1e12  # of bounds
TOP = "Top level"

INTRODUCTION = """\
# Configuration

<!-- Written by scripts/configuration_page.py from autoprune/config/; `make docs` writes it anew. Do not edit. -->

A configuration is one YAML file. Every key has a default, unless its table says "required"; a file names what differs.
A section that is left empty means its defaults.

- `autoprune run mine.yaml` takes a file, `autoprune run demo` a [shipped configuration](#shipped-configurations).
- `-o key=value` changes one key for one run, and may stand several times: `-o search.agent=ppo -o finetune.epochs=20`.
  The value is YAML: `-o 'target={metric: latency, max_ratio: 0.4}'`. An item of a list has its number:
  `-o target.0.max_ratio=0.4`.
- From Python: `autoprune.config.RunConfig`, or `autoprune.config.file.load_config(path, ["search.agent=ppo"])`.

A key that is not known, a number out of its range and a key that stands twice are refused before any work, by name.
What keys ask of each other is told the same way.
"""


def main() -> None:
    print("\n".join(lines()))


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield INTRODUCTION
    for name, section in sections(RunConfig):
        yield f"## {f'`{name}`' if name else TOP}\n"
        if section.__doc__:
            yield f"{inspect.cleandoc(section.__doc__)}\n"
        yield "| key | values | default | |"
        yield "|---|---|---|---|"
        for key, field in section.model_fields.items():
            yield f"| {' | '.join(row(name, key, field))} |"
        yield ""
    yield "## Shipped configurations\n"
    yield "| name | |"
    yield "|---|---|"
    for path in sorted(CONFIGS.glob("*.yaml")):
        yield f"| `{path.stem}` | {cell(leading_comment(path))} |"


def sections(section: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A section under its dotted name, and all below it, in the order of the schema."""
    yield name, section
    for key, field in section.model_fields.items():
        if (below := section_of(field)) is not None:
            yield from sections(below, f"{name}.{key}" if name else key)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, or holds a list of."""
    candidates = (field.annotation, *typing.get_args(field.annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)), None)


def row(section: str, key: str, field: FieldInfo) -> tuple[str, str, str, str]:
    """The cells of a key: its name, what it may hold, its default, its description."""
    if section_of(field) is not None:
        return f"`{key}`", section_link(section, key, field), section_default(field), cell(field.description)
    bounds = [
        f"{word} {number(getattr(constraint, name))}"
        for constraint in field.metadata
        for name, word in BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]
    kind = ", ".join([allowed(field.annotation), *bounds])
    default = "required" if field.default is PydanticUndefined else f"`{as_yaml(field.default)}`"
    values = kind + (", or null" if is_optional(field.annotation) else "")
    return f"`{key}`", cell(values), default, cell(field.description)


def allowed(annotation: Any) -> str:
    """What a value may be, in words; null is left to the caller."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(allowed(kind) for kind in arguments if kind is not type(None))
    if origin is tuple:
        return f"list, each a {allowed(arguments[0])}"
    if origin is dict:
        return "keys with values"
    return KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def is_optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def as_yaml(value: Any) -> str:
    """A default as a file would have it, on one line."""
    return value if isinstance(value, str) else json.dumps(value)


def number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and value < LARGEST_WRITTEN_OUT else f"{value:g}"


def leading_comment(path: Path) -> str:
    """What a configuration says of itself at its beginning, line by line: some end with a command."""
    said = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        said.append(line.removeprefix("#").strip())
    return "<br>".join(said)


def section_link(section: str, key: str, field: FieldInfo) -> str:
    """To the heading of a section, whose anchor is its dotted name without the dots."""
    found = f"[a section](#{section.replace('.', '')}{key})"
    return f"{found}, or a list of them" if typing.get_origin(field.annotation) is tuple else found


def section_default(field: FieldInfo) -> str:
    """Of a list of sections; that of one section stands in its own table."""
    if typing.get_origin(field.annotation) is not tuple:
        return ""
    return f"`{as_yaml([item.model_dump(exclude_none=True) for item in field.default])}`"


def cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    main()

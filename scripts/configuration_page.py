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

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoprune.config import RunConfig, TargetConfig
from autoprune.config.layout import ADVANCED, BASIC, advanced_names
from autoprune.config.presets import PRESETS
from autoprune.config.section import Section

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
LARGEST_WRITTEN_OUT = 1e12  # of bounds


def page() -> str:
    """The page, whose frame and prose are the template's."""
    read = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=read, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    known = list(sections(RunConfig))
    return environment.get_template("configuration.md.j2").render(
        target=inspect.cleandoc(TargetConfig.__doc__ or ""),
        short=[
            row(name, dotted(name, key), section.model_fields[key])
            for name, section in known
            for key in BASIC.get(name, ())
            if section_of(section.model_fields[key]) is None
        ],
        presets=[f"`{name}`" for name in PRESETS],
        preset_rows=list(preset_rows()),
        advanced=[
            {
                "name": name,
                "says": inspect.cleandoc(section.__doc__ or ""),
                "rows": [row(name, key, section.model_fields[key]) for key in keys],
            }
            for name, section in known
            if name and (keys := advanced_names(section, name))
        ],
        shipped=[(path.stem, cell(leading_comment(path))) for path in sorted(CONFIGS.glob("*.yaml"))],
    )


def preset_rows() -> Iterator[tuple[str, ...]]:
    """The cells of each key that one of the presets sets."""
    written = {name: RunConfig.model_validate({"preset": name}).model_dump() for name in PRESETS}
    for key in dict.fromkeys(key for values in PRESETS.values() for key in values):
        section, name = key.split(".")
        yield (f"`{key}`", *(as_yaml(values[section][name]) for values in written.values()))


def dotted(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def sections(section: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A section under its dotted name, and all below it, in the order of the schema."""
    yield name, section
    for key, field in section.model_fields.items():
        if (below := section_of(field)) is not None:
            yield from sections(below, dotted(name, key))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, or holds a list of."""
    candidates = (field.annotation, *typing.get_args(field.annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)), None)


def row(section: str, key: str, field: FieldInfo) -> tuple[str, str, str, str]:
    """The cells of a key: its name, what it may hold, its default, its description."""
    if section_of(field) is not None:
        return f"`{key}`", section_link(section, key), "", cell(field.description)
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


def section_link(section: str, key: str) -> str:
    """To the heading of a section, whose anchor is its dotted name without the dots."""
    return f"[a section](#{ADVANCED}{section.replace('.', '')}{key})"


def cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")

"""Prints docs/configuration.md: every section and key of a configuration, read from its schema.

    python scripts/configuration_page.py > docs/configuration.md

What stands on the page is what `autoprune.config` says; a key without a description there has an empty cell here.
"""

import inspect
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

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
HEAD = ("| key | values | default | |", "|---|---|---|---|")

INTRODUCTION = """\
# Configuration

<!-- Written by scripts/configuration_page.py from autoprune/config/; `make docs` writes it anew. Do not edit. -->

A configuration is one YAML file. Every key has a default, unless its table says "required"; a file names what differs:

```yaml
preset: quick
model: {name: net.py:make_net, checkpoint: net.safetensors}
data: {name: imagefolder:photos}
target: {metric: latency, max_ratio: 0.5}
finetune: {learning_rate: 0.02}
advanced:
  finetune: {weight_decay: 0.0005, augment: {crop_padding: 4}}
```

The keys of [the short section](#the-short-section), which most users set, stand as above. All others have good defaults
and stand below [`advanced`](#advanced), in sections of the same names. A section that is left empty means its defaults.

- `autoprune run mine.yaml` takes a file, `autoprune run demo` a [shipped configuration](#shipped-configurations).
- `-o key=value` changes one key for one run, and may stand several times: `-o search.agent=ppo -o finetune.epochs=20`.
  The value is YAML: `-o 'target={metric: latency, max_ratio: 0.4}'`. An item of a list has its number:
  `-o target.0.max_ratio=0.4`.
- `advanced.` may be left out: `-o search.finalists=6` and `-o advanced.search.finalists=6` are the same, in a file too.
  Two values for one key in one file are refused.
- From Python: `autoprune.config.file.load_config(path, ["search.agent=ppo"])`, or `autoprune.config.RunConfig`, which
  has one section of each name and no `advanced`: `RunConfig(search=SearchConfig(finalists=6))`.

A key that is not known, a number out of its range and a key that stands twice are refused before any work, by name.
What keys ask of each other is told the same way. Keys without effect, such as those of `adaptive` while
`adaptive.enabled` is false, are named before the work begins.

A run writes all values into its `config.yaml`. Started from that file it is the same, whatever defaults and presets
have become.
"""
SHORT = "A `target`, or each of a list of targets that must all hold, is"
PRESETS_INTRODUCTION = """\
`preset: quick`, or `-o preset=quick`, sets the keys that cost time, unless they are given. `standard` is the default;
`thorough` is what the longer shipped configurations use.
"""


def main() -> None:
    print("\n".join(lines()))


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield INTRODUCTION
    yield "## The short section\n"
    yield f"{SHORT}\n{inspect.cleandoc(TargetConfig.__doc__ or '')}\n"
    yield from HEAD
    for name, section in sections(RunConfig):
        for key in BASIC.get(name, ()):
            if section_of(section.model_fields[key]) is None:
                yield line(row(name, dotted(name, key), section.model_fields[key]))
    yield "\n## Presets\n"
    yield PRESETS_INTRODUCTION
    yield from presets()
    yield "\n## `advanced`\n"
    yield "What few runs need to change.\n"
    for name, section in sections(RunConfig):
        if name and (keys := advanced_names(section, name)):
            yield f"### `{ADVANCED}.{name}`\n"
            if section.__doc__:
                yield f"{inspect.cleandoc(section.__doc__)}\n"
            yield from HEAD
            yield from (line(row(name, key, section.model_fields[key])) for key in keys)
            yield ""
    yield "## Shipped configurations\n"
    yield "| name | |"
    yield "|---|---|"
    for path in sorted(CONFIGS.glob("*.yaml")):
        yield f"| `{path.stem}` | {cell(leading_comment(path))} |"


def presets() -> Iterator[str]:
    """The table of presets: a line for each key that one of them sets."""
    yield line(("key", *(f"`{name}`" for name in PRESETS)))
    yield f"|---{'|---' * len(PRESETS)}|"
    written = {name: RunConfig.model_validate({"preset": name}).model_dump() for name in PRESETS}
    for key in dict.fromkeys(key for values in PRESETS.values() for key in values):
        section, name = key.split(".")
        yield line((f"`{key}`", *(as_yaml(values[section][name]) for values in written.values())))


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
    main()

"""A configuration from one YAML file and changes to it, checked whole before anything starts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from autoprune.config import RunConfig
from autoprune.config.layout import ADVANCED, Written, laid_out
from autoprune.config.yaml_text import MOST_BYTES, parse_yaml
from autoprune.errors import ConfigError, cut, shown
from autoprune.foundation.bounds import LARGEST_WHOLE
from autoprune.foundation.paths import user_path

MOST_PARTS = 10  # of a key; `advanced.train.augment.flip` has four
_PACKAGE = Path(__file__).parents[1]
# A wheel holds them inside the package; a checkout has them in the folder above.
SHIPPED_CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str) -> Path:
    """A path as it stands, or a shipped configuration: `demo`, `demo.yaml` or `configs/demo.yaml`.

    Raises `ConfigError` that lists the shipped ones.
    """
    path = user_path(name, field="CONFIG")
    if path.is_file():
        return path
    shipped = {path.stem: path for path in sorted(SHIPPED_CONFIGS.glob("*.yaml"))}
    stem = name.removeprefix("configs/").removesuffix(".yaml")
    if stem not in shipped:
        raise ConfigError(f"{cut(name)}: no such file; shipped configurations are {', '.join(shipped) or '(none)'}")
    return shipped[stem]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML, apply `key.sub=value` overrides, check everything; `ConfigError` names the key and the file."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ConfigError(
                f"{path}: {size:,} bytes; a configuration has at most {MOST_BYTES:,}, is it another file?"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    raw = parse_yaml(text, where=str(path))
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, not a {type(raw).__name__}")
    written = _written(raw, where=str(path))
    said: dict[str, Any] = {}
    for override in overrides:
        written = _overridden(written, override)
        key, _, text = override.removeprefix(f"{ADVANCED}.").partition("=")
        value = yaml.safe_load(text)
        if repr(said.setdefault(key, value)) != repr(value):  # as they are written: `1` is no `true`, `.nan` is itself
            raise ConfigError(
                f"{key}: is set twice, to {shown(said[key])} and {shown(value)}, by -o or an option of its own; leave "
                "one out"
            )
    return _checked(written, where=str(path))


def parse_config(raw: Mapping[str, Any], *, where: str) -> RunConfig:
    """Check plain values, laid out as in a file, in the way of earlier versions too.

    `ConfigError` says all that is wrong, each with its key as it was written, what was got and what is allowed.
    """
    return _checked(_written(raw, where=where), where=where)


def dump_config(config: RunConfig) -> str:
    """YAML of all keys, which `load_config` reads back to an equal configuration, whatever presets become."""
    return yaml.safe_dump(laid_out(config.model_dump(mode="json")), sort_keys=False)


def _written(raw: Mapping[Any, Any], *, where: str) -> Written:
    try:
        return Written.of(raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _checked(written: Written, *, where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(written.values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, written) for problem in error.errors())
        raise ConfigError(f"{where}: {problems}") from None


def _overridden(written: Written, override: str) -> Written:
    key, separator, text = override.partition("=")
    parts = key.split(".")
    where = f"-o {cut(override)}"
    if not separator or not all(parts):
        raise ConfigError(f"{where}: expected key=value, for example -o search.agent=ppo")
    if len(parts) > MOST_PARTS:
        raise ConfigError(f"{where}: no key has {len(parts)} parts")
    value = parse_yaml(text, where=where)
    try:
        return written.overridden(parts, value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except LookupError as error:
        raise ConfigError(f"{where}: {shown(error.args[0])} is not a section") from None


def _explain(problem: Any, written: Written) -> str:
    if problem["type"] == "value_error":  # raised in `autoprune.config`
        message = str(problem["ctx"]["error"])
        if not problem["loc"] and message.startswith("unknown key"):
            message += f", {ADVANCED}"  # which is a file's alone
    elif problem["type"] == "missing":
        message = "is required"
    else:
        message = f"must be {problem['msg'].removeprefix('Input should be ')}, got {shown(problem['input'])}"
        message += _whole_hint(problem)
    return ": ".join(part for part in (written.name_of(problem["loc"]), message) if part)


def _whole_hint(problem: Any) -> str:
    """`1e3`, which YAML takes for a text, where a whole number belongs."""
    value = problem["input"]
    try:
        number = float(value) if problem["type"] == "int_parsing" and isinstance(value, str) else math.nan
    except ValueError:
        return ""
    return f"; write {int(number)}" if abs(number) <= LARGEST_WHOLE and number.is_integer() else ""

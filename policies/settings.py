"""What the settings of searchers may hold; they are dataclasses, and checked when a configuration gives them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from autoprune.config.section import unknown_keys
from autoprune.errors import ConfigError, shown

Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]  # of learning
Count = Annotated[int, Field(gt=0, le=100_000)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Noise = Annotated[float, Field(ge=0, le=10)]  # on actions, which lie in [-1, 1]
Share = Annotated[float, Field(ge=0, le=1)]

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], given: Mapping[str, Any], *, field: str) -> Settings:
    """`given` in place of defaults. Raises `ConfigError` that names the key."""
    _check_keys(kind, given, field)
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([field, *(str(part) for part in first["loc"])])
        raise ConfigError(f"{where}: {first['msg']}, got {shown(first['input'])}") from None


def _check_keys(kind: type[Any], given: Mapping[str, Any], field: str) -> None:
    """Pydantic passes over the keys that a dataclass does not have."""
    types = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"{field}: {unknown_keys(unknown, known)}")
    for key, value in given.items():
        if is_dataclass(types[key]) and isinstance(value, Mapping):
            _check_keys(types[key], value, f"{field}.{key}")

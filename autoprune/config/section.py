"""What all sections of a configuration have in common: known keys, and no number or name that breaks a run midway."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from autoprune.errors import InputError, shown
from autoprune.foundation.paths import checked_name

# Bounds of what any job could want: beyond them a number is a slip, and would run for ever, overflow or be read as 0.
SMALLEST = 1e-12  # of numbers that are not 0: smaller ones vanish where subnormal numbers count as zero
MOST_EPOCHS = 100_000
MOST_IMAGES = 10**9
MOST_MINUTES = 525_600.0  # a year
HIGHEST_RATE = 10.0  # of learning
HEAVIEST = 1e6  # weight of a term beside others
LARGEST_SIZE = 4096  # pixels
LONGEST_KEY = 40  # characters of one that is compared with those that there are


class Section(BaseModel):
    """A mapping of known keys; a section that is left empty in the file means its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Keys of earlier versions, and what became of them; those that changed nothing are still read, as runs wrote them.
    RETIRED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        if raw is None:
            return {}
        if isinstance(raw, cls):
            return raw
        if not isinstance(raw, dict):
            raise ValueError(f"must be a section with the keys {', '.join(cls.model_fields)}, got {shown(raw)}")
        for key in cls.RETIRED.keys() & raw.keys():
            if not _changes_nothing(raw[key]):
                raise ValueError(f"{key} {cls.RETIRED[key]}")
        raw = {key: value for key, value in raw.items() if key not in cls.RETIRED}
        if unknown := [key for key in raw if key not in cls.model_fields]:
            raise ValueError(unknown_keys(unknown, cls.model_fields))
        return raw

    @field_validator("*", mode="before")
    @classmethod
    def _switch_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"must not be true or false, got {value!r}")
        return value

    @field_validator("*")
    @classmethod
    def _no_vanishing_number(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and 0 < abs(number) < SMALLEST:
                raise ValueError(f"must be 0 or at least {SMALLEST:g}, got {number!r}")
        return value


def unknown_keys(unknown: Sequence[Any], allowed: Iterable[str]) -> str:
    """What to say of keys that there are not."""
    allowed = tuple(allowed)
    named = ", ".join(key if isinstance(key, str) and key.isidentifier() else shown(key) for key in unknown[:5])
    near = [name for key in unknown[:5] for name in difflib.get_close_matches(str(key)[:LONGEST_KEY], allowed, n=1)]
    meant = f" (did you mean {', '.join(near)}?)" if near else ""
    return f"unknown key {named}{meant}; allowed are {', '.join(allowed) or 'none'}"


def _changes_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value.get("epochs") == 0)


def names_a_file(value: str | None, info: ValidationInfo) -> str | None:
    """For keys that may name a file: what no file can be called is refused. An empty `name` is for whoever knows all
    names to refuse."""
    if value is not None and (value.strip() or info.field_name != "name"):
        try:
            checked_name(value, field=str(info.field_name))
        except InputError as error:
            raise ValueError(str(error).removeprefix(f"{info.field_name}: ")) from None
    return value


def built_in_or_own(names: Sequence[str], own: str = "path/file.py:factory") -> AfterValidator:
    """A name that is built in, or one that may be of a user's own file."""

    def check(name: str) -> str:
        if name not in names and ":" not in name:
            raise ValueError(f"must be one of {', '.join(names)}, or {own}, got {shown(name)}")
        return name

    return AfterValidator(check)


FileName = Annotated[str, AfterValidator(names_a_file)]
FileNameOrNone = Annotated[str | None, AfterValidator(names_a_file)]
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"  # of something that is no file
PlainName = Annotated[str, Field(pattern=PLAIN_NAME)]
Several = Annotated[int, Field(gt=0, le=1000)]
Epochs = Annotated[int, Field(gt=0, le=MOST_EPOCHS)]
EpochsOrNone = Annotated[int | None, Field(gt=0, le=MOST_EPOCHS)]
Images = Annotated[int, Field(gt=1, le=MOST_IMAGES)]
ImagesOrNone = Annotated[int | None, Field(gt=1, le=MOST_IMAGES)]
Pixels = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Share = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]  # never the whole
Weight = Annotated[float, Field(ge=0, le=HEAVIEST)]
Rate = Annotated[float, Field(gt=0, le=HIGHEST_RATE)]

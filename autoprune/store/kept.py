"""What a step of a job leaves beside the trials, so that a process that goes on takes it from there."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError, with_config

from autoprune.errors import shown
from autoprune.space.policy import PruningPolicy

Value = TypeVar("Value")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
closed = with_config(ConfigDict(extra="forbid"))  # a dataclass whose JSON has its fields and no others


def _policy(raw: object) -> PruningPolicy:
    """Of the channels of each group, or of a text that holds those. Raises `ValueError` for anything else."""
    if isinstance(raw, PruningPolicy):
        return raw
    return PruningPolicy.of_key(raw if isinstance(raw, str) else json.dumps(raw))


KeptPolicy = Annotated[PruningPolicy, BeforeValidator(_policy), PlainSerializer(PruningPolicy.as_dict)]
PolicyKey = Annotated[PruningPolicy, BeforeValidator(_policy), PlainSerializer(lambda policy: policy.key)]  # of a dict


@dataclass(frozen=True)
class Kept(Generic[Value]):
    """A value of one form, in JSON, under a name that no other step of a job takes."""

    name: str
    form: TypeAdapter[Value]

    def text(self, value: Value) -> str:
        """Raises `ValueError` for what could not be read again, such as a number that is not finite."""
        text = self.form.dump_json(value).decode()
        self.read(text)
        return text

    def read(self, text: str) -> Value:
        """Raises `ValueError`, naming the place in it, for a text that is not of the form."""
        try:
            json.loads(text, parse_constant=_refuse)
            return self.form.validate_json(text, strict=True)
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{shown(where)}: {first['msg']}, got {shown(first['input'])}") from None
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")

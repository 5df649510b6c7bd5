"""The facts that a run keeps beside its trials: texts of JSON, checked before anything is made of them."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from autoprune.foundation.bounds import shown

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, strict=True)]
Ladders = dict[str, Annotated[list[Count], Field(min_length=1)]]


class _Form(BaseModel):
    """Only for its checks: the modules that keep a fact read it into what they work with."""

    model_config = ConfigDict(extra="forbid")


class _Residual(_Form):
    length: Positive
    centre: list[Finite]
    spread: list[Finite]
    points: list[list[Finite]]
    weights: list[Finite]


class _Fit(_Form):
    offset_ms: Finite
    scale: Finite
    cold_share: Finite = 0.0
    cache_mb: Finite = 0.0
    spill_mb: Finite = 1.0
    residual: _Residual | None = None


class _Latency(_Form):
    layers: dict[str, Milliseconds]
    fit: _Fit
    ladders: Ladders


class _Mixture(_Form):
    levels: Annotated[list[Count], Field(min_length=1)]
    holds: bool
    worth: Finite
    estimated_latency_ms: Milliseconds


class _Epoch(_Form):
    epoch: Count
    train_loss: Finite
    search_accuracy: Finite
    learning_rate: Finite


class _Original(_Form):
    predicted_latency_ms: Milliseconds
    metric: Finite


class _Timed(_Form):
    policies: Annotated[list[str], Field(min_length=1)]
    latency_error: Positive | None
    target_met: bool
    measured: dict[str, Positive]


class _Frame(_Form):
    original: Finite
    before: Finite
    epochs: Count


# By the name of the fact, without that of the part of the store. Others are records of their own modules, which check
# them (`TrialStore.parsed_fact`); here they have to be JSON.
FORMS: Mapping[str, TypeAdapter[Any]] = {
    "latency": TypeAdapter(_Latency),
    "latency_fit": TypeAdapter(_Fit),
    "ladders": TypeAdapter(Ladders),
    "energy": TypeAdapter(dict[str, Finite]),
    "latency_error": TypeAdapter(Positive | None),
    "files_timed": TypeAdapter(_Timed),
    "finalists": TypeAdapter(dict[str, Finite]),
    "finalists_tried": TypeAdapter(Annotated[int, Field(ge=1, strict=True)]),
    "levels": TypeAdapter(Annotated[list[dict[str, Count]], Field(min_length=1)]),
    "mixtures": TypeAdapter(Annotated[list[_Mixture], Field(min_length=1)]),
    "finetune_log": TypeAdapter(list[_Epoch]),
    "finetune_frame": TypeAdapter(_Frame),
    "original": TypeAdapter(_Original),
}


def check_fact(name: str, text: str) -> None:
    """Raises `ValueError` if `text` cannot be the fact `name`, which may begin with the names of parts of a store."""
    try:
        json.loads(text, parse_constant=_refuse)
        form = FORMS.get(name.rpartition(": ")[2])
        if form is not None:
            form.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{shown(where)}: {first['msg']}, got {shown(first['input'])}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")

"""The schema of `adaptive.json`: what an input-adaptive model was measured to do."""

from typing import Any, Literal

from pydantic import Field, ValidationError

from autoprune.errors import InputError
from autoprune.result import Part, explain


class RouteFigures(Part):
    """Of one exported file on the test split, image by image; the latency of an image is that of one call."""

    test_accuracy: float = Field(ge=0, le=1)
    latency_ms_mean: float = Field(gt=0)
    latency_ms_p50: float = Field(gt=0)
    latency_ms_p95: float = Field(gt=0)
    latency_ms_max: float = Field(gt=0)


class CurvePoint(Part):
    """A router on the search split; its latency is put together from that of the levels' files."""

    router: str
    search_accuracy: float = Field(ge=0, le=1)
    estimated_latency_ms: float = Field(gt=0)
    level_share: tuple[float, ...]


class AdaptiveResult(Part):
    """`adaptive.json`, schema 1; keys that this version does not know are left alone."""

    schema_version: Literal[1] = Field(1, alias="schema")
    original: RouteFigures
    adaptive: RouteFigures
    latency_ratio: float = Field(gt=0)  # of the mean latencies
    router: str  # "cascade" or "learned"
    level_share: tuple[float, ...]  # of the test images, by the level that answered
    level_channels: tuple[dict[str, int], ...]
    level_latency_ms: tuple[float, ...]  # of each level's own file
    level_search_accuracy: tuple[float, ...]
    oracle_on_search: CurvePoint
    curve_on_search: tuple[CurvePoint, ...]
    onnx_bytes: int = Field(gt=0)
    largest_level_onnx_bytes: int = Field(gt=0)
    seed: int
    environment: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def parsed(cls, raw: Any, *, where: str) -> "AdaptiveResult":
        """`InputError` begins with `where` and names the first key that is wrong."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise InputError(f"{where}: not an adaptive result of schema 1 ({explain(error)})") from None

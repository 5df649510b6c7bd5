"""The schema of `adaptive.json`: what an input-adaptive model was measured to do."""

from typing import Any, Literal

from pydantic import Field

from autoprune.results.run import AdaptiveFigures, InputFigures, Part, StaticFigures

RouterName = Literal["cascade", "learned"]


class RouteFigures(Part):
    """Of one exported file on the test split, image by image; the latency of an image is that of one call."""

    test_accuracy: float = Field(ge=0, le=1)
    latency_ms_mean: float = Field(gt=0)
    latency_ms_p50: float = Field(gt=0)
    latency_ms_p95: float = Field(gt=0)
    latency_ms_max: float = Field(gt=0)
    energy_mj: float = Field(gt=0)  # of an image, the mean
    energy_source: Literal["measured", "estimated"]
    energy_sensor: str | None = None


class CurvePoint(Part):
    """A router, or a model without one, on views of the search split's images: each as it is, moved and mirrored, as
    training may. A router's latency is put together from the levels'."""

    router: str
    search_accuracy: float = Field(ge=0, le=1)
    estimated_latency_ms: float = Field(gt=0)
    level_share: tuple[float, ...] = ()


class LevelFigures(Part):
    """A level as a file of its own, without a router; the figures of one that is the original are the original's."""

    channels: dict[str, int]  # kept of each group
    on_search: CurvePoint  # its latency is the median of a call, as measured before the router was chosen
    alone: RouteFigures
    is_original: bool
    is_pruned: bool = False  # the static model of the same run, which shares no weights with other levels


class BudgetFigures(Part):
    """A router on the test split, at the point that was the best within a mean latency on the search split."""

    budget_ms: float = Field(gt=0)
    router: RouterName
    test_accuracy: float = Field(ge=0, le=1)
    estimated_latency_ms: float = Field(gt=0)  # put together from that of the levels' files


class ClassFigures(Part):
    """Of the test images of one class; a class without any is left out."""

    name: str
    images: int = Field(gt=0)
    original_accuracy: float = Field(ge=0, le=1)
    adaptive_accuracy: float = Field(ge=0, le=1)
    latency_ms_mean: float = Field(gt=0)  # of the adaptive file
    level_share: tuple[float, ...]


class Example(Part):
    """A test image, as a picture in the folder `examples`."""

    picture: str
    label: str
    answer: str
    level: int = Field(ge=0)
    latency_ms: float = Field(gt=0)


class Agreement(Part):
    """What the adaptive file answers to every test image beside what the level that ran answers in PyTorch."""

    images: int = Field(gt=0)
    different_answers: int = Field(ge=0)
    largest_logit_difference: float = Field(ge=0)


class MixtureFigures(Part):
    """Levels that were tried together after a short training, on the search split; see `routing.mixture`."""

    max_ratios: tuple[float, ...]
    holds: bool
    search_worth: float
    estimated_latency_ratio: float = Field(gt=0)  # of the original's predicted latency


class AdaptiveResult(Part):
    """`adaptive.json`, schema 3; keys that this version does not know are left alone."""

    schema_version: Literal[3] = Field(3, alias="schema")
    original: RouteFigures
    adaptive: RouteFigures
    pruned: RouteFigures | None  # the static model of the same run, if there is one
    latency_ratio: float = Field(gt=0)  # of the mean latencies, adaptive to original
    static_at_equal_accuracy: StaticFigures
    accuracy_change_ci95: tuple[float, float] | None = None  # adaptive to original, of the same test images
    input: InputFigures | None = None
    router: RouterName
    level_share: tuple[float, ...]  # of the test images, by the level that answered
    agreement: Agreement
    levels: tuple[LevelFigures, ...]
    classes: tuple[ClassFigures, ...]
    easy: tuple[Example, ...]
    hard: tuple[Example, ...]
    mixtures: tuple[MixtureFigures, ...]  # the best first; none if there was nothing to choose
    chosen_on_search: CurvePoint
    estimated_drop_on_search: float | None = None  # of accuracy, by which the point was chosen; see `adaptive.trust`
    original_on_search: CurvePoint
    oracle_on_search: CurvePoint
    curve_on_search: tuple[CurvePoint, ...]
    budgets: tuple[BudgetFigures, ...]  # in rising order; both routers at each
    decision_ms: dict[str, float]  # what one decision of each router takes, measured on search images
    onnx_bytes: int = Field(gt=0)
    largest_level_onnx_bytes: int = Field(gt=0)
    model: str
    data: str
    threads: int = Field(gt=0)  # of each session that was measured
    seed: int
    environment: dict[str, str]

    @property
    def summary(self) -> AdaptiveFigures:
        """What `result.json` says of it."""
        return AdaptiveFigures(
            test_accuracy=self.adaptive.test_accuracy,
            latency_ms_mean=self.adaptive.latency_ms_mean,
            latency_ratio=self.latency_ratio,
            level_share=self.level_share,
            static_at_equal_accuracy=self.static_at_equal_accuracy,
        )

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

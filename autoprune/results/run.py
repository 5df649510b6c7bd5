"""The schema of `result.json`: what a run measured, checked when it is written and when it is read."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

from autoprune.errors import InputError
from autoprune.store.score import Metric, called, shown_metric

HARDLY_BETTER = 1.2  # times what guessing among the classes gets right


class Part(BaseModel):
    """What all results have in common: frozen, finite, keys of later versions left alone."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, populate_by_name=True)


class MetricFigures(Part):
    """The metric of the task that is reported."""

    name: str = "top1"
    higher_is_better: bool = True
    is_share: bool = True  # of the images

    @property
    def label(self) -> str:
        """How it is called on the test split."""
        return f"test {called(self.name)}"

    @property
    def sign(self) -> float:
        """What makes higher values better."""
        return 1.0 if self.higher_is_better else -1.0

    def shown(self, value: float, *, digits: int = 2) -> str:
        return shown_metric(value, is_share=self.is_share, digits=digits)


class MetricValue(MetricFigures):
    """What one model comes to."""

    value: float

    def __str__(self) -> str:
        return f"{self.name} {self.shown(self.value, digits=1)}"

    @classmethod
    def of(cls, name: str, metric: Metric) -> "MetricValue":
        return cls(name=name, value=metric.value, higher_is_better=metric.higher_is_better, is_share=metric.is_share)


class Figures(Part):
    """What was measured of one exported model; accuracy is a fraction of the test split."""

    test_accuracy: float | None = Field(None, ge=0, le=1)  # None: the task is no classification
    test_metric: float | None = None  # the metric that the result names; None: of an earlier version
    params: int = Field(gt=0)
    macs: int = Field(gt=0)
    latency_ms_p50: float = Field(gt=0)
    latency_ms_p95: float = Field(gt=0)
    latency_ms_quiet: float = Field(gt=0)  # of a call that nothing else on the machine disturbed
    energy_mj: float = Field(ge=0)
    energy_source: Literal["measured", "estimated"]
    energy_sensor: str | None = None  # what counted it; the idle power of the device is taken off
    energy_mj_ci95: tuple[float, float] | None = None
    onnx_bytes: int = Field(gt=0)
    peak_rss_bytes: int = Field(gt=0)

    @property
    def quality(self) -> float:
        """The metric on the test split."""
        found = self.test_metric if self.test_accuracy is None else self.test_accuracy
        assert found is not None
        return found

    @model_validator(mode="after")
    def _has_a_metric(self) -> "Figures":
        if self.test_accuracy is None and self.test_metric is None:
            raise ValueError("test_accuracy, or test_metric, must be a number")
        return self

    def of(self, metric: str) -> float:
        """What a target on `metric` bounds."""
        return float(getattr(self, {"latency": "latency_ms_p50", "energy": "energy_mj"}.get(metric, metric)))


class AccuracyFigures(Part):
    """How sure the metrics on the test split are; the change is of the same images, and of the exported files."""

    images: int = Field(gt=0)
    original_ci95: tuple[float, float]
    pruned_ci95: tuple[float, float]
    change: float
    change_ci95: tuple[float, float]


class Ratios(Part):
    """Pruned divided by original; `speedup` is the other way round, of calls a moment apart, and its interval what
    another measurement of the same files finds (`autoprune.measure.stats`)."""

    params: float = Field(gt=0)
    macs: float = Field(gt=0)
    latency: float = Field(gt=0)
    energy: float = Field(ge=0)
    speedup: float = Field(gt=0)
    speedup_ci95: tuple[float, float]
    speedup_quiet: float = Field(gt=0)


class Checks(Part):
    onnx_parity_max_abs: float
    flushed_subnormals: int | None = None  # weights of the pruned model that the export set to zero
    target_met: bool
    narrowed: tuple[str, ...] = ()  # what was cut after the fine-tuning, as its file missed the target, in words


class DropTrial(Part):
    """A cut that was fine-tuned to find what `target.max_drop` allows; accuracies are of the whole search split.

    The drop is over views of its images, as they are, moved and mirrored (`autoprune.data.views`): it is steadier so.

    Ratios are shares of the original's cost, as predicted, in the target's metric.
    """

    ratio: float = Field(gt=0, le=1)  # the limit of this trial's search
    reached: float = Field(gt=0)  # the cost of the policy that it chose
    search_accuracy: float  # or what the task has in its place, with a sign that makes higher values better
    drop: float  # the original's accuracy minus the cut's, of the same views
    drop_se: float  # its standard error: only images that one of the two gets right and the other wrong count
    accepted: bool
    kept: bool = False  # whether this trial's model is the result


class ProposalFigures(Part):
    """The best that one proposer offered where a trained agent, or a stored policy, was applied."""

    proposer: str
    reward: float
    top1: float | None = Field(None, ge=0, le=1)  # on the search split, before any fine-tuning
    metric: MetricValue | None = None  # the same, of any task; None: of an earlier version
    predicted_latency_ms: float = Field(ge=0)
    predicted_latency_ratio: float = Field(ge=0)  # of the original's
    missed: str | None = None  # which limits it breaks; the latency of a timed file is that which was measured
    measured_share: float | None = None  # of its file: latency by what the target allows; None: it was not timed
    evaluations: int = Field(gt=0)  # so many of its policies were scored
    taken: bool = False  # whether this policy is the one that was applied

    @property
    def quality(self) -> MetricValue:
        """The metric on the search split, before any fine-tuning."""
        return self.metric or MetricValue(value=self.top1 or 0.0)


class SearchFigures(Part):
    searcher: str
    evaluations: int  # that the decision took; 0: the policy was given
    wall_s: float
    seed: int
    best_reward: float | None = None  # None: the policy was not scored
    # Spearman, between the reward and how near to the original the candidates come that are fine-tuned a little; None
    # where fewer than four were
    proxy_rank_correlation: float | None = None
    proxy_candidates: int = 0  # so many
    # Of the candidates' files, measured by predicted latency, both as shares of the original's (median)
    latency_error: float | None = None
    max_drop_trials: tuple[DropTrial, ...] = ()  # in their order; none unless the target has max_drop
    proposals: tuple[ProposalFigures, ...] = ()  # of `autoprune apply`; that of the agent or the policy comes first
    warnings: tuple[str, ...] = ()  # of `autoprune apply`: why what was given may not be what is wanted

    @property
    def kept_trial(self) -> DropTrial | None:
        return next((trial for trial in self.max_drop_trials if trial.kept), None)


class InputFigures(Part):
    """How pixels become the exported file's input."""

    shape: tuple[int, int, int]
    scaling: str = "(pixel / 255 - mean) / std per channel"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


class StaticFigures(Part):
    """The fastest model without a router that is as accurate on the test split as an input-adaptive one."""

    model: str
    test_accuracy: float = Field(ge=0, le=1)
    latency_ms_mean: float = Field(gt=0)
    latency_ratio: float = Field(gt=0)  # of the adaptive file's mean latency to this one's


class AdaptiveFigures(Part):
    """The run's input-adaptive model, measured image by image; `adaptive.json` has the rest."""

    test_accuracy: float = Field(ge=0, le=1)
    latency_ms_mean: float = Field(gt=0)
    latency_ratio: float = Field(gt=0)  # of the original's mean latency, image by image
    level_share: tuple[float, ...]
    static_at_equal_accuracy: StaticFigures


class RunResult(Part):
    """`result.json`, schema 1; keys that this version does not know are left alone."""

    schema_version: Literal[1] = Field(1, alias="schema")
    original: Figures
    pruned: Figures
    ratios: Ratios
    checks: Checks
    search: SearchFigures
    adaptive: AdaptiveFigures | None = None
    metric: MetricFigures = MetricFigures()
    accuracy: AccuracyFigures | None = None  # None: of an earlier version
    input: InputFigures | None = None
    environment: dict[str, str] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warnings(self) -> tuple[str, ...]:
        """What takes the meaning from the figures: an original that does hardly better than guessing."""
        if self.input is None or self.original.test_accuracy is None:
            return ()
        found, classes = self.original.test_accuracy, len(self.input.classes)
        if found * classes > HARDLY_BETTER:
            return ()
        return (
            f"the original is right on {found:.1%} of the test images, hardly more than guessing among {classes} "
            f"classes is ({1 / classes:.1%}): it has learnt next to nothing of this data, and what is said of its cuts "
            f"means as little; give model.checkpoint weights that were trained on it",
        )

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def parse_result(raw: Any, *, where: str) -> RunResult:
    """`raw` as schema 1; `InputError` begins with `where` and names the first key that is wrong."""
    try:
        return RunResult.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{where}: not a result of schema 1 ({explain(error)})") from None


def explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]

"""What a run is after: its targets, and what rewards a candidate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from autoprune.config.section import Section, Weight, built_in_or_own

CostName = Literal["latency", "energy", "macs", "params"]
REWARD_FORMS = ("constrained", "weighted", "amc")
FormName = Annotated[str, built_in_or_own(REWARD_FORMS, "path/file.py:function")]


class TargetConfig(Section):
    """`max_ratio` of the original's cost, an absolute `max_value` in `unit`, or the least cost at which the fine-tuned
    model loses at most `max_drop` of accuracy on the search split (a fraction: 0.005 is half a point)."""

    metric: CostName = Field(description="what is limited")
    max_ratio: float | None = Field(None, gt=0, le=1, description="of the original's cost")
    max_value: float | None = Field(None, gt=0, le=1e18, description="an absolute cost, in `unit`")
    unit: Literal["ms", "us", "mj", "count"] | None = Field(None, description="of max_value")
    max_drop: float | None = Field(None, ge=0, lt=1, description="accuracy that may be lost, 0.005: half a point")

    @model_validator(mode="after")
    def _one_bound(self) -> "TargetConfig":
        if sum(bound is not None for bound in (self.max_ratio, self.max_value, self.max_drop)) != 1:
            raise ValueError("give one of max_ratio, max_value with unit, or max_drop")
        allowed = {"latency": {"ms", "us"}, "energy": {"mj"}, "macs": {"count"}, "params": {"count"}}[self.metric]
        if self.max_value is not None and self.unit not in allowed:
            raise ValueError(f"unit of a {self.metric} target must be one of {sorted(allowed)}")
        if self.max_value is None and self.unit is not None:
            raise ValueError(f"{'max_ratio' if self.max_drop is None else 'max_drop'} has no unit")
        return self

    def bound(self, original: float) -> float:
        """The largest allowed cost in ms, mJ or a count, when the original's is `original` in the same unit."""
        if self.max_ratio is not None:
            return self.max_ratio * original
        assert self.max_value is not None, "a cost under max_drop is found, not given"
        return self.max_value / 1000 if self.unit == "us" else self.max_value


class RewardConfig(Section):
    """`form`: constrained = accuracy part alone (the target is met by clipping); weighted = minus cost_weight times
    the cost ratio; amc = -error * log(cost) (He et al. 2018); or path/file.py:function of score and cost ratio."""

    accuracy: str = Field(
        "divergence", description="what a candidate is judged by: divergence from the original, or a metric of the task"
    )
    form: FormName = Field("constrained", description=f"{', '.join(REWARD_FORMS)}, or path/file.py:function")
    cost: CostName = Field("latency", description="which cost counts, in forms that have one")
    cost_weight: Weight = Field(0.0, description="of the cost, in form weighted")

    @field_validator("accuracy")
    @classmethod
    def _usual_name(cls, name: str) -> str:
        return "divergence" if name == "kl" else name  # which it is for image classification

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "RewardConfig":
        if self.cost_weight and self.form != "weighted":
            raise ValueError(f"cost_weight is for form weighted; {self.form} does not use it")
        if self.form == "weighted" and not self.cost_weight:
            raise ValueError("form weighted with a cost_weight of 0 is constrained: give a cost_weight, or that form")
        if self.cost != "latency" and self.form == "constrained":
            raise ValueError("cost is for the other forms; constrained rewards accuracy alone, the target limits costs")
        if self.accuracy != "divergence" and self.form not in ("constrained", "weighted"):
            raise ValueError(f"accuracy is for forms constrained and weighted; {self.form} does not use it")
        return self

"""How a candidate does on the images that it was looked at with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

DIVERGENCE = "divergence"  # the metric that every score has
ROUNDING = 1e-3  # of a divergence, which may come out below zero by it
LARGEST_DIVERGENCE = 1e6  # in nats: float32 outputs of a sound network differ by far less


@dataclass(frozen=True)
class Metric:
    """A mean over examples. One of which lower values are better is a loss, 0 or more; a share lies in 0..1."""

    value: float
    standard_error: float = 0.0
    higher_is_better: bool = True
    is_share: bool = False

    @property
    def merit(self) -> float:
        """The value, with a sign that makes higher ones better."""
        return self.value if self.higher_is_better else -self.value

    def at_best(self, standard_errors: float) -> "Metric":
        """So many standard errors better, as far as there is anything better."""
        doubt = standard_errors * self.standard_error
        if self.higher_is_better:
            return replace(self, value=min(self.value + doubt, 1.0) if self.is_share else self.value + doubt)
        return replace(self, value=max(self.value - doubt, 0.0))


SHARE = Metric(0.0, is_share=True)


def shown_metric(value: float, *, is_share: bool, digits: int = 2) -> str:
    """As people read it: a share in percent."""
    return f"{value:.{digits}%}" if is_share else f"{value:.4g}"


def called(name: str) -> str:
    """What people call a metric."""
    return "accuracy" if name == "top1" else name


def told_merit(merit: float, name: str = "top1", like: Metric = SHARE) -> str:
    """A merit by the metric's own name and sign: "accuracy 91.23%", "error 0.02, lower is better"."""
    value = shown_metric(merit if like.higher_is_better else -merit, is_share=like.is_share)
    return f"{called(name)} {value}{direction(like.higher_is_better)}"


def direction(higher_is_better: bool) -> str:
    """What is said beside a metric of which lower values are better."""
    return "" if higher_is_better else ", lower is better"


@dataclass(frozen=True)
class Score:
    """How a candidate does, by metric: means over images of the search split.

    `divergence` is there whatever the task: how far its outputs are from the original's. The others are the task's, the
    main one first; a metric's mean is an attribute too, as `score.top1` is, with its standard error, `score.top1_se`.

    A candidate is looked at more and more closely: `look` counts from 0, and only the last one is `complete`. Scores of
    one look are of the same images; those of different looks are not, so they compare only through `look`.
    """

    metrics: Mapping[str, Metric] = field(hash=False)
    images: int
    look: int = 0
    complete: bool = True

    @property
    def divergence(self) -> float:
        return self.metrics[DIVERGENCE].value

    @property
    def main(self) -> tuple[str, Metric]:
        """The metric that is reported, by name."""
        return next(((name, metric) for name, metric in self.metrics.items() if name != DIVERGENCE))

    @property
    def is_sound(self) -> bool:
        """Whether the divergence is one that a network can have, and the rest is finite."""
        numbers = [number for metric in self.metrics.values() for number in (metric.value, metric.standard_error)]
        bounded = self.metrics[DIVERGENCE]
        return all(map(math.isfinite, numbers)) and all(
            -ROUNDING <= number <= LARGEST_DIVERGENCE for number in (bounded.value, bounded.standard_error)
        )

    def at_best(self, standard_errors: float) -> "Score":
        """The score with each mean so many standard errors better than it was found."""
        return replace(self, metrics={name: metric.at_best(standard_errors) for name, metric in self.metrics.items()})

    def __getattr__(self, name: str) -> float:
        """For reward forms; `kl` is what image classification calls the divergence."""
        metrics: Mapping[str, Metric] = self.__dict__.get("metrics", {})
        wanted = name.removesuffix("_se")
        metric = metrics.get(wanted) or (metrics.get(DIVERGENCE) if wanted == "kl" else None)
        if metric is None:
            raise AttributeError(f"the score has no {name!r}; its metrics are {', '.join(metrics)}")
        return metric.standard_error if name.endswith("_se") else metric.value

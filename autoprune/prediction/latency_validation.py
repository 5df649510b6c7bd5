"""How well predicted latency agrees with what the exported files then show."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.config import MeasureConfig
from autoprune.data import DataInfo
from autoprune.measure.stats import spearman
from autoprune.prediction.latency_model import LatencyModel, corrected_again
from autoprune.prediction.whole_models import random_policies
from autoprune.pruning.elastic import ElasticModel


@dataclass(frozen=True)
class LatencyValidation:
    """Errors are relative to the measured time; `points` are (predicted_latency_ms, measured_latency_ms).

    `spearman` is NaN where there is no order to agree on: one policy, or figures that are all equal.
    """

    n: int
    median_rel_error: float
    p95_rel_error: float
    spearman: float
    points: tuple[tuple[float, float], ...]


def validate_latency(
    elastic: ElasticModel,
    latency: LatencyModel,
    info: DataInfo,
    *,
    measure: MeasureConfig,
    n: int,
    seed: int,
    table_path: Path | None = None,
) -> LatencyValidation:
    """Export `n` random policies and time them in turn with the models that correct predictions.

    None of the `n` is used for the correction, which is made anew and kept for later runs.
    """
    policies = random_policies(latency.ladders, n, purpose="latency validation", seed=seed)
    latency, measured_ms = corrected_again(elastic, latency, policies, info, measure=measure, table_path=table_path)
    predicted_ms = [latency.predictor.predicted_latency_ms(policy) for policy in policies]
    return compare(predicted_ms, measured_ms)


def compare(predicted_ms: list[float], measured_ms: list[float]) -> LatencyValidation:
    predicted, measured = np.array(predicted_ms), np.array(measured_ms)
    errors = np.abs(predicted / measured - 1)
    return LatencyValidation(
        n=len(predicted),
        median_rel_error=float(np.median(errors)),
        p95_rel_error=float(np.percentile(errors, 95)),
        spearman=spearman(predicted_ms, measured_ms),
        points=tuple(zip(predicted_ms, measured_ms, strict=True)),
    )

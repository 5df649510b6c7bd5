"""How well predicted latency agrees with what the exported files then show."""

from dataclasses import dataclass

import numpy as np

from autoprune.config import MeasureConfig
from autoprune.data import DataInfo
from autoprune.measure.stats import spearman
from autoprune.prediction.latency_fit import fit_latency
from autoprune.prediction.latency_model import model_key
from autoprune.prediction.latency_table import LatencyModel
from autoprune.prediction.whole_models import measure_cuts, random_policies, whole_models

JUDGED_AGAIN = 3


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
    latency: LatencyModel, info: DataInfo, *, measure: MeasureConfig, n: int, seed: int
) -> LatencyValidation:
    """Export `n` random policies, time them in turn with the whole models that correct predictions, and correct by the
    latter anew.

    What others leave of a shared cache changes within minutes, so that only figures of one session can judge each
    other. The new correction, for which none of the `n` is used, is kept in the shared table. A measured latency is the
    mean over `JUDGED_AGAIN` times as many loads as the models of the correction get, among which errors even out.
    """
    policies = random_policies(latency.ladders, n, purpose="latency validation", seed=seed)
    fitted = whole_models(latency.shapes, latency.ladders)
    sums = [latency.sums(policy) for policy in fitted]  # may measure layers, which takes the lock itself
    with latency.table.open_store().measuring() as recorder:
        times_ms = measure_cuts(latency.shapes, [*fitted, *policies * JUDGED_AGAIN], info, measure)
        fit = fit_latency(sums, times_ms[: len(fitted)])
        recorder.add_fit(model_key(latency), fit)
    measured_ms = np.reshape(times_ms[len(fitted) :], (JUDGED_AGAIN, n)).mean(0)
    corrected = latency.corrected(fit)
    predicted_ms = [corrected.predicted_latency_ms(policy) for policy in policies]
    return compare(predicted_ms, measured_ms.tolist())


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

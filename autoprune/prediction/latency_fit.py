"""From the times of a model's layers to that of the whole: a few whole models tell what lies between."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.prediction.latency_residual import LatencyResidual, fit_residual
from autoprune.store.kept import Finite, closed

CACHES_MB = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
SPILLS_MB = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
CLEARLY_SMALLER = 0.7


@dataclass(frozen=True)
class LayerSums:
    """Sums over a model's layers: their times with weights in a cache, what they take longer without, the weights."""

    cached_ms: float
    cold_extra_ms: float
    weights_mb: float
    layers_ms: tuple[float, ...] = ()  # what `cached_ms` is the sum of


@closed
@dataclass(frozen=True)
class LatencyFit:
    """latency = offset_ms + scale * cached_ms + cold_share * spilled(weights_mb) * cold_extra_ms.

    Of weights up to `cache_mb` a call finds all where the last one left them; the share that it does not find rises
    smoothly over the next `spill_mb`, up to `cold_share` (not 1: the processor fetches ahead). `residual`, where enough
    models were measured, says by what factor models like this one differed from that.
    """

    offset_ms: Finite
    scale: Finite
    cold_share: Finite = 0.0
    cache_mb: Finite = 0.0
    spill_mb: Finite = 1.0
    residual: LatencyResidual | None = None

    def apply(self, sums: LayerSums) -> float:
        return self.explained_ms(sums) * (1.0 if self.residual is None else self.residual.factor(sums.layers_ms))

    def explained_ms(self, sums: LayerSums) -> float:
        """Without the residual."""
        return self.offset_ms + self.scale * sums.cached_ms + self.extra_share(sums) * sums.cold_extra_ms

    def extra_share(self, sums: LayerSums) -> float:
        """How much of what its layers take longer without a cache a model pays, 0..`cold_share`."""
        return self.cold_share * spilled(sums.weights_mb, cache_mb=self.cache_mb, spill_mb=self.spill_mb)


def spilled(weights_mb: float, *, cache_mb: float, spill_mb: float) -> float:
    """0 up to `cache_mb`, 1 from `spill_mb` above it, a smooth step between."""
    share = min(1.0, max(0.0, (weights_mb - cache_mb) / spill_mb))
    return share * share * (3 - 2 * share)


def fit_latency(sums: Sequence[LayerSums], measured_ms: Sequence[float]) -> LatencyFit:
    """Least squares on relative errors, over a grid of cache sizes.

    A term that comes out with the wrong sign is left out: more work never makes a prediction smaller. That of the cache
    must also make the errors clearly smaller, or a handful of models is explained by chance. Of many models, what is
    still left is interpolated.
    """
    plain = _fit_terms(sums, measured_ms, None)
    best = min(
        (_fit_terms(sums, measured_ms, size) for size in itertools.product(CACHES_MB, SPILLS_MB)),
        key=lambda fit: _squared_error(fit, sums, measured_ms),
    )
    is_clear = _squared_error(best, sums, measured_ms) < CLEARLY_SMALLER * _squared_error(plain, sums, measured_ms)
    fit = best if best.cold_share > 0 and is_clear else plain
    left = [math.log(ms / fit.explained_ms(entry)) for entry, ms in zip(sums, measured_ms, strict=True)]
    return replace(fit, residual=fit_residual([entry.layers_ms for entry in sums], left))


def _fit_terms(
    sums: Sequence[LayerSums], measured_ms: Sequence[float], cache: tuple[float, float] | None
) -> LatencyFit:
    """The best offset, scale and, for a `cache` (its size, its spill), cold share, as far as their signs make sense."""
    measured = np.array(measured_ms, dtype=float)
    columns = {"offset_ms": np.ones_like(measured), "scale": np.array([entry.cached_ms for entry in sums])}
    sizes = {}
    if cache is not None:
        sizes = {"cache_mb": cache[0], "spill_mb": cache[1]}
        extra = [spilled(entry.weights_mb, **sizes) * entry.cold_extra_ms for entry in sums]
        columns["cold_share"] = np.array(extra)
    for names in (tuple(columns), ("offset_ms", "scale"), ("scale",)):
        design = np.stack([columns[name] for name in names], axis=1) / measured[:, None]
        solution, _, rank, _ = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)
        found = dict(zip(names, solution.tolist(), strict=True))
        fit = LatencyFit(**{"offset_ms": 0.0, **found, **(sizes if "cold_share" in found else {})})
        predicted = [fit.apply(entry) for entry in sums]
        if rank == len(names) and fit.scale > 0 and fit.cold_share >= 0 and min(predicted) > 0:
            return fit
    # Some model's layers take no time by the table, and the others' do not explain theirs: they count at most half.
    cached = columns["scale"]
    scale = min(1.0, float(np.median(measured)) / 2 / float(cached.max())) if cached.any() else 1.0
    return LatencyFit(float(np.median(measured - scale * cached)), scale)


def _squared_error(fit: LatencyFit, sums: Sequence[LayerSums], measured_ms: Sequence[float]) -> float:
    return sum((fit.apply(entry) / ms - 1) ** 2 for entry, ms in zip(sums, measured_ms, strict=True))

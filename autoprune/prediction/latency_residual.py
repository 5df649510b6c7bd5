"""What whole models take beyond what the sum of their layers explains, interpolated between measured models."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.store.kept import Finite, Positive, closed

LEAST_MODELS = 30  # fewer say too little of a space of many layers
LENGTHS = (0.7, 1.0, 1.5, 3.0)  # how far a model speaks for others, in standard deviations of the layers' times
NOISES = (0.3, 1.0, 3.0)  # variance of what is noise, in units of that of what is not
CLEARLY_SMALLER = 0.9
CONSTANT = 1e9  # the spread of what does not vary; finite, so that it can be stored as JSON

Array = NDArray[np.float64]


@closed
@dataclass(frozen=True)
class LatencyResidual:
    """Gaussian-process regression of log(measured / explained) on the times of the layers.

    `points` are the standardised times of the measured models. Far from all of them the prediction is 0.
    """

    length: Positive
    centre: tuple[Finite, ...]
    spread: tuple[Finite, ...]
    points: tuple[tuple[Finite, ...], ...]
    weights: tuple[Finite, ...]

    def factor(self, layers_ms: Sequence[float]) -> float:
        """exp of the prediction for a model whose layers take so long, in the order of the measured ones."""
        centre, spread, points, weights = self._arrays
        point = (np.array(layers_ms) - centre) / spread
        return math.exp(float(_kernel(points, point[None], self.length)[:, 0] @ weights))

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return np.array(self.centre), np.array(self.spread), np.array(self.points), np.array(self.weights)


def fit_residual(layers_ms: Sequence[Sequence[float]], log_ratios: Sequence[float]) -> LatencyResidual | None:
    """Interpolate `log_ratios` (models,) over `layers_ms` (models, layers); None if that explains nothing.

    Length and noise are those with the smallest error on models left out one by one, which needs no refit (Rasmussen &
    Williams 2006, equations 2.25 and 5.12). Models whose layers are not told apart (rows of no layers) explain nothing.
    """
    if len(log_ratios) < LEAST_MODELS or not layers_ms[0]:
        return None
    times, ratios = np.array(layers_ms, dtype=float), np.array(log_ratios, dtype=float)
    centre, spread = times.mean(0), times.std(0)
    spread[spread <= 1e-9 * np.abs(centre)] = CONSTANT  # a layer that is the same in all models tells nothing
    points = (times - centre) / spread
    best_error, best = CLEARLY_SMALLER * float(np.mean(ratios**2)), None
    for length, noise in itertools.product(LENGTHS, NOISES):
        inverse = np.linalg.inv(_kernel(points, points, length) + noise * np.eye(len(points)))
        weights = inverse @ ratios
        error = float(np.mean((weights / np.diag(inverse)) ** 2))
        if error < best_error:
            best_error, best = error, (length, weights)
    if best is None:
        return None
    length, weights = best
    return LatencyResidual(
        length,
        tuple(centre.tolist()),
        tuple(spread.tolist()),
        tuple(tuple(point) for point in points.tolist()),
        tuple(weights.tolist()),
    )


def _kernel(first: Array, second: Array, length: float) -> Array:
    """Squared exponential of the mean squared difference: (n, layers), (m, layers) to (n, m)."""
    squares = np.square(first[:, None] - second[None]).mean(2)
    kernel: Array = np.exp(-squares / (2 * length**2))
    return kernel

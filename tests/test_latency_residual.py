"""What is left of whole models is interpolated where it has a shape, and left alone where it has none."""

import math

import numpy as np
import pytest

from autoprune.prediction.latency_fit import LayerSums, fit_latency
from autoprune.prediction.latency_residual import LEAST_MODELS, LatencyResidual, fit_residual
from autoprune.prediction.table_store import FIT


def layers(count: int, seed: int = 0) -> np.ndarray:
    """(count, 4) times; the last layer takes the same in all models."""
    times = np.random.default_rng(seed).uniform(0.1, 1.0, (count, 4))
    times[:, 3] = 0.2
    return times


def log_ratio(times: np.ndarray) -> np.ndarray:
    """Up to 15%: two layers that disturb each other."""
    return 0.15 * np.tanh(6 * (times[:, 0] - 0.55)) * (times[:, 1] > 0.4)


def test_a_smooth_residual_is_found() -> None:
    known, new = layers(80), layers(200, seed=1)
    residual = fit_residual(known.tolist(), log_ratio(known).tolist())
    assert residual is not None
    left = [math.log(residual.factor(times)) - expected for times, expected in zip(new, log_ratio(new), strict=True)]
    assert np.std(left) < 0.6 * np.std(log_ratio(new))


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_explained(seed: int) -> None:
    known = layers(80)
    noise = np.random.default_rng(seed).normal(0, 0.02, 80)
    residual = fit_residual(known.tolist(), noise.tolist())
    if residual is not None:  # by chance; then it must be small
        assert np.std([math.log(residual.factor(times)) for times in layers(200, seed=1)]) < 0.012


def test_a_few_models_are_not_interpolated() -> None:
    known = layers(LEAST_MODELS - 1)
    assert fit_residual(known.tolist(), log_ratio(known).tolist()) is None


def test_the_factor_by_hand() -> None:
    """At the only point: exp(w). One standard deviation away in one of two layers: w * exp(-(1 / 2) / 2)."""
    residual = LatencyResidual(1.0, (1.0, 2.0), (0.5, 0.1), ((0.0, 0.0),), (0.1,))
    assert residual.factor((1.0, 2.0)) == pytest.approx(math.exp(0.1))
    assert residual.factor((1.5, 2.0)) == pytest.approx(math.exp(0.1 * math.exp(-0.25)))
    assert residual.factor((100.0, 2.0)) == 1.0


def test_leaving_one_out_needs_no_refit() -> None:
    """Among all lengths and noises the choice is the one whose refits without each model do best."""
    known = layers(40)
    ratios = log_ratio(known) + np.random.default_rng(0).normal(0, 0.01, 40)
    residual = fit_residual(known.tolist(), ratios.tolist())
    assert residual is not None
    points = np.array(residual.points)

    def kernel(first: np.ndarray, second: np.ndarray, length: float) -> np.ndarray:
        return np.exp(-np.square(first[:, None] - second[None]).mean(2) / 2 / length**2)

    errors = {}
    for length in (0.7, 1.0, 1.5, 3.0):
        for noise in (0.3, 1.0, 3.0):
            left = []
            for index in range(40):
                others = np.arange(40) != index
                system = kernel(points[others], points[others], length) + noise * np.eye(39)
                weights = np.linalg.solve(system, ratios[others])
                left.append(ratios[index] - kernel(points[[index]], points[others], length)[0] @ weights)
            errors[length, noise] = float(np.mean(np.square(left)))
    length, noise = min(errors, key=lambda pair: errors[pair])
    assert residual.length == length
    expected = np.linalg.solve(kernel(points, points, length) + noise * np.eye(40), ratios)
    np.testing.assert_allclose(residual.weights, expected, rtol=1e-6, atol=1e-12)


def test_a_fit_with_a_residual_is_stored_and_predicts_better() -> None:
    known, new = layers(80), layers(200, seed=1)

    def sums(times: np.ndarray) -> list[LayerSums]:
        return [LayerSums(sum(row), 0.0, 1.0, tuple(row)) for row in times.tolist()]

    def measured(times: np.ndarray) -> list[float]:
        return ((0.05 + 1.1 * times.sum(1)) * np.exp(log_ratio(times))).tolist()

    fit = fit_latency(sums(known), measured(known))
    assert fit.residual is not None
    again = FIT.read(FIT.text(fit))
    assert again == fit
    truth = np.array(measured(new))
    with_residual = np.abs(np.array([again.apply(entry) for entry in sums(new)]) / truth - 1)
    without = np.abs(np.array([fit.explained_ms(entry) for entry in sums(new)]) / truth - 1)
    assert with_residual.mean() < 0.7 * without.mean()

"""Errors and rank correlation by hand, and a validation of a small network on real files."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import SMALL_NETS, elastic_net

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.data import DataInfo
from autoprune.prediction import layer_bench, whole_models
from autoprune.prediction.latency_model import build_latency_model
from autoprune.prediction.latency_validation import compare, validate_latency
from autoprune.prediction.whole_models import random_policies
from autoprune.pruning.cost import CutShapes

TIMES = st.lists(st.floats(0.01, 100), min_size=2, max_size=30)


def test_errors_by_hand() -> None:
    """Relative to what was measured: 10%, 50%, 0% and 20%; the 95th percentile lies 85% of the way from 20% to 50%."""
    found = compare([1.1, 1.0, 3.0, 8.0], [1.0, 2.0, 3.0, 10.0])
    assert found.n == 4
    assert found.median_rel_error == pytest.approx(0.15)
    assert found.p95_rel_error == pytest.approx(0.2 + 0.85 * 0.3)
    assert found.points == ((1.1, 1.0), (1.0, 2.0), (3.0, 3.0), (8.0, 10.0))


def test_ranks_by_hand() -> None:
    """Without ties 1 - 6 * sum of squared differences / (n (n² - 1)): ranks 2 1 3 4 and 1 2 3 4 give 1 - 12 / 60."""
    assert compare([1.1, 1.0, 3.0, 8.0], [1.0, 2.0, 3.0, 10.0]).spearman == pytest.approx(0.8)
    assert compare([1, 2, 3], [10, 200, 201]).spearman == pytest.approx(1)
    assert compare([1, 2, 3], [3, 2, 1]).spearman == pytest.approx(-1)


def test_ties_share_their_mean_rank() -> None:
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 of the roots of 4.5 and 5."""
    assert compare([1, 5, 5, 9], [1, 2, 3, 4]).spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize(
    ("predicted", "measured"), [([2.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])]
)
def test_without_an_order_there_is_no_correlation(predicted: list[float], measured: list[float]) -> None:
    found = compare(predicted, measured)
    assert math.isnan(found.spearman)
    assert math.isfinite(found.median_rel_error)


@given(TIMES, st.floats(1.1, 3))
def test_a_constant_factor_is_an_error_but_no_disorder(times: list[float], factor: float) -> None:
    times = [round(time, 6) for time in times]  # two that differ by a bit alone may be one number times the factor
    found = compare([factor * time for time in times], times)
    assert found.median_rel_error == pytest.approx(factor - 1)
    assert found.p95_rel_error == pytest.approx(factor - 1)
    assert found.spearman == pytest.approx(1) if len(set(times)) > 1 else math.isnan(found.spearman)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=20))
def test_a_correlation_lies_between_minus_one_and_one(pairs: list[tuple[int, int]]) -> None:
    predicted, measured = [float(first) for first, _ in pairs], [float(second) for _, second in pairs]
    there, back = compare(predicted, measured).spearman, compare(measured, predicted).spearman
    assert math.isnan(there) or -1 - 1e-9 <= there <= 1 + 1e-9
    assert there == pytest.approx(back, nan_ok=True)


def test_a_small_network_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policies are others than those that the predictor was fitted to; the fit made among them is kept."""
    monkeypatch.setattr(whole_models, "BY_WEIGHT_BYTES", ((0.0, 3),))
    monkeypatch.setattr(whole_models, "SECONDS_A_LOAD", 0.04)
    monkeypatch.setattr(layer_bench, "SECONDS_A_LAYER", 0.02)
    elastic, shape = elastic_net("flatten"), SMALL_NETS["flatten"].input_shape
    info = DataInfo("test", ("a", "b"), *shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    search, measure = SearchConfig(min_keep=0.3, max_rungs=3), MeasureConfig()
    shapes, table = CutShapes(elastic, shape), tmp_path / "table.sqlite"
    latency = build_latency_model(shapes, info, search=search, measure=measure, table_path=table)
    found = validate_latency(latency, info, measure=measure, n=3, seed=0)
    assert (found.n, len(found.points)) == (3, 3)
    assert 0 <= found.median_rel_error <= found.p95_rel_error < math.inf
    policies = random_policies(latency.ladders, 3, purpose="latency validation", seed=0)
    again = build_latency_model(shapes, info, search=search, measure=measure, table_path=table)
    assert again.ladders == latency.ladders
    assert again.fit != latency.fit
    assert [point[0] for point in found.points] == [again.predicted_latency_ms(each) for each in policies]
    assert all(0 < measured_ms < 1000 for _, measured_ms in found.points)

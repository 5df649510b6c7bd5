"""Staircases and fits by hand; layers are measured once, in ONNX Runtime, when they are first asked for."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import SMALL_NETS, elastic_net, random_policy

from autoprune.cost import CutShapes, LayerShape
from autoprune.latency_table import (
    AffineFit,
    LatencyPredictor,
    LatencyTable,
    candidate_widths,
    fit_affine,
    measure_layer_ms,
    staircase,
)

CONV = LayerShape("conv", 3, 8, (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 9), (5, 5), bias=True)
DEPTHWISE = LayerShape("depthwise", 6, 6, (3, 1), (1, 1), (1, 0), (1, 1), 6, (4, 4), (4, 4), bias=False)
GROUPED = LayerShape("conv", 6, 4, (3, 3), (1, 1), (2, 2), (2, 2), 2, (5, 7), (5, 7), bias=False)
LINEAR = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 1), (1, 1), bias=True)
ROWS = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (7, 1), (7, 1), bias=True)


@pytest.mark.parametrize(
    ("channels", "min_keep", "max_rungs", "expected"),
    [
        (64, 0.125, 8, (8, 16, 24, 32, 40, 48, 56, 64)),
        (64, 0.3, 8, (24, 32, 40, 48, 56, 64)),
        (10, 0.1, 4, (1, 4, 7, 10)),
        (10, 0.2, 4, (4, 7, 10)),
        (3, 0.01, 8, (1, 2, 3)),
        (5, 1.0, 8, (5,)),
        (1, 0.125, 8, (1,)),
    ],
)
def test_candidate_widths_by_hand(channels: int, min_keep: float, max_rungs: int, expected: tuple[int, ...]) -> None:
    assert candidate_widths(channels, min_keep=min_keep, max_rungs=max_rungs) == expected


@given(st.integers(1, 3000), st.floats(0.001, 1), st.integers(2, 40))
def test_candidate_widths_are_few_and_end_at_full(channels: int, min_keep: float, max_rungs: int) -> None:
    widths = candidate_widths(channels, min_keep=min_keep, max_rungs=max_rungs)
    assert widths[-1] == channels
    assert 1 <= len(widths) <= max_rungs
    assert widths[0] >= max(1, round(min_keep * channels))
    assert len({after - before for before, after in itertools.pairwise(widths)}) <= 1


def test_a_staircase_by_hand() -> None:
    """Times as they were seen once: 24 is no faster than 32, and 48 is hardly faster than 49."""
    times = {8: 62, 16: 62.5, 17: 117, 24: 150, 31: 253, 32: 150, 48: 298, 49: 300, 63: 707, 64: 486}
    assert staircase(tuple(times), times.__getitem__) == (16, 17, 32, 49, 64)


def test_a_flat_or_rising_staircase_has_one_step() -> None:
    assert staircase((2, 4, 8), lambda width: 1.0) == (8,)
    assert staircase((2, 4, 8), lambda width: 1.0 / width) == (8,)
    assert staircase((4, 8, 2), float) == (2, 4, 8)


@pytest.mark.parametrize("shape", [CONV, DEPTHWISE, GROUPED, LINEAR, ROWS], ids=lambda shape: shape.kind)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_layers_are_measured_alone(shape: LayerShape, batch_size: int) -> None:
    assert 0 < measure_layer_ms(shape, threads=1, batch_size=batch_size) < 1000


def test_a_layer_is_measured_once() -> None:
    table = LatencyTable(threads=1, batch_size=1)
    assert table.entries == {}
    first = table.layer_ms(CONV)
    assert table.entries == {CONV: first}
    assert table.layer_ms(CONV) == first
    assert table.sum_ms([CONV, LINEAR, CONV]) == pytest.approx(2 * first + table.entries[LINEAR])
    assert list(table.entries) == [CONV, LINEAR]


def test_a_known_table_measures_nothing() -> None:
    """A time that no measurement gives."""
    table = LatencyTable(threads=1, batch_size=1, entries={CONV: -1.0})
    assert table.sum_ms([CONV, CONV]) == -2.0


def test_tables_go_through_json() -> None:
    table = LatencyTable(threads=2, batch_size=4, entries={CONV: 0.25, DEPTHWISE: 0.1, LINEAR: 1e-3})
    rows = json.loads(json.dumps(table.as_json()))
    read = LatencyTable.from_json(rows, threads=2, batch_size=4)
    assert (read.threads, read.batch_size) == (2, 4)
    assert read.entries == table.entries
    assert list(read.entries) == list(table.entries)


def test_an_affine_fit_finds_known_coefficients() -> None:
    sums = [0.1, 0.2, 0.5, 1.0]
    fit = fit_affine(sums, [0.03 + 1.2 * each for each in sums])
    assert fit.offset_ms == pytest.approx(0.03)
    assert fit.scale == pytest.approx(1.2)
    assert fit.apply(2.0) == pytest.approx(2.43)


def test_relative_errors_count() -> None:
    """An outlier of 10% weighs as much at a large model as at a small one."""
    sums = np.linspace(1, 100, 20)
    noise = np.where(np.arange(20) % 2 == 0, 1.1, 0.9)
    fit = fit_affine(sums.tolist(), (2 * sums * noise).tolist())
    residuals = np.array([fit.apply(each) for each in sums]) / (2 * sums * noise) - 1
    assert abs(residuals).max() < 0.15


@pytest.mark.parametrize(
    ("sums", "measured", "ratio"),
    [
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], 1.0),  # larger models would be faster
        ([1.0, 2.0, 3.0], [10.0, 0.1, 1.0], 1 / 3),  # the smallest would take no time
    ],
)
def test_a_fit_that_makes_no_sense_falls_back_to_a_ratio(
    sums: list[float], measured: list[float], ratio: float
) -> None:
    fit = fit_affine(sums, measured)
    assert fit.offset_ms == 0.0
    assert fit.scale == pytest.approx(ratio)


def test_a_prediction_is_the_corrected_sum_over_layers() -> None:
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    policy = random_policy(elastic, 0)
    layers = list(shapes.layers(policy).values())
    entries = {layer: 0.01 * (index + 1) for index, layer in enumerate(layers)}
    predictor = LatencyPredictor(shapes, LatencyTable(threads=1, batch_size=1, entries=entries), AffineFit(0.5, 2.0))
    assert len(entries) == 4
    assert predictor.predicted_latency_ms(policy) == pytest.approx(0.5 + 2 * (0.01 + 0.02 + 0.03 + 0.04))

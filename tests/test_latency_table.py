"""Fits and predictions by hand; layers are measured once, in ONNX Runtime, when they are first asked for."""

import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import SMALL_NETS, elastic_net, random_policy
from torch import nn

from autoprune.errors import InputError
from autoprune.measure.device import this_device
from autoprune.prediction import latency_table
from autoprune.prediction.latency_fit import LatencyFit, LayerSums, fit_latency, spilled
from autoprune.prediction.latency_table import LatencyModel, LatencyTable, in_all_conditions
from autoprune.prediction.layer_bench import EPILOGUE_OPS, LayerInGraph, _layer_model, measure_layers
from autoprune.prediction.table_store import TableStore
from autoprune.pruning.cost import CutShapes, LayerShape
from autoprune.pruning.elastic import ElasticModel
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.space.policy import PruningPolicy

CONV = LayerShape("conv", 3, 8, (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 9), (5, 5), bias=True)
DEPTHWISE = LayerShape("depthwise", 6, 6, (3, 1), (1, 1), (1, 0), (1, 1), 6, (4, 4), (4, 4), bias=False)
GROUPED = LayerShape("conv", 6, 4, (3, 3), (1, 1), (2, 2), (2, 2), 2, (5, 7), (5, 7), bias=False)
LINEAR = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 1), (1, 1), bias=True)
ROWS = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (7, 1), (7, 1), bias=True)
SHAPES = (CONV, DEPTHWISE, GROUPED, LINEAR, ROWS)
DEVICE = this_device(OnnxRuntime(), threads=1, batch_size=1)


def _with_output_shape(content: bytes) -> onnx.ModelProto:
    """The runtime needs no shape of the output, the checker does."""
    model = onnx.load_from_string(content)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.HasField("shape")
    return inferred


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_every_kind_of_layer_is_measured(shape: LayerShape) -> None:
    epilogues = [(), ("Relu",)] if shape.kind == "linear" else [(), *((op,) for op in EPILOGUE_OPS), ("Add", "Relu")]
    layers = [LayerInGraph(shape, epilogue) for epilogue in epilogues]
    for layer in layers:
        onnx.checker.check_model(_with_output_shape(_layer_model(layer)), full_check=True)
    for batch_size in (1, 3):
        times_ms = measure_layers(layers, OnnxRuntime(), this_device(OnnxRuntime(), threads=1, batch_size=batch_size))
        assert list(times_ms) == layers
        assert all(0 <= ms < 100 for ms in times_ms.values())


def test_a_hundred_times_the_work_takes_longer() -> None:
    large = replace(CONV, in_channels=64, out_channels=96, in_size=(28, 28), out_size=(14, 14))
    times_ms = measure_layers([LayerInGraph(CONV), LayerInGraph(large)], OnnxRuntime(), DEVICE)
    assert times_ms[LayerInGraph(large)] > times_ms[LayerInGraph(CONV)]


@given(st.sampled_from(SHAPES), st.lists(st.sampled_from(EPILOGUE_OPS), max_size=3), st.integers(1, 512))
def test_keys_go_back_to_layers(shape: LayerShape, epilogue: list[str], channels: int) -> None:
    layer = LayerInGraph(shape.resized(in_channels=channels, out_channels=channels + 1), tuple(epilogue))
    assert LayerInGraph.from_key(layer.key) == layer


def no_store() -> TableStore:
    raise AssertionError("measured")


def stored(store: TableStore) -> LatencyTable:
    return LatencyTable(OnnxRuntime(), DEVICE, store.layers(), open_store=lambda: store)


def test_a_layer_is_measured_once(tmp_path: Path) -> None:
    table = stored(TableStore(tmp_path / "table.sqlite", DEVICE.key))
    first = table.layer_ms(LayerInGraph(CONV))
    assert table.entries == {LayerInGraph(CONV): first}
    assert table.layer_ms(LayerInGraph(CONV)) == first


def test_a_known_table_measures_nothing() -> None:
    """A time that no measurement gives."""
    table = LatencyTable(OnnxRuntime(), DEVICE, {LayerInGraph(CONV): -1.0}, no_store)
    assert table.layer_ms(LayerInGraph(CONV)) == -1.0


def test_another_table_of_the_same_file_knows_it(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "table.sqlite", DEVICE.key)
    first = stored(store)
    first.ensure([LayerInGraph(CONV), LayerInGraph(LINEAR)])
    assert stored(store).entries == first.entries


def cached(*sums_ms: float) -> list[LayerSums]:
    """Models with few weights: no cache makes a difference."""
    return [LayerSums(ms, 0.0, 0.0) for ms in sums_ms]


def test_a_fit_finds_known_coefficients() -> None:
    sums = cached(0.1, 0.2, 0.5, 1.0, 0.7)
    fit = fit_latency(sums, [0.03 + 1.2 * entry.cached_ms for entry in sums])
    assert (fit.offset_ms, fit.scale, fit.cold_share) == pytest.approx((0.03, 1.2, 0.0))
    assert fit.apply(LayerSums(2.0, 5.0, 1.0)) == pytest.approx(2.43)


def large(count: int = 40) -> list[LayerSums]:
    """Models of 1 … 50 MB; what they take longer cold has little to do with what they take."""
    generator = np.random.default_rng(0)
    weights = np.linspace(1, 50, count)
    return [
        LayerSums(float(generator.uniform(0.2, 2)), float(0.03 * mb * generator.uniform(0.7, 1.3)), float(mb))
        for mb in weights
    ]


def test_a_fit_finds_the_cache() -> None:
    """16 MB of it, and another 24 MB until nothing is found there any more: both are on the grid."""
    truth = LatencyFit(0.01, 1.1, 0.6, cache_mb=16.0, spill_mb=24.0)
    fit = fit_latency(large(), [truth.apply(entry) for entry in large()])
    assert dataclasses.astuple(fit) == pytest.approx(dataclasses.astuple(truth))


def test_no_cache_is_seen_in_noise() -> None:
    noise = np.random.default_rng(1).normal(1, 0.01, 14)
    fit = fit_latency(large(14), [1.1 * entry.cached_ms * error for entry, error in zip(large(14), noise, strict=True)])
    assert fit.cold_share == 0.0
    assert fit.scale == pytest.approx(1.1, rel=0.02)


def test_weights_that_would_make_a_model_faster_do_not_count() -> None:
    measured = [0.5 + entry.cached_ms - 0.3 * entry.cold_extra_ms for entry in large()]
    assert fit_latency(large(), measured).cold_share == 0.0


@pytest.mark.parametrize(
    ("cached_ms", "offset_ms", "scale"),
    [
        ((0.5, 0.0, 0.1), 1.9, 1.0),  # medians: measured 2, measured less layers 1.9
        ((4.0, 0.0, 0.5), 1.875, 0.25),  # 4 ms would be more than was measured: 2 / 2 / 4 of it
        ((0.0, 0.0, 0.0), 2.0, 1.0),
    ],
)
def test_layers_that_take_no_time_and_explain_nothing_leave_an_offset(
    cached_ms: tuple[float, ...], offset_ms: float, scale: float
) -> None:
    """The empty model is the slowest, so that the best scale would be negative."""
    fit = fit_latency(cached(*cached_ms), [1.0, 3.0, 2.0])
    assert (fit.offset_ms, fit.scale) == pytest.approx((offset_ms, scale))
    assert all(fit.apply(entry) > 0 for entry in cached(*cached_ms, 9.0))


@pytest.mark.parametrize(
    ("mb", "share"), [(0, 0.0), (10, 0.0), (15, 0.15625), (20, 0.5), (25, 0.84375), (30, 1.0), (99, 1)]
)
def test_what_a_cache_does_not_hold_by_hand(mb: float, share: float) -> None:
    """10 MB are found, 30 MB and more are not; x * x * (3 - 2 * x) between."""
    assert spilled(mb, cache_mb=10.0, spill_mb=20.0) == pytest.approx(share)


@pytest.mark.parametrize(
    ("sums", "measured", "ratio"),
    [
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], 1.0),  # larger models would be faster
        ([1.0, 2.0, 3.0], [10.0, 0.1, 1.0], 1 / 3),  # the smallest would take no time
    ],
)
def test_a_fit_that_makes_no_sense_falls_back(sums: list[float], measured: list[float], ratio: float) -> None:
    fit = fit_latency(cached(*sums), measured)
    assert fit.scale > 0 and fit.offset_ms + fit.scale * min(sums) > 0
    assert (fit.offset_ms, fit.cold_share) == (0.0, 0.0)


def test_relative_errors_count() -> None:
    """An outlier of 10% weighs as much at a large model as at a small one."""
    sums = np.linspace(1, 100, 20)
    noise = np.where(np.arange(20) % 2 == 0, 1.1, 0.9)
    fit = fit_latency(cached(*sums.tolist()), (2 * sums * noise).tolist())
    residuals = np.array([fit.apply(entry) for entry in cached(*sums.tolist())]) / (2 * sums * noise) - 1
    assert abs(residuals).max() < 0.15


def test_a_prediction_is_the_corrected_sum_over_layers() -> None:
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    policy = random_policy(elastic, 0)
    after = {name: ("Relu",) if shape.kind == "conv" else () for name, shape in shapes.original.items()}
    layers = [LayerInGraph(shape, after[name]) for name, shape in shapes.layers(policy).items()]
    entries = {layer: 0.01 * (index + 1) for index, layer in enumerate(layers)}
    assert len(entries) == 4
    table = LatencyTable(OnnxRuntime(), DEVICE, entries, no_store)
    predictor = LatencyModel(shapes, after, table, LatencyFit(0.5, 2.0), ladders={})
    expected = 0.5 + 2 * (0.01 + 0.02 + 0.03 + 0.04)
    assert predictor.predicted_latency_ms(policy) == pytest.approx(expected)
    assert sum(predictor.layers_ms(policy).values()) == pytest.approx(expected - 0.5)
    predictor.table.entries.clear()  # a second look-up needs the table no more
    assert predictor.predicted_latency_ms(policy) == pytest.approx(expected)
    assert predictor.table.entries == {}


def test_one_slope_by_hand() -> None:
    """Least squares on the ratios 1/3, 1 and 3: their sum, 13/3, over the sum of their squares, 91/9."""
    fit = fit_latency(cached(1.0, 2.0, 3.0), [3.0, 2.0, 1.0])
    assert (fit.offset_ms, fit.scale) == pytest.approx((0.0, 3 / 7))
    assert fit_latency(cached(2.0), [3.0]) == LatencyFit(0.0, pytest.approx(1.5))


def test_a_heavy_layer_is_measured_cold_too() -> None:
    """48 * 48 * 9 * 4 = 82,944 bytes of weights are few, 96 * 96 * 9 * 4 = 331,776 are many."""
    light, heavy = (LayerInGraph(replace(CONV, in_channels=n, out_channels=n, bias=False)) for n in (48, 96))
    assert (light.weight_bytes, heavy.weight_bytes) == (82_944, 331_776)
    assert in_all_conditions(light) == (light,)
    assert in_all_conditions(heavy) == (heavy, replace(heavy, cold=True))


def test_a_model_that_leaves_the_cache_pays_for_its_heavy_layers() -> None:
    """One layer of 331,776 bytes: 1 ms cached, 4 ms cold. Nothing stays in a cache of 0 MB."""
    net = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    elastic = ElasticModel(net, (), {})
    shapes = CutShapes(elastic, (96, 4, 4))
    [shape] = shapes.original.values()
    layer = LayerInGraph(shape)
    table = LatencyTable(OnnxRuntime(), DEVICE, {layer: 1.0, replace(layer, cold=True): 4.0}, no_store)
    fit = LatencyFit(0.0, 1.0, 0.5, cache_mb=0.0, spill_mb=0.001)
    predictor = LatencyModel(shapes, {"0": ()}, table, fit, ladders={})
    assert predictor.sums(elastic.full_policy) == LayerSums(1.0, 3.0, pytest.approx(0.331776), (1.0,))
    assert predictor.predicted_latency_ms(elastic.full_policy) == pytest.approx(1.0 + 0.5 * 3.0)
    assert predictor.layers_ms(elastic.full_policy) == {"0": pytest.approx(2.5)}


POSITIVE = st.floats(0.01, 100)


@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=16))
def test_more_work_never_makes_a_prediction_smaller(models: list[tuple[float, float, float, float]]) -> None:
    """Whatever was measured; and no model of the fit comes out at nothing or less."""
    sums = [LayerSums(ms, extra_ms, mb) for ms, extra_ms, mb, _ in models]
    fit = fit_latency(sums, [measured for *_, measured in models])
    assert fit.scale > 0
    assert fit.cold_share >= 0
    assert all(fit.apply(entry) > 0 for entry in sums)


def test_given_times_outrank_those_of_the_file(tmp_path: Path) -> None:
    """What was not given comes from the file, which is opened when it is asked for."""
    store = TableStore(tmp_path / "table.sqlite", DEVICE.key)
    with store.measuring() as recorder:
        recorder.add({LayerInGraph(CONV): 1.0, LayerInGraph(LINEAR): 2.0})
    table = LatencyTable(OnnxRuntime(), DEVICE, {LayerInGraph(CONV): 3.0}, lambda: store)
    table.ensure([LayerInGraph(CONV), LayerInGraph(LINEAR)])
    assert table.entries == {LayerInGraph(CONV): 3.0, LayerInGraph(LINEAR): 2.0}


def test_chunks_that_were_finished_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of five layers cannot be made: its epilogue is no operation."""
    monkeypatch.setattr(latency_table, "CHUNK", 2)
    store = TableStore(tmp_path / "table.sqlite", DEVICE.key)
    good = [LayerInGraph(CONV.resized(in_channels=3, out_channels=channels)) for channels in (1, 2, 3, 4)]
    bad = LayerInGraph(CONV, ("Nonsense",))
    table = stored(store)
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        table.ensure([good[0], good[1], bad, good[2], good[3]])
    assert list(table.entries) == good[:2]
    assert store.layers() == table.entries
    table.ensure(good)
    assert store.layers() == table.entries
    assert set(table.entries) == set(good)


class CountingTable(LatencyTable):
    """Counts what it is asked; each layer takes the time that comes next."""

    asked = 0

    def layer_ms(self, layer: LayerInGraph) -> float:
        self.asked += 1
        return self.entries.setdefault(layer, float(len(self.entries) + 1))


def test_a_look_up_asks_for_a_layer_once() -> None:
    """Of four layers the first group touches two, the last group the last two."""
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    table = CountingTable(OnnxRuntime(), DEVICE, {}, no_store)
    predictor = LatencyModel(shapes, dict.fromkeys(shapes.original, ()), table, LatencyFit(0.0, 1.0), ladders={})
    first, _, last = (group.name for group in elastic.groups)
    full = elastic.full_policy
    asked = []
    for changes in ({}, {}, {first: 1}, {first: 1}, {}, {last: 2}, {first: 1, last: 2}):
        predictor.predicted_latency_ms(PruningPolicy.of({**full.as_dict(), **changes}))
        asked.append(table.asked)
    assert [after - before for before, after in itertools.pairwise([0, *asked])] == [4, 0, 2, 0, 0, 2, 0]
    assert predictor.sums(full).cached_ms == 1 + 2 + 3 + 4


def test_a_look_up_neither_measures_nor_reads_the_file(tmp_path: Path) -> None:
    """Times that no measurement gives, and a file that is broken by then."""
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    after = dict.fromkeys(shapes.original, ("Relu",))
    path = tmp_path / "table.sqlite"
    store = TableStore(path, DEVICE.key)
    with store.measuring() as recorder:
        recorder.add({LayerInGraph(shape, ("Relu",)): 1e6 for shape in shapes.original.values()})
    table = stored(store)
    path.write_bytes(b"no table")
    predictor = LatencyModel(shapes, after, table, LatencyFit(0.0, 1.0), ladders={})
    assert [predictor.predicted_latency_ms(elastic.full_policy) for _ in range(3)] == [4e6] * 3
    assert path.read_bytes() == b"no table"

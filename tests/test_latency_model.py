"""Ladders and predictions from real measurements; what has been measured once is looked up."""

import contextlib
import itertools
import math
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import pytest
import torch
from models_for_tests import SMALL_NETS, FlattenNet, elastic_net
from torch import nn

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.measure.device import this_device
from autoprune.models import ModelSpec, build_model
from autoprune.prediction import layer_bench
from autoprune.prediction import whole_models as whole_models_module
from autoprune.prediction.graph_context import epilogues
from autoprune.prediction.latency_fit import LatencyFit
from autoprune.prediction.latency_model import (
    LATENCY,
    build_latency_model,
    find_ladders,
    group_ms,
    group_staircase,
    measured_latency,
)
from autoprune.prediction.latency_table import LatencyModel, LatencyTable
from autoprune.prediction.latency_validation import compare, validate_latency
from autoprune.prediction.layer_bench import LayerInGraph
from autoprune.prediction.table_store import TableStore
from autoprune.prediction.whole_models import (
    BY_WEIGHT_BYTES,
    _loaded_together,
    measure_cuts,
    random_policies,
    weight_bytes,
    whole_models,
)
from autoprune.pruning.cost import CutShapes, layer_shapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.space.policy import PruningPolicy
from autoprune.store.trials import TrialStore

SEARCH = SearchConfig(min_keep=0.3, max_rungs=3)


def info_of(shape: tuple[int, int, int]) -> DataInfo:
    return DataInfo("test", ("a", "b"), *shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])


def built(name: str, table: Path, store: TrialStore | None = None) -> LatencyModel:
    elastic, shape = elastic_net(name), SMALL_NETS[name].input_shape
    return build_latency_model(
        CutShapes(elastic, shape),
        info_of(shape),
        search=SEARCH,
        measure=MeasureConfig(),
        store=store,
        table_path=table,
    )


def policies_on(ladders: dict[str, tuple[int, ...]]) -> list[PruningPolicy]:
    return [PruningPolicy(tuple(zip(ladders, widths, strict=True))) for widths in itertools.product(*ladders.values())]


@pytest.mark.parametrize("name", ["flatten", "concat"])
def test_ladders_ascend_to_all_channels(name: str, tmp_path: Path) -> None:
    model = built(name, tmp_path / "table.sqlite")
    groups = elastic_net(name).groups
    assert list(model.ladders) == [group.name for group in groups]
    for group in groups:
        ladder = model.ladders[group.name]
        assert list(ladder) == sorted(set(ladder))
        assert ladder[-1] == group.channels
        assert ladder[0] >= round(0.3 * group.channels)
        assert len(ladder) <= 3


@pytest.mark.parametrize("name", ["flatten", "concat"])
def test_every_policy_on_the_ladders_is_known_beforehand(name: str, tmp_path: Path) -> None:
    """Layers that read several groups, too."""
    model = built(name, tmp_path / "table.sqlite")
    before = dict(model.table.entries)
    predicted = [model.predicted_latency_ms(policy) for policy in policies_on(dict(model.ladders))]
    assert model.table.entries == before
    assert all(-1 < latency_ms < 100 for latency_ms in predicted)


def test_a_second_model_finds_what_the_first_has_measured(tmp_path: Path) -> None:
    first = built("flatten", tmp_path / "table.sqlite")
    second = built("flatten", tmp_path / "table.sqlite")
    assert second.table.entries == first.table.entries
    assert (second.fit, second.ladders) == (first.fit, first.ladders)


def test_a_resumed_run_sees_the_same_figures_without_the_table(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    first = built("flatten", tmp_path / "table.sqlite", store)
    (tmp_path / "table.sqlite").unlink()
    second = built("flatten", tmp_path / "table.sqlite", store)
    assert not (tmp_path / "table.sqlite").exists()
    assert (second.fit, second.ladders) == (first.fit, first.ladders)
    for policy in policies_on(dict(first.ladders)):
        assert second.predicted_latency_ms(policy) == first.predicted_latency_ms(policy)
    assert store.kept(LATENCY) == measured_latency(first) == measured_latency(second)


def after_layers(model: nn.Module, shape: tuple[int, int, int], folder: Path) -> dict[str, tuple[str, ...]]:
    export_onnx(model, folder / "model.onnx", info_of(shape))
    return epilogues(onnx.load(folder / "model.onnx"), layer_shapes(model, shape))


def test_a_residual_belongs_to_one_of_the_two_that_it_adds(tmp_path: Path) -> None:
    after = after_layers(build_model(ModelSpec("resnet20", 10, 1)), (1, 28, 28), tmp_path)
    assert after["conv1"] == after["layer1.0.conv1"] == ("Relu",)
    assert after["layer1.0.conv2"] == after["layer3.2.conv2"] == ("Add", "Relu")
    assert sorted([after["layer2.0.conv2"], after["layer2.0.shortcut.0"]]) == [(), ("Add", "Relu")]
    assert after["fc"] == ()


def test_what_follows_the_layers_of_a_mobilenet(tmp_path: Path) -> None:
    after = after_layers(build_model(ModelSpec("mobilenet_v2", 10, 3, 0.25)), (3, 32, 32), tmp_path)
    assert set(after.values()) == {(), ("Clip",), ("Add",)}


class Functional(nn.Module):
    """A convolution that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.weight = nn.Parameter(torch.ones(2, 4, 3, 3))
        self.last = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.conv2d(self.first(x), self.weight).mean((2, 3)))
        return out


def test_a_graph_with_other_layers_gets_the_commonest_epilogue(tmp_path: Path) -> None:
    assert after_layers(Functional().eval(), (1, 8, 8), tmp_path) == {"first": ("Relu",), "last": ()}


def test_errors_by_hand() -> None:
    found = compare([1.0, 2.1, 3.0, 4.0], [1.0, 2.0, 4.0, 4.0])
    assert found.n == 4
    assert found.median_rel_error == pytest.approx(0.025)
    assert found.p95_rel_error == pytest.approx(0.05 + 0.85 * 0.2)
    assert found.spearman == pytest.approx(0.9487, abs=1e-4)  # ranks 1 2 3 4 against 1 2 3.5 3.5


def test_predictions_are_compared_with_files(tmp_path: Path) -> None:
    name = "flatten"
    model = built(name, tmp_path / "table.sqlite")
    info = info_of(SMALL_NETS[name].input_shape)
    found = validate_latency(model, info, measure=MeasureConfig(), n=4, seed=0)
    assert (found.n, len(found.points)) == (4, 4)
    assert all(measured_ms > 0 for _, measured_ms in found.points)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter measurements, however busy the machine is; they are real ones all the same."""
    monkeypatch.setattr(whole_models_module, "BY_WEIGHT_BYTES", ((0.0, 2),))
    monkeypatch.setattr(whole_models_module, "LOADS", 1)
    monkeypatch.setattr(whole_models_module, "SECONDS_A_LOAD", 0.1)
    monkeypatch.setattr(layer_bench, "SECONDS_A_LAYER", 0.02)


def elastic_of(model: nn.Module, shape: tuple[int, int, int]) -> ElasticModel:
    groups = find_groups(model.eval(), shape).prunable
    return ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})


def build(elastic: ElasticModel, table: Path, measure: MeasureConfig | None = None) -> LatencyModel:
    shape = SMALL_NETS["flatten"].input_shape
    shapes = CutShapes(elastic, shape)
    measure = measure or MeasureConfig()
    return build_latency_model(shapes, info_of(shape), search=SEARCH, measure=measure, table_path=table)


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of a table file, with the time at which they were measured."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("devices", "layers", "fits")
        }


@pytest.mark.usefixtures("quickly")
def test_what_the_file_says_is_believed(tmp_path: Path) -> None:
    """All times 1024-fold, which leaves the ladders as they are, and a fit that no measurement gives."""
    path = tmp_path / "table.sqlite"
    elastic = elastic_net("flatten")
    first = build(elastic, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE layers SET ms = ms * 1024")
        connection.execute("UPDATE fits SET fit = ?", ('{"offset_ms": 7, "scale": 2}',))
        connection.execute("UPDATE layers SET measured_at = 'then'")
    second = build(elastic, path)
    known = first.table.entries
    assert second.table.entries == {layer: ms * 1024 for layer, ms in known.items()}
    assert second.ladders == first.ladders
    assert second.fit == LatencyFit(7, 2)
    after = contents(path)
    assert len(after["devices"]) == 1
    assert {row[-1] for row in after["layers"]} == {"then"}  # nothing was measured again


@pytest.mark.usefixtures("quickly")
def test_a_model_with_equal_layers_measures_only_what_is_new(tmp_path: Path) -> None:
    """Nine classes instead of four: the head is another layer, all else is known."""
    path = tmp_path / "table.sqlite"
    torch.manual_seed(0)
    model = FlattenNet()
    first = build(elastic_of(model, (2, 4, 6)), path)
    before = contents(path)
    other = FlattenNet()
    other.head = nn.Linear(7, 9)
    second = build(elastic_of(other, (2, 4, 6)), path)
    known, entries = first.table.entries, second.table.entries
    assert {layer: entries[layer] for layer in known} == known
    new = set(entries) - set(known)
    heads = {layer for layer in entries if layer.shape.out_channels == 9}
    assert heads and heads <= new
    assert all(layer.shape.kind == "linear" for layer in new)
    if second.ladders == first.ladders:  # a head of another time may change the ladder before it
        assert new == heads
    assert set(before["layers"]) <= set(contents(path)["layers"])
    assert len(contents(path)["fits"]) == 2


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("measure", [MeasureConfig(batch_size=2), MeasureConfig(threads=2)], ids=["batch", "threads"])
def test_another_way_to_run_is_another_device(measure: MeasureConfig, tmp_path: Path) -> None:
    """Planted times of one are not seen by the other."""
    path = tmp_path / "table.sqlite"
    elastic = elastic_net("flatten")
    build(elastic, path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE layers SET ms = 1000")
    other = build(elastic, path, measure)
    assert (other.table.device.batch_size, other.table.device.threads) == (
        measure.batch_size, measure.threads,
    )  # fmt: skip
    assert all(ms < 1000 for ms in other.table.entries.values())
    rows = contents(path)
    assert len(rows["devices"]) == 2
    assert len(rows["fits"]) == 2
    assert {row[2] == 1000 for row in rows["layers"] if row[0] == 1} == {True}
    assert {row[2] == 1000 for row in rows["layers"] if row[0] == 2} == {False}


@pytest.mark.usefixtures("quickly")
def test_a_resumed_run_sees_the_same_figures_when_the_table_has_changed(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    first = built("flatten", tmp_path / "table.sqlite", store)
    with contextlib.closing(sqlite3.connect(tmp_path / "table.sqlite")) as connection, connection:
        connection.execute("UPDATE layers SET ms = 1000")
        connection.execute("DELETE FROM fits")
    second = built("flatten", tmp_path / "table.sqlite", store)
    assert (second.fit, second.ladders) == (first.fit, first.ladders)
    for policy in policies_on(dict(first.ladders)):
        assert second.predicted_latency_ms(policy) == first.predicted_latency_ms(policy)


def no_store() -> TableStore:
    raise AssertionError("measured")


class FormulaTable(LatencyTable):
    """A device on which every layer takes the time that a formula gives."""

    def __init__(self, formula: Callable[[int, int], float]) -> None:
        super().__init__(OnnxRuntime(), this_device(OnnxRuntime(), threads=1, batch_size=1), {}, no_store)
        self.formula = formula

    def ensure(self, layers: Iterable[LayerInGraph], *, description: str = "") -> None:
        for layer in layers:
            self.entries[layer] = self.formula(layer.shape.in_channels, layer.shape.out_channels)


def predictor_of(elastic: ElasticModel, formula: Callable[[int, int], float]) -> LatencyModel:
    shapes = CutShapes(elastic, (1, 5, 5))
    after = dict.fromkeys(shapes.original, ())
    return LatencyModel(shapes, after, FormulaTable(formula), LatencyFit(0.0, 1.0), ladders={})


def chain(*channels: int) -> ElasticModel:
    """1x1 convolutions one after another; the last one makes the classes."""
    layers = [nn.Conv2d(before, after, 1) for before, after in itertools.pairwise((1, *channels, 2))]
    return elastic_of(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 5, 5))


@pytest.mark.parametrize("step", [4, 8, 16])
def test_ladders_lie_where_the_device_has_its_steps(step: int) -> None:
    """Time goes by started blocks of channels; the groups next to each other have their steps at the same widths."""
    elastic = chain(64, 48)
    predictor = predictor_of(elastic, lambda before, after: math.ceil(before / step) * math.ceil(after / step))
    search = SearchConfig(min_keep=0.25, max_rungs=64)
    wide, narrow = (group.name for group in elastic.groups)
    assert find_ladders(predictor, search) == {
        wide: tuple(range(16, 65, step)),
        narrow: (*range(-(-12 // step) * step, 49, step),),
    }


def test_a_narrow_group_is_measured_at_every_width() -> None:
    elastic = chain(6)
    predictor = predictor_of(elastic, lambda before, after: 1.0 + (before > 1) * (1 + before // 4))
    [group] = elastic.groups
    assert find_ladders(predictor, SearchConfig(min_keep=0.1, max_rungs=8)) == {group.name: (1, 3, 6)}


def test_ladders_have_no_more_rungs_than_asked_for() -> None:
    elastic = chain(64)
    predictor = predictor_of(elastic, lambda before, after: float(math.ceil(before / 4) + math.ceil(after / 4)))
    [group] = elastic.groups
    ladder = find_ladders(predictor, SearchConfig(min_keep=0.125, max_rungs=3))[group.name]
    assert ladder == (8, 36, 64)


def test_of_groups_alike_the_widest_few_are_scanned() -> None:
    """Six of 64 to 32 channels: three are timed at their uppermost widths one by one, the others follow their steps."""
    elastic = chain(64, 60, 56, 52, 48, 32)
    predictor = predictor_of(elastic, lambda before, after: math.ceil(before / 8) * math.ceil(after / 8))
    ladders = find_ladders(predictor, SearchConfig(min_keep=0.25, max_rungs=64))
    names = [group.name for group in elastic.groups]
    outputs = {(layer.shape.in_channels, layer.shape.out_channels) for layer in predictor.table.entries}
    assert {(56, 51), (52, 47), (48, 31)} & outputs == set()
    assert {(64, 59), (60, 55)} <= outputs
    assert ladders[names[4]] == (16, 24, 32, 40, 48)
    assert ladders[names[5]] == (8, 16, 24, 32)


def test_a_few_lines_of_each_layer_tell_the_rest() -> None:
    """Where time is a product of staircases no pair of widths is far off, and few are measured."""
    elastic = chain(64, 64, 64)
    formula = lambda before, after: 0.01 + math.ceil(before / 8) * math.ceil(after / 8)  # noqa: E731
    exact = predictor_of(elastic, formula)
    ladders = find_ladders(exact, SearchConfig(min_keep=0.125, max_rungs=8))
    few = LatencyModel(exact.shapes, exact.epilogues, FormulaTable(formula), LatencyFit(0.0, 1.0), ladders)
    lines = few.lines
    assert set(lines) == {"1", "2"}  # the first reads the image, the last makes the classes
    assert all(len(own.measured) == 8 + 5 * 7 for own in lines.values())
    for policy in policies_on(ladders):
        assert few.predicted_latency_ms(policy) == pytest.approx(exact.predicted_latency_ms(policy))
    timed = {entry.shape for entry in few.table.entries if entry.shape.in_channels > 1 and entry.shape.out_channels > 2}
    assert len(timed) == len(lines["1"].measured)  # the two layers are alike


def test_a_layer_that_reads_many_groups_is_measured_at_few_widths() -> None:
    """A concatenation of three: 8 * 8 * 8 * 8 sets of widths."""
    elastic, shape = elastic_net("concat"), SMALL_NETS["concat"].input_shape
    shapes = CutShapes(elastic, shape)
    after, table = dict.fromkeys(shapes.original, ()), FormulaTable(lambda a, b: 1e-3 * a * b)
    predictor = LatencyModel(shapes, after, table, LatencyFit(0.0, 1.0), ladders={})
    ladders = {group.name: tuple(range(1, group.channels + 1)) for group in elastic.groups}
    few = LatencyModel(shapes, after, FormulaTable(table.formula), predictor.fit, ladders)
    joined = [name for name in few.lines if len(shapes.side_owners(name, "in")) > 1]
    assert joined
    for policy in random_policies(ladders, 40, purpose="test"):
        assert few.predicted_latency_ms(policy) == pytest.approx(predictor.predicted_latency_ms(policy))


def test_the_time_of_a_group_is_that_of_the_layers_that_it_touches() -> None:
    """The first group of a chain 1 - 4 - 6 - 2 at width 3: 10 * 1 + 3, and 10 * 3 + 6 with the next group whole."""
    elastic = chain(4, 6)
    predictor = predictor_of(elastic, lambda before, after: 10.0 * before + after)
    first, second = elastic.groups
    assert group_ms(predictor, first, 3) == 13 + 36
    assert group_ms(predictor, second, 5) == 45 + 52
    assert group_staircase(predictor, first, [1, 2]) == [(1, 11 + 16), (2, 12 + 26)]


def test_random_policies_are_rungs_drawn_by_purpose_and_seed() -> None:
    ladders = {"a": (1, 2, 3), "b": (4, 8)}
    drawn = random_policies(ladders, 60, purpose="one")
    assert drawn == random_policies(ladders, 60, purpose="one", seed=0)
    assert drawn[:10] == random_policies(ladders, 10, purpose="one")
    assert drawn != random_policies(ladders, 60, purpose="another")
    assert drawn != random_policies(ladders, 60, purpose="one", seed=1)
    assert {policy.channels for policy in drawn} == {(("a", a), ("b", b)) for a in (1, 2, 3) for b in (4, 8)}


@pytest.mark.usefixtures("quickly")
def test_cuts_are_exported_and_timed() -> None:
    elastic = elastic_net("flatten")
    info = info_of(SMALL_NETS["flatten"].input_shape)
    smallest = PruningPolicy.of(dict.fromkeys(elastic.full_policy.as_dict(), 1))
    shapes = CutShapes(elastic, info.input_shape)
    times_ms = measure_cuts(shapes, [elastic.full_policy, smallest], info, MeasureConfig(batch_size=3))
    assert len(times_ms) == 2
    assert all(0 < ms < 1000 for ms in times_ms)


def test_large_models_are_not_all_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole net has 36 + 7 + 98 … parameters; two of them are more than is allowed together."""
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    full = elastic.full_policy
    smallest = PruningPolicy.of(dict.fromkeys(full.as_dict(), 1))
    monkeypatch.setattr(whole_models_module, "free_bytes", lambda: 10 * weight_bytes(shapes, full))
    monkeypatch.setattr(whole_models_module, "LOADED_BYTES", 0.0)
    assert weight_bytes(shapes, full) == 4 * sum(parameter.numel() for parameter in elastic.original.parameters())
    assert _loaded_together([full, smallest, full, full], shapes, [0, 1, 2, 3]) == [[0, 1], [2], [3]]
    assert _loaded_together([full, smallest, full, full], shapes, [3, 0, 1, 2]) == [[3], [0, 1], [2]]
    monkeypatch.setattr(whole_models_module, "free_bytes", lambda: None)
    assert _loaded_together([full, smallest], shapes, [0, 1]) == [[0], [1]]


def test_a_heavy_model_is_corrected_by_more_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = elastic_net("flatten")
    shapes = CutShapes(elastic, SMALL_NETS["flatten"].input_shape)
    ladders = {name: (1, channels) for name, channels in elastic.full_policy.channels}
    (_, light), (_, heavy) = BY_WEIGHT_BYTES
    assert light < heavy
    least = weight_bytes(shapes, elastic.full_policy)
    for bound, models in ((least + 1, light), (least, heavy)):
        table = ((0.0, light), (bound, heavy))
        monkeypatch.setattr(whole_models_module, "BY_WEIGHT_BYTES", table)
        assert len(whole_models(shapes, ladders)) == 2 + models


def test_a_group_that_was_scanned_whole_is_not_thinned_out() -> None:
    """16 channels, all of 2 … 16 measured: steps at 5 and 11 are rungs though they are multiples of nothing."""
    elastic = chain(16)

    def time_of(width: int) -> float:
        return 1.0 if width <= 5 else 2.0 if width <= 11 else 3.0

    predictor = predictor_of(elastic, lambda before, after: time_of(max(before, after)))
    [group] = elastic.groups
    assert find_ladders(predictor, SearchConfig(min_keep=0.125, max_rungs=8)) == {group.name: (5, 11, 16)}

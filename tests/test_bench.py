"""Real measurements for their structure; no test holds a machine to a time."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoprune.bench.against import (
    DRIFT,
    NOISY_DRIFT,
    check_comparable,
    compare,
    describe,
    ratio_of_intervals,
    read_saved,
)
from autoprune.bench.measurement import (
    LEAST_ROUNDS,
    MOST_ROUNDS,
    MOST_RUNS,
    SITTINGS,
    SWEEP_BATCH_SIZES,
    BenchSettings,
    Subject,
    device_of,
    file_result,
    machine_beside,
    measure,
    plan,
    prepare,
    unique_names,
)
from autoprune.bench.plot import write_plot
from autoprune.bench.result import BenchResult, Machine
from autoprune.data import DataInfo
from autoprune.errors import InputError, RunError
from autoprune.export.onnx_file import export_onnx
from autoprune.export.subnormals import count_subnormals
from autoprune.foundation.files import write_json
from autoprune.measure.memory import measure_peak_rss_bytes
from autoprune.runtimes.runtime import InputSpec

INFO = DataInfo("test", ("a", "b"), 1, 8, 8, mean=(0.0,), std=(1.0,))
TINY = np.float32(1e-40)  # subnormal: the smallest normal float32 is 1.2e-38
QUICK = BenchSettings(seconds=0.05)


# ---------------------------------------------------------------- the amount of timing


@given(
    st.floats(1e-4, 100), st.lists(st.floats(1e-6, 3), min_size=1, max_size=5), st.floats(0.01, 60)
)  # fmt: skip
def test_plans_fill_the_time_or_are_the_least(load_s: float, calls_s: list[float], seconds: float) -> None:
    sittings, rounds, runs = plan(load_s=load_s, calls_s=calls_s, seconds=seconds)
    assert sittings == 1 or SITTINGS[0] <= sittings <= SITTINGS[1]
    assert rounds % 2 == 0
    assert 1 <= runs <= MOST_RUNS
    factor = SITTINGS[0] if sittings == 1 else 1
    assert rounds >= LEAST_ROUNDS * factor
    timing_s = sittings * rounds * (runs + 1) * sum(calls_s)
    assert rounds == LEAST_ROUNDS * factor or timing_s <= seconds * (1 + 1e-9)
    assert rounds <= MOST_ROUNDS * (SITTINGS[1] if sittings == 1 else 1)


def test_plans_for_a_small_a_slow_and_a_compiled_model() -> None:
    assert plan(load_s=0.02, calls_s=[0.0003, 0.0003], seconds=10)[::2] == (16, 12)
    assert plan(load_s=0.5, calls_s=[0.4], seconds=5) == (6, 2, 1)
    assert plan(load_s=40, calls_s=[0.002], seconds=5)[0] == 1


def test_names() -> None:
    assert unique_names(["x/a.onnx", "y/b.onnx"]) == ["a.onnx", "b.onnx"]
    assert unique_names(["x/a.onnx", "y/a.onnx", "b.onnx"]) == ["x/a.onnx", "y/a.onnx", "b.onnx"]
    assert unique_names(["x/a.onnx", "./x/a.onnx", "x/a.onnx"]) == ["a.onnx", "a.onnx (2)", "a.onnx (3)"]


# ---------------------------------------------------------------- real measurements


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network, and one with 20 times the work and more."""
    folder = tmp_path_factory.mktemp("onnx")
    made = []
    for name, channels in (("small", 4), ("large", 96)):
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]
        body = [nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        made.append(folder / f"{name}.onnx")
        export_onnx(nn.Sequential(*body, *head), made[-1], INFO)
    return made[0], made[1]


def bench(sources: list[str], settings: BenchSettings) -> BenchResult:
    return measure(prepare(sources, settings), settings)


@pytest.fixture(scope="module")
def measured(files: tuple[Path, Path]) -> BenchResult:
    return bench([str(files[1]), str(files[0])], replace(QUICK, sweep=True))


def test_a_measurement_is_whole(files: tuple[Path, Path], measured: BenchResult, tmp_path: Path) -> None:
    large, small = measured.files
    assert (large.name, small.name) == ("large.onnx", "small.onnx")
    for one, file in ((large, files[1]), (small, files[0])):
        assert one.input_shape == (1, 1, 8, 8)
        assert one.latency_ms_p50_ci95[0] <= one.latency_ms_p50 <= one.latency_ms_p50_ci95[1]
        assert one.quiet_ms_ci95[0] <= one.quiet_ms <= one.quiet_ms_ci95[1]
        assert 0 < one.quiet_ms <= one.latency_ms_p50 <= one.latency_ms_p95
        assert one.images_per_s == pytest.approx(1000 / one.latency_ms_p50)
        assert one.file_bytes == file.stat().st_size
        assert 20e6 < one.peak_rss_bytes < 400e6
        assert one.load_ms > 0
        assert one.subnormal_weights == 0
        assert one.calls % one.rounds == 0
    assert large.speedup is None
    assert small.speedup is not None
    assert small.speedup > 1
    document = measured.as_json()
    write_json(tmp_path / "bench.json", document)
    assert json.loads((tmp_path / "bench.json").read_text())["files"][1]["speedup"] == small.speedup
    assert document["device"]["threads"] == 1
    assert isinstance(document["machine"]["noisy"], bool)
    assert 0 <= document["machine"]["disturbed_share"] <= 1


def test_a_sweep_has_every_batch_size(measured: BenchResult) -> None:
    assert measured.sweep is not None
    cells = [(point.name, point.batch_size) for point in measured.sweep]
    assert cells == [(name, size) for name in ("large.onnx", "small.onnx") for size in SWEEP_BATCH_SIZES]
    for point in measured.sweep:
        assert point.ms_per_image * point.images_per_s == pytest.approx(1000)
        assert point.quiet_ms == pytest.approx(point.ms_per_image * point.batch_size)
        assert point.latency_ms_p50 >= point.quiet_ms > 0
    assert measured.sweep[6].quiet_ms > measured.sweep[0].quiet_ms  # 64 images take longer than one


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_plots(measured: BenchResult, tmp_path: Path, name: str, start: bytes) -> None:
    write_plot(measured, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    write_plot(measured, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_a_noisy_machine_is_told(measured: BenchResult) -> None:
    """Calls of which four in ten take twice as long are no noise; seven in ten are."""
    for share, noisy in ((0.4, False), (0.7, True)):
        machine = replace(machine_beside(share, 3.25, np.ones((60, 6)), blocks=12), cpus=2)
        found = replace(measured, machine=machine)
        assert found.as_json()["machine"]["noisy"] is noisy
        assert any("70% of the calls were disturbed, load average 3.2 on 2 CPUs" in w for w in found.warnings) is noisy


def test_a_fixed_batch_cannot_be_swept(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(files[0])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    assert prepare([str(path)], QUICK)[0].images.shape == (1, 1, 8, 8)
    with pytest.raises(InputError, match=r"fixed\.onnx: its batch is fixed at 1, so --sweep cannot change it"):
        prepare([str(path)], replace(QUICK, sweep=True))


# ---------------------------------------------------------------- subnormal weights


def test_subnormals_are_counted_wherever_they_stand() -> None:
    """Two in a weight, one in a constant, three in a branch; none in zeros, normal numbers or integers."""

    def tensor(name: str, values: list[float]) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32), name)

    constant = helper.make_node("Constant", [], ["c"], value=tensor("c", [TINY, 2.0]))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["o"])], "branch", [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [3])], [tensor("b", [TINY, -TINY, TINY])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["o"])], "other", [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [3])], [tensor("z", [0.0, -0.0, 1.2e-38])],
    )  # fmt: skip
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=other)
    whole = numpy_helper.from_array(np.array([1], np.int64), "whole")
    graph = helper.make_graph([constant, choice], "g", [], [], [tensor("w", [TINY, 1.0, 0.0, -TINY]), whole])
    assert count_subnormals(helper.make_model(graph)) == 6


def test_planted_subnormals_are_reported_and_cured_by_export(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model[0].weight.data[0, 0, 0, :2] = float(TINY)
    cured = tmp_path / "cured.onnx"
    export_onnx(model, cured, INFO)
    planted = onnx.load(cured)
    [weight] = [tensor for tensor in planted.graph.initializer if tensor.dims == [4, 1, 3, 3]]
    weight.CopyFrom(numpy_helper.from_array(model[0].weight.detach().numpy(), weight.name))
    onnx.save(planted, tmp_path / "planted.onnx")
    found = bench([str(tmp_path / "planted.onnx"), str(cured)], QUICK)
    assert [file.subnormal_weights for file in found.files] == [2, 0]
    [warning] = [line for line in found.warnings if "subnormal" in line]
    assert warning.startswith("planted.onnx: 2 subnormal weights")
    assert "export the model again" in warning


# ---------------------------------------------------------------- against a saved run


def made_up(*, quiet_ms: float = 1.0, yardstick: float = 1.0, noisy: bool = False) -> BenchResult:
    """A run of a.onnx, calls within 1% of `quiet_ms`."""
    rng = np.random.default_rng(1)
    samples_ms = quiet_ms * (1 + 0.01 * rng.random((60, 6)))
    subject = Subject("a.onnx", "a.onnx", InputSpec("x", (1, 1, 8, 8)), np.zeros((1, 1, 8, 8)), lambda: None, 0.01)
    file = file_result(subject, samples_ms, first_ms=None, blocks=12, load_ms=10.0, peak_rss_bytes=10**8, energy=None)
    interval = (yardstick * 0.999, yardstick * 1.001)
    machine = Machine(0.9 if noisy else 0.1, 0.5, 2, yardstick, interval, noisy)
    return BenchResult("onnxruntime", device_of(QUICK), machine, (file,), None)


def save(path: Path, result: BenchResult) -> BenchResult:
    write_json(path, result.as_json())
    return read_saved(path)


@pytest.mark.parametrize(
    ("quiet_ms", "yardstick", "noisy", "slower"),
    [
        (1.0, 1.0, False, False),
        (1.0 + DRIFT / 2, 1.0, False, False),  # as runs of one file differ
        (1.1, 1.0, False, True),
        (0.8, 1.0, False, False),
        (1.1, 1.1, False, False),  # the machine itself is slower
        (1.3, 1.1, False, True),
        (1.1, 0.5, False, True),  # a faster machine excuses nothing, and proves nothing
        (1.0 + NOISY_DRIFT / 2, 1.0, True, False),
        (1.3, 1.0, True, True),
    ],
)
def test_slower_than_saved(tmp_path: Path, quiet_ms: float, yardstick: float, noisy: bool, slower: bool) -> None:
    saved = save(tmp_path / "saved.json", made_up())
    comparison = compare(saved, made_up(quiet_ms=quiet_ms, yardstick=yardstick, noisy=noisy))
    [change] = comparison.changes
    assert change.slower is slower
    assert comparison.slower == ((change,) if slower else ())
    assert change.quiet_ratio == pytest.approx(quiet_ms, rel=1e-6)
    line = describe(change, comparison, saved)
    assert line.startswith(f"a.onnx: {'slower' if slower else 'not slower'} than in {tmp_path / 'saved.json'}: quiet ")
    assert ("the machine itself" in line) is (yardstick > 1)


def test_medians_must_agree_unless_they_measure_neighbours(tmp_path: Path) -> None:
    """Today's floor is a fifth higher, but its median is not."""
    saved = save(tmp_path / "saved.json", made_up())
    slow_before = replace(saved.files[0], latency_ms_p50=1.5, latency_ms_p50_ci95=(1.49, 1.51))
    saved = replace(saved, files=(slow_before,))
    assert not compare(saved, made_up(quiet_ms=1.2)).slower
    noisy = replace(saved, machine=replace(saved.machine, noisy=True))
    assert compare(noisy, made_up(quiet_ms=1.2)).slower


def test_a_ratio_of_intervals_by_hand() -> None:
    """Today 4 (2 to 4), then 1 (1 to 1): only today's lower distance counts. An octave on both sides makes √2."""
    assert ratio_of_intervals(4, (2, 4), 1, (1, 1)) == (4, (pytest.approx(2), pytest.approx(4)))
    ratio, (low, high) = ratio_of_intervals(1, (0.5, 2), 1, (0.5, 2))
    assert (ratio, low, high) == (1, pytest.approx(2 ** -math.sqrt(2)), pytest.approx(2 ** math.sqrt(2)))


def test_other_circumstances_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    subjects = prepare([str(files[0])], QUICK)
    saved = save(tmp_path / "saved.json", made_up())
    small = replace(saved.files[0], name="small.onnx")
    named = replace(saved, files=(small,))
    check_comparable(named, backend="onnxruntime", device=device_of(QUICK), subjects=subjects)
    device = device_of(QUICK)
    for changed, message in (
        (replace(device, threads=2), r"saved with another threads \(1, now 2\)"),
        (replace(device, batch_size=8), r"saved with another batch_size \(1, now 8\)"),
        (replace(device, provider="X"), r"saved with another provider \(CPUExecutionProvider, now X\)"),
        (replace(device, cpu="X"), "saved with another cpu"),
        (replace(device, instruction_sets=("mmx",)), r"saved with another instruction_sets \(.*, now mmx\)"),
    ):
        with pytest.raises(InputError, match=rf"saved\.json: {message}"):
            check_comparable(named, backend="onnxruntime", device=changed, subjects=subjects)
    with pytest.raises(InputError, match=r"another backend \(onnxruntime, now torch\)"):
        check_comparable(named, backend="torch", device=device, subjects=subjects)
    with pytest.raises(InputError, match=r"none of the files is in it; it has a\.onnx, now there are small\.onnx"):
        check_comparable(saved, backend="onnxruntime", device=device, subjects=subjects)
    larger = replace(named, files=(replace(small, input_shape=(1, 1, 9, 9)),))
    with pytest.raises(InputError, match=r"small\.onnx was saved with inputs \(1, 1, 9, 9\), now \(1, 1, 8, 8\)"):
        check_comparable(larger, backend="onnxruntime", device=device, subjects=subjects)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2; this version reads"),
        ({"kind": "search"}, "is search of schema 1"),
        ({"files": []}, "not a result of `autoprune bench --save`"),
        ({"files": [{}]}, "not a result of"),
        ({"machine": None}, "not a result of"),
        ({"device": {}}, "not a result of"),
    ],
)
def test_saved_files_that_are_none(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "saved.json"
    write_json(path, made_up().as_json() | change)
    with pytest.raises(InputError, match=rf"saved\.json: .*{message}"):
        read_saved(path)


@pytest.mark.parametrize(
    "interval", [[2.0, 3.0], [0.0, 1.0], [1.0], "ab", None, [True, 2], [0.5, 10**400], [[0.5], [2]], ["0.5", "2"], {}]
)
def test_saved_figures_that_make_no_sense(tmp_path: Path, interval: object) -> None:
    document = made_up().as_json()
    document["files"][0]["quiet_ms_ci95"] = interval
    write_json(tmp_path / "saved.json", document)
    with pytest.raises(InputError, match=r"saved\.json: not a result of"):
        read_saved(tmp_path / "saved.json")


@pytest.mark.parametrize("shape", [[0], [-1, 2], ["a"], [10**400], [None], 7, None])
def test_saved_shapes_that_make_no_sense(tmp_path: Path, shape: object) -> None:
    document = made_up().as_json()
    document["files"][0]["input_shape"] = shape
    write_json(tmp_path / "saved.json", document)
    with pytest.raises(InputError, match=r"saved\.json: not a result of"):
        read_saved(tmp_path / "saved.json")


def test_a_batch_that_no_memory_holds(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="--batch 1000000000000: needs about "):
        prepare([str(files[0])], replace(QUICK, batch_size=10**12))


def test_a_file_that_breaks_while_it_is_measured(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.onnx: measuring its memory failed \(.*no such file"):
        measure_peak_rss_bytes(str(tmp_path / "nowhere.onnx"), (1, 1, 8, 8), runtime="onnxruntime", threads=1)

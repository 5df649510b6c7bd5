"""What bounds a node, by hand; and a real run on a small convolutional network. No test holds a machine to a time."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from autoprune.bench.measurement import BenchSettings, prepare
from autoprune.cli.roofline import is_noisy, roofline_view, summary
from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.measure.device import last_level_cache_bytes
from autoprune.pruning.cost import count_cost
from autoprune.roofline.onnx_cost import TensorShape
from autoprune.roofline.ort_profile import ProfiledNode
from autoprune.roofline.peaks import Peaks, best_of, chain_model
from autoprune.roofline.report import Roofline, judge_nodes, raised, roofline_report, what_bounds

INFO = DataInfo("test", ("a", "b"), 3, 16, 16, mean=(0.0,) * 3, std=(1.0,) * 3)
PEAKS = Peaks(gflops=100.0, cache_gbps=50.0, memory_gbps=10.0, node_us=0.5, call_us=3.0)


def make_net() -> nn.Sequential:
    """Channels in multiples of 16, so that the runtime pads none."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roofline") / "net.onnx"
    export_onnx(make_net(), path, INFO)
    return path


def report_of(file: Path, **settings: Any) -> Roofline:
    [subject] = prepare([str(file)], BenchSettings(**settings))
    return roofline_report(subject, threads=1)


@pytest.fixture(scope="module")
def report(file: Path) -> Roofline:
    return report_of(file)


@pytest.mark.parametrize(
    ("flop_us", "bytes_us", "overhead_us", "bound"),
    [
        (9.0, 1.0, 0.5, "compute"),
        (1.0, 9.0, 0.5, "memory"),
        (0.1, 0.2, 0.5, "overhead"),
        (0.0, 0.0, 0.0, "overhead"),
        (2.0, 2.0, 0.5, "compute"),
    ],
)
def test_the_largest_lower_bound_binds(flop_us: float, bytes_us: float, overhead_us: float, bound: str) -> None:
    assert what_bounds(flop_us=flop_us, bytes_us=bytes_us, overhead_us=overhead_us) == bound


def convolution(name: str = "conv", *, channels: int = 64) -> ProfiledNode:
    """1×1, on 10×10 pixels: 64·64·100 multiply-adds; 4,096 weights, 6,400 values in and 6,400 out."""
    image = TensorShape((1, channels, 10, 10))
    weight = TensorShape((channels, channels, 1, 1), is_weight=True)
    return ProfiledNode(name, f"/{name}/Conv", "Conv", {}, (image, weight), (image,), 1.0, 20.0)


def relu() -> ProfiledNode:
    image = TensorShape((1, 64, 10, 10))
    return ProfiledNode("relu", None, "Relu", {}, (image,), (image,), 1.0, 4.0)


def test_judging_by_hand() -> None:
    """The convolution: 819,200 FLOP at 100 GFLOP/s take 8.192 µs. The ReLU: 51,200 bytes at 50 GB/s take 1.024 µs."""
    conv, activation = judge_nodes([convolution(), relu()], [16.384, 2.048], PEAKS, cache_bytes=2**20)
    assert (conv.layer, conv.flop, conv.weight_bytes, conv.activation_bytes) == ("conv", 819_200, 16_384, 51_200)
    assert (conv.bound, conv.bound_us) == ("compute", pytest.approx(8.192))
    assert (conv.gflops, conv.gbps) == pytest.approx((50.0, 67_584 / 16.384e3))
    assert conv.excess_us == pytest.approx(8.192)
    assert (activation.layer, activation.bound, activation.cached) == ("relu", "memory", True)
    assert activation.bound_us == pytest.approx(1.024)
    assert activation.gbps == pytest.approx(25.0)


def test_what_does_not_fit_the_cache_is_held_against_memory() -> None:
    """All weights (16,384 bytes) are read each call: beside them 51,200 bytes fit into 67,584, and not into less."""
    nodes, times = [convolution(), relu()], [16.0, 8.0]
    assert [node.cached for node in judge_nodes(nodes, times, PEAKS, cache_bytes=67_584)] == [True, True]
    conv, activation = judge_nodes(nodes, times, PEAKS, cache_bytes=67_583)
    assert not conv.cached
    assert not activation.cached
    assert activation.bound_us == pytest.approx(5.12)  # at 10 GB/s


def test_a_layer_that_beats_the_probes_is_the_peak() -> None:
    assert raised(PEAKS, [convolution()], [16.384]).gflops == 100.0
    assert raised(PEAKS, [convolution(channels=128)], [16.384]).gflops == pytest.approx(200.0)
    assert raised(PEAKS, [convolution()], [4.0]).gflops == 100.0  # too short to be believed


def test_the_better_of_two_measurements() -> None:
    other = Peaks(gflops=90.0, cache_gbps=60.0, memory_gbps=9.0, node_us=0.4, call_us=4.0)
    assert best_of(PEAKS, other) == Peaks(100.0, 60.0, 10.0, 0.4, 3.0)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 10))
def test_a_bound_is_never_below_its_parts(flop_us: float, bytes_us: float, overhead_us: float) -> None:
    bound = what_bounds(flop_us=flop_us, bytes_us=bytes_us, overhead_us=overhead_us)
    named = {"compute": flop_us, "memory": bytes_us, "overhead": overhead_us}
    assert named[bound] == max(named.values())


def test_every_layer_is_there_and_the_times_sum_to_the_whole(report: Roofline) -> None:
    multiply_adds = [node for node in report.nodes if "Conv" in node.op or "Gemm" in node.op]
    assert [node.layer for node in multiply_adds] == ["0", "2", "4", "8"]
    assert report.input_shape == (1, 3, 16, 16)
    assert multiply_adds[1].output_dims == (1, 32, 8, 8)
    assert all(node.flop_counted and node.useful_share == 1 for node in report.nodes)
    nodes_us = sum(node.time_us for node in report.nodes)
    assert nodes_us + report.peaks.call_us == pytest.approx(report.whole_ms * 1e3)
    assert report.lower_bound_ms > 0
    assert all(math.isfinite(value) and value > 0 for value in vars(report.peaks).values())


def test_arithmetic_agrees_with_the_count_of_the_model(report: Roofline) -> None:
    flop = sum(node.flop for node in report.nodes if "Conv" in node.op or "Gemm" in node.op)
    assert flop == 2 * count_cost(make_net(), INFO.input_shape).macs
    assert report.padding_flop == 0
    weights = sum(node.weight_bytes for node in report.nodes)
    assert weights == 4 * sum(parameter.numel() for parameter in make_net().parameters())


def test_a_batch_multiplies_the_arithmetic_and_not_the_weights(file: Path, report: Roofline) -> None:
    four = report_of(file, batch_size=4, shape=(3, 16, 16))
    assert four.input_shape == (4, 3, 16, 16)
    assert four.flop == 4 * report.flop
    assert sum(node.weight_bytes for node in four.nodes) == sum(node.weight_bytes for node in report.nodes)


def test_json_and_table_say_the_same(report: Roofline) -> None:
    read = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert read["nodes"][0]["layer"] == "0"
    assert read["nodes"][0]["gflops"] == pytest.approx(report.nodes[0].gflops)
    assert read["lower_bound_ms"] == pytest.approx(report.lower_bound_ms)
    assert read["peaks"]["memory_gbps"] == report.peaks.memory_gbps
    console = Console(width=130, file=io.StringIO(), record=True)
    console.print(roofline_view(report, "net.onnx", width=130))
    text = console.export_text()
    for expected in ("net.onnx", "bound by", "1×32×8×8", "whole file", "KiB", "share"):
        assert expected in text
    assert f"{report.whole_ms:.3f} ms" in summary(report)


@pytest.mark.parametrize(
    ("disturbed_share", "profiler_scale", "noisy"),
    [(0.1, 1.0, False), (0.9, 1.0, True), (0.1, 2.0, True), (0.1, 0.5, True)],
)
def test_a_busy_machine_is_said_to_be_busy(
    report: Roofline, disturbed_share: float, profiler_scale: float, noisy: bool
) -> None:
    seen = replace(report, disturbed_share=disturbed_share, profiler_scale=profiler_scale)
    assert is_noisy(seen) is noisy
    assert ("The machine is busy" in summary(seen)) is noisy


def test_the_table_fits_a_narrow_terminal(report: Roofline) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(roofline_view(report, "net.onnx", width=80))
    text = console.export_text()
    rows = [line for line in text.splitlines() if line.rstrip().endswith(("compute", "memory", "overhead"))]
    assert len(rows) == len(report.nodes)
    assert "…" not in "".join(rows)
    for header in ("bound by", "GFLOP/s", "of bound", "to win"):
        assert header in text


def test_files_and_shapes_that_do_not_fit_are_bad_input(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:200])
    for path, shape, complaint in (
        (broken, None, r"broken\.onnx: ONNX Runtime cannot load it"),
        (tmp_path / "nowhere.onnx", None, r"nowhere\.onnx: no such file"),
        (file, (3, 16, 15), r"net\.onnx: .*3,16,15"),
        (file, (3, 16), r"net\.onnx: .*3,16"),
    ):
        with pytest.raises(InputError, match=complaint):
            report_of(path, shape=shape)


def test_cache_sizes_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "32K", "512K", "16384K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache_bytes(tmp_path) == 16 * 2**20
    assert last_level_cache_bytes(tmp_path / "nowhere") > 0


def test_the_chain_of_empty_nodes_stays_a_chain() -> None:
    """If the runtime merged its nodes, an empty node would seem to cost nothing."""
    model = onnx.load_from_string(chain_model(5, 2))
    assert [node.op_type for node in model.graph.node] == ["Relu"] * 5
    from autoprune.roofline.ort_profile import NodeProfiler

    with NodeProfiler(model, {"x": np.ones(2, dtype=np.float32)}, threads=1) as profiler:
        profiler.run()
        assert len(profiler.nodes()) == 5

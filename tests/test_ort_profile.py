"""The nodes that ONNX Runtime really runs, from its profiler, and times that are made to sum to the whole."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autoprune.errors import InputError
from autoprune.roofline.onnx_cost import TensorShape
from autoprune.roofline.ort_profile import NodeProfiler, ProfiledNode, load_named, module_name, quiet_mean_us, settle


def save_model(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], channels: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.full(dims, 0.01, dtype=np.float32), name) for name, dims in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def profiled(path: Path, *shape: int) -> dict[str, ProfiledNode]:
    feed = {"x": np.ones(shape, dtype=np.float32)}
    with NodeProfiler(load_named(path), feed, threads=1) as profiler:
        for _ in range(20):
            profiler.run()
        nodes = profiler.nodes()
    return {node.name: node for node in nodes}


@pytest.fixture
def small_net(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="/block/block.0/Conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], name="/block/block.1/Relu"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], name="/fc/Gemm", transB=1),
    ]
    weights = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (5, 16), "b2": (5,)}
    return save_model(tmp_path / "small.onnx", nodes, weights, channels=3)


def test_files_that_are_no_models_are_named(small_net: Path, tmp_path: Path) -> None:
    for content in (small_net.read_bytes()[:150], b"no model"):
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.onnx: not an ONNX model"):
            load_named(broken)


def test_every_node_with_its_source_shapes_and_time(small_net: Path) -> None:
    nodes = list(profiled(small_net, 2, 3, 16, 16).values())
    by_source = {node.source: node for node in nodes}
    conv = by_source["/block/block.0/Conv"]  # found although the runtime merged it with its ReLU
    assert conv.op in ("Conv", "FusedConv")
    assert conv.inputs[0] == TensorShape((2, 3, 16, 16))
    assert conv.inputs[1] == TensorShape((16, 3, 3, 3), is_weight=True)
    assert conv.outputs == (TensorShape((2, 16, 14, 14)),)
    assert conv.attributes["kernel_shape"] == (3, 3)
    assert conv.useful_share == 1.0
    assert "/block/block.1/Relu" not in by_source
    gemm = by_source["/fc/Gemm"]  # the runtime packs its weight and no longer shows it
    assert gemm.inputs == (
        TensorShape((2, 16)),
        TensorShape((5, 16), is_weight=True),
        TensorShape((5,), is_weight=True),
    )
    assert gemm.attributes["transB"] == (1,)
    assert all(node.profiled_us > 0 for node in nodes)
    assert nodes[0] is conv
    assert nodes[-1] is gemm


def test_padded_channels_are_told_from_useful_ones(tmp_path: Path) -> None:
    """The runtime's blocks hold 8 or 16 channels: with 17, some of what it computes is padding."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", kernel_shape=[3, 3]),
        helper.make_node("Conv", ["c1", "w2"], ["y"], name="second", kernel_shape=[3, 3]),
    ]
    path = save_model(tmp_path / "odd.onnx", nodes, {"w1": (17, 16, 3, 3), "w2": (17, 17, 3, 3)}, channels=16)
    first = next(node for node in profiled(path, 1, 16, 16, 16).values() if node.source == "first")
    executed = first.inputs[1].dims[0]
    assert executed in (17, 24, 32)
    assert first.useful_share == pytest.approx(17 / executed)


def test_nodes_without_names_get_them(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sigmoid", [a], [b]) for a, b in (("x", "a"), ("a", "b"))]
    nodes += [helper.make_node("Neg", ["b"], ["c"], name="same"), helper.make_node("Neg", ["c"], ["y"], name="same")]
    path = save_model(tmp_path / "unnamed.onnx", nodes, {}, channels=1)
    assert [node.name for node in load_named(path).graph.node] == ["Sigmoid#0", "Sigmoid#1", "same#2", "same#3"]
    found = profiled(path, 1, 1, 16, 16)
    assert {"Sigmoid#0", "Sigmoid#1"} <= set(found)
    assert all(node.source == name for name, node in found.items())


def test_nothing_is_left_behind(small_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert profiled(small_net, 1, 3, 16, 16)
    assert list(folder.iterdir()) == []


def test_quiet_mean_by_hand() -> None:
    """The fastest tenth of 60 times, six of them: 4 4 4 5 5 5, and the half microsecond that is cut off."""
    times = [4, 5] * 3 + [9, 30] * 27
    assert quiet_mean_us(times) == pytest.approx(4.5 + 0.5)
    assert quiet_mean_us([7, 8, 9]) == pytest.approx(8.5)


def test_settling_by_hand() -> None:
    """Two off each gives 8, 2 and the least, 0.5; then all by 21 / 10.5."""
    settled = settle([10, 4, 1], 21.0, shift_us=2.0, least_us=0.5)
    assert settled.times_us == pytest.approx((16, 4, 1))
    assert (settled.shift_us, settled.scale) == pytest.approx((2.0, 2.0))


@given(
    st.lists(st.floats(0.5, 1e6), min_size=1, max_size=50),
    st.floats(0.1, 1e6),
    st.floats(0, 5),
    st.floats(0.01, 1),
)
def test_settled_times_sum_to_the_whole(times: list[float], whole: float, shift: float, least: float) -> None:
    settled = settle(times, whole, shift_us=shift, least_us=least)
    assert sum(settled.times_us) == pytest.approx(whole)
    assert min(settled.times_us) > 0
    order = np.argsort(times, kind="stable")
    assert (np.diff(np.array(settled.times_us)[order]) >= -1e-9 * whole).all()


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer2/layer2.0/shortcut/shortcut.0/Conv", "layer2.0.shortcut.0"),
        ("/fc/Gemm", "fc"),
        ("/0/Conv", "0"),
        ("/GlobalAveragePool", "/GlobalAveragePool"),
        ("Conv#3", "Conv#3"),
        ("", ""),
    ],
)
def test_module_names(source: str, module: str) -> None:
    assert module_name(source) == module

"""Weights stored once: every level computes what it did with its own, from one copy in a smaller file."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from levels_for_tests import INFO
from models_for_tests import elastic_net, images_for, nested_levels
from onnx import helper, numpy_helper

from autoprune.adaptive.file.export import LEVEL_NAME, export_adaptive
from autoprune.adaptive.levels.shared_weights import SHARED, cuts_of_largest, factors_between, layer_name, share_weights
from autoprune.adaptive.levels.training import Levels
from autoprune.adaptive.routing.routers import Cascade
from autoprune.export.onnx_file import INPUT_NAME, OUTPUT_NAME, export_onnx
from autoprune.runtimes.onnxruntime import make_session

ALWAYS, NEVER = 1.1, 0.0  # thresholds of a cascade that goes on with every image, or with none


@pytest.mark.parametrize("net", ("resnet20", "mobilenet_v2", "vgg16_bn"))
def test_levels_that_share_answer_as_levels_that_do_not(net: str, tmp_path: Path) -> None:
    elastic = elastic_net(net)
    policies = nested_levels(elastic)
    levels = Levels(elastic, policies).eval()
    images = images_for(net, 8)
    levels.recalibrate(images_for(net, 32))
    channels, height, width = images.shape[1:]
    info = dataclasses.replace(
        INFO, in_channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels
    )
    files = [tmp_path / f"{level}.onnx" for level in range(len(levels))]
    for level, file in enumerate(files):
        export_onnx(levels.extracted(level), file, info)
    together, apart = tmp_path / "together.onnx", tmp_path / "apart.onnx"
    for level, thresholds in enumerate(((NEVER, NEVER), (ALWAYS, NEVER), (ALWAYS, ALWAYS))):
        export_adaptive(files, Cascade(thresholds), together, cuts=cuts_of_largest(elastic, policies))
        export_adaptive(files, Cascade(thresholds), apart)
        sessions = [make_session(file, threads=1) for file in (together, apart)]
        for image in images.numpy():
            shared, own = (session.run([OUTPUT_NAME, LEVEL_NAME], {INPUT_NAME: image[None]}) for session in sessions)
            assert shared[1].tolist() == own[1].tolist() == [level]
            assert np.abs(shared[0] - own[0]).max() <= 1e-4 * np.abs(own[0]).max()
    assert together.stat().st_size < apart.stat().st_size
    stored = [weight.name for weight in onnx.load(str(together)).graph.initializer if weight.name.startswith(SHARED)]
    assert len(stored) == len(set(stored)) > 0


def _dense(weight: np.ndarray, name: str = "/fc/Gemm") -> onnx.ModelProto:  # type: ignore[type-arg]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name, transB=1)
    graph = helper.make_graph(
        [node],
        "dense",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, weight.shape[1]])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, len(weight)])],
        initializer=[numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph)


def test_a_weight_by_hand() -> None:
    """The smaller level keeps outputs 0 and 2 of 3, and all inputs but the first, twice and three times as large."""
    whole = np.random.default_rng(0).normal(size=(3, 200))
    part = whole[[0, 2]][:, 1:] * np.array([[2.0], [3.0]])
    small, large = _dense(part), _dense(whole)
    cut = {("fc", "out"): torch.tensor([0, 2]), ("fc", "in"): torch.arange(1, 200)}
    uncut = {("fc", "out"): torch.arange(3), ("fc", "in"): torch.arange(200)}
    (stored,) = share_weights([small, large], [cut, uncut])
    assert [node.op_type for node in small.graph.node] == ["Gather", "Gather", "Mul", "Gemm"]
    assert [node.op_type for node in large.graph.node] == ["Gather", "Gemm"]
    assert stored.name == "shared.w"
    assert np.array_equal(numpy_helper.to_array(stored), whole.astype(np.float32))
    factors = [numpy_helper.to_array(one) for one in small.graph.initializer if one.name == "w.3c"]
    assert np.allclose(factors[0].ravel(), [2.0, 3.0])


def test_a_weight_that_is_no_part_of_the_largest_stays_where_it_is() -> None:
    rng = np.random.default_rng(0)
    small, large = _dense(rng.normal(size=(2, 200))), _dense(rng.normal(size=(3, 200)))
    cut = {("fc", "out"): torch.tensor([0, 2]), ("fc", "in"): torch.arange(200)}
    assert share_weights([small, large], [cut, {}]) == []
    assert [node.op_type for node in small.graph.node] == ["Gemm"]
    assert [node.op_type for node in large.graph.node] == ["Gemm"]


def test_little_is_not_worth_the_operations() -> None:
    whole = np.random.default_rng(0).normal(size=(3, 4))
    small, large = _dense(whole[:2]), _dense(whole)
    assert share_weights([small, large], [{("fc", "out"): torch.tensor([0, 1])}, {}]) == []


def test_factors_by_hand() -> None:
    part = np.array([[1.0, -2.0], [0.0, 0.0], [3.0, 3.0]], dtype=np.float32)
    found = factors_between(part, part * np.array([[0.5], [7.0], [1.0]], dtype=np.float32))
    assert found is not None
    assert found.tolist() == [0.5, 1.0, 1.0]
    assert factors_between(part, part[:, :1]) is None  # another shape
    assert factors_between(part, part + np.array([[0.1, 0.0]], dtype=np.float32)) is None
    # A product below the smallest normal float would slow the network down.
    assert factors_between(np.full((1, 2), 1e-30, np.float32), np.full((1, 2), 1e-39, np.float32)) is None


def test_layers_behind_nodes() -> None:
    for node, layer in (("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"), ("/0/Conv", "0"), ("/fc/Gemm", "fc")):
        assert layer_name(node) == layer
    assert layer_name("/features/features.1/conv/conv.0/conv.0.0/Conv") == "features.1.conv.0.0"

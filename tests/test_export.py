"""The exported file computes what PyTorch does, for any batch; it is whole or absent."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import SMALL_NETS, elastic_net, images_for, random_policy
from onnx import numpy_helper
from torch import Tensor, nn

from autoprune.data import DataInfo
from autoprune.errors import RunError
from autoprune.export.onnx_file import INPUT_NAME, OUTPUT_NAME, export_onnx, parity_max_abs
from autoprune.runtimes.onnxruntime import make_session


def info(name: str = "flatten") -> DataInfo:
    channels, height, width = SMALL_NETS[name].input_shape
    return DataInfo(
        "test", ("cat", "dog"), channels, height, width, mean=(0.5, 0.25)[:channels], std=(0.125,) * channels
    )


@pytest.mark.parametrize("name", SMALL_NETS)
def test_a_cut_computes_the_same_for_any_batch(name: str, tmp_path: Path) -> None:
    elastic = elastic_net(name)
    model = elastic.cut(random_policy(elastic, 2))
    path = tmp_path / "model.onnx"
    assert export_onnx(model, path, info(name)) == 0
    for count in (1, 3, 8):
        images = images_for(name, count, seed=count)
        with torch.no_grad():
            expected = model(images).numpy()
        (actual,) = make_session(path, threads=1).run(None, {INPUT_NAME: images.numpy()})
        assert np.abs(np.asarray(actual) - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_parity_is_the_largest_difference(tmp_path: Path) -> None:
    model = elastic_net("flatten").original
    path = tmp_path / "model.onnx"
    export_onnx(model, path, info())
    images = images_for("flatten", 4)
    assert parity_max_abs(model, path, images.contiguous(memory_format=torch.channels_last)) < 1e-5
    elastic = elastic_net("flatten")
    shifted = elastic.cut(elastic.full_policy)
    with torch.no_grad():
        shifted.get_parameter("head.bias")[2] -= 0.75
    assert parity_max_abs(shifted, path, images) == pytest.approx(0.75, abs=1e-4)


def test_the_file_says_what_it_wants(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.onnx"
    export_onnx(elastic_net("flatten").original, path, info())
    exported = onnx.load(path)
    onnx.checker.check_model(exported, full_check=True)
    properties = {entry.key: entry.value for entry in exported.metadata_props}
    assert properties == {
        "autoprune.input": "float32 (N, C, H, W): (pixel / 255 - mean) / std per channel",
        "autoprune.mean": "0.5,0.25",
        "autoprune.std": "0.125,0.125",
        "autoprune.classes": '["cat", "dog"]',
    }
    (given,), (made,) = make_session(path, threads=1).get_inputs(), make_session(path, threads=1).get_outputs()
    assert (given.name, given.type, given.shape) == (INPUT_NAME, "tensor(float)", ["batch", 2, 4, 6])
    assert (made.name, made.type, made.shape) == (OUTPUT_NAME, "tensor(float)", ["batch", 4])


def test_batchnorm_is_folded_into_convolutions(tmp_path: Path) -> None:
    export_onnx(elastic_net("resnet20").original, tmp_path / "model.onnx", info("resnet20"))
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators


def test_subnormal_weights_are_flushed_and_counted(tmp_path: Path) -> None:
    """Bits, not numbers: ONNX Runtime may have set this thread's processor to take subnormal numbers for zero."""
    largest_subnormal, smallest_normal, negative = 0x007FFFFF, 0x00800000, -0x80000000
    planted = torch.tensor([1, largest_subnormal, negative + 1, smallest_normal, negative], dtype=torch.int32)
    elastic = elastic_net("flatten")
    model = elastic.cut(elastic.full_policy)
    weight = model.get_parameter("head.weight").detach().view(torch.int32)
    weight[0, :5] = planted
    path = tmp_path / "model.onnx"
    for _ in range(2):  # the second time, ONNX Runtime has run on this thread
        assert export_onnx(model, path, info()) == 3
        head = next(tensor for tensor in onnx.load(path).graph.initializer if tensor.name == "head.weight")
        bits = numpy_helper.to_array(head).view(np.int32)[0, :5]
        assert bits.tolist() == [0, 0, 0, smallest_normal, negative]
        assert parity_max_abs(model, path, images_for("flatten")) < 1e-5
    assert torch.equal(weight[0, :5], planted), "the model itself must stay as it is"


class Unexportable(nn.Module):
    """It runs, but ONNX has no such operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(2, 3)).flatten(1)


def test_a_model_that_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(RunError, match=r"model\.onnx: the model cannot be exported to ONNX"):
        export_onnx(Unexportable(), path, info())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(elastic_net("flatten").original, path, info())
    before = path.read_bytes()
    with pytest.raises(RunError):
        export_onnx(Unexportable(), path, info())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kernel", [3, 4, (2, 5)])
def test_padding_that_keeps_the_size_is_stated_in_numbers(kernel: int | tuple[int, int], tmp_path: Path) -> None:
    """ONNX Runtime refuses `auto_pad` beside a dilation."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, kernel, padding="same", dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    ).eval()
    info = DataInfo("test", ("a", "b"), 1, 9, 9, mean=(0.0,), std=(1.0,))
    file = tmp_path / "model.onnx"
    export_onnx(model, file, info)
    assert parity_max_abs(model, file, torch.randn(3, 1, 9, 9)) < 1e-5

"""Backends run real files, and agree with each other on what they compute and on what they refuse."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoprune.bench.backends import BACKENDS, InputSpec, TorchBackend, find_backend
from autoprune.bench.inputs import bind_and_run, parse_shape, random_inputs, resolve_shape
from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.errors import InputError
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.structure import save_pruned

INFO = DataInfo("test", ("a", "b"), 3, 8, 8, mean=(0.0,) * 3, std=(1.0,) * 3)
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *head).eval()


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(model, path, INFO)
    return path


def write_identity(path: Path, dims: list[int | str], element: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    """A file that gives its first input back."""
    values = [helper.make_tensor_value_info(f"x{index}", element, dims) for index in range(inputs)]
    output = helper.make_tensor_value_info("y", element, dims)
    graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "identity", values, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_onnxruntime_reads_the_input_and_computes_as_torch_does(model: nn.Module, file: Path) -> None:
    runner = BACKENDS["onnxruntime"].open_model(str(file), threads=1, provider="CPUExecutionProvider")
    assert runner.input == InputSpec("images", (None, 3, 8, 8), "float32")
    images = random_inputs(runner.input, (2, 3, 8, 8))
    [logits] = runner.bind(images)()
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_every_provider_that_is_listed_runs(file: Path) -> None:
    backend, default = find_backend("onnxruntime", None)
    assert default == "CPUExecutionProvider"
    for provider in backend.providers():
        if provider in ("AzureExecutionProvider", "CPUExecutionProvider"):  # others need devices
            assert find_backend("onnxruntime", provider)[1] == provider
            runner = backend.open_model(str(file), threads=1, provider=provider)
            assert bind_and_run(str(file), runner, np.zeros((1, 3, 8, 8), np.float32)) is not None


@needs_openvino
def test_openvino_computes_as_onnxruntime_does(file: Path) -> None:
    backend, provider = find_backend("openvino", None)
    runner = backend.open_model(str(file), threads=1, provider=provider)
    assert runner.input == InputSpec("images", (None, 3, 8, 8), "float32")
    images = random_inputs(runner.input, (2, 3, 8, 8))
    [expected] = (
        BACKENDS["onnxruntime"].open_model(str(file), threads=1, provider="CPUExecutionProvider").bind(images)()
    )
    np.testing.assert_allclose(runner.bind(images)()[0], expected, atol=1e-5)


@needs_openvino
def test_openvino_names_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"broken\.onnx: OpenVINO cannot load it"):
        BACKENDS["openvino"].open_model(str(tmp_path / "broken.onnx"), threads=1, provider="CPU")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="openvino is installed")
def test_openvino_that_is_not_installed_is_told() -> None:
    with pytest.raises(InputError, match=r"not installed; pip install 'autoprune\[openvino\]'"):
        find_backend("openvino", None)


def test_torch_runs_a_pruned_folder(tmp_path: Path) -> None:
    spec = ModelSpec("resnet20", 10, 3, 0.25)
    model = build_model(spec)
    save_pruned(tmp_path, model, spec)
    runner = TorchBackend(compiled=False).open_model(str(tmp_path), threads=1, provider="cpu")
    assert runner.input.dims == (None, 3, None, None)
    images = random_inputs(runner.input, (2, 3, 8, 8))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images))
    assert torch.equal(runner.bind(images)(), expected)


def test_torch_builds_a_model_by_name_for_the_images() -> None:
    runner = TorchBackend(compiled=False).open_model("resnet20", threads=1, provider="cpu")
    for channels in (1, 3):
        assert runner.bind(np.zeros((2, channels, 8, 8), np.float32))().shape == (2, 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_torch_compiled_computes_as_eager_does(tmp_path: Path) -> None:
    spec = ModelSpec("resnet20", 10, 1, 0.25)
    save_pruned(tmp_path, build_model(spec), spec)
    images = np.random.default_rng(0).standard_normal((1, 1, 8, 8), dtype=np.float32)
    eager, compiled = (
        TorchBackend(compiled=compiled).open_model(str(tmp_path), threads=1, provider="cpu").bind(images)()
        for compiled in (False, True)
    )
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-4)


def test_what_is_not_there_or_not_taken_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--backend tvm: unknown; use onnxruntime, openvino, torch, torch-compile"):
        find_backend("tvm", None)
    with pytest.raises(InputError, match=r"--provider FPGA: not available; onnxruntime \S+ has CPUExecutionProvider"):
        find_backend("onnxruntime", "FPGA")
    open_model = BACKENDS["onnxruntime"].open_model
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:100])
    for source, message in (
        (tmp_path / "nowhere.onnx", "no such file"),
        (tmp_path, "a folder; --backend onnxruntime takes .onnx files"),
        (tmp_path / "broken.onnx", "ONNX Runtime cannot load it"),
        (write_identity(tmp_path / "two.onnx", [1, 2], inputs=2), r"has 2 inputs \(x0, x1\), must have one"),
        (write_identity(tmp_path / "text.onnx", [1, 2], TensorProto.STRING), r"x0 is tensor\(string\)"),
    ):
        with pytest.raises(InputError, match=f"{source}: .*{message}"):
            open_model(str(source), threads=1, provider="CPUExecutionProvider")
    with pytest.raises(InputError, match=r"net\.onnx: --backend torch and torch-compile take a pruned folder"):
        TorchBackend(compiled=False).open_model(str(file), threads=1, provider="cpu")
    with pytest.raises(InputError, match=r"nowhere: neither a pruned folder .* nor one of resnet20, "):
        TorchBackend(compiled=False).open_model("nowhere", threads=1, provider="cpu")


@pytest.mark.parametrize(
    ("dims", "batch_size", "shape", "expected"),
    [
        ((None, 3, 8, 8), 1, None, (1, 3, 8, 8)),
        ((None, 3, 8, 8), 4, (3, 8, 8), (4, 3, 8, 8)),
        ((2, 5), 2, None, (2, 5)),
        ((None, 3, None, None), 1, (3, 9, 7), (1, 3, 9, 7)),
    ],
)
def test_shapes_that_fit(
    dims: tuple[int | None, ...], batch_size: int, shape: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert resolve_shape("a.onnx", InputSpec("x", dims), batch_size=batch_size, shape=shape) == expected


@pytest.mark.parametrize(
    ("dims", "batch_size", "shape", "message"),
    [
        ((1, 3, 8, 8), 4, None, "a.onnx: takes batches of 1 only, so --batch 4 does not fit"),
        ((None, 3, None, None), 1, None, r"takes inputs \(batch, 3, any, any\); say which, .* --shape 3,224,224"),
        ((None, 3, 8, 8), 1, (1, 8, 8), r"takes inputs \(batch, 3, 8, 8\); --shape 1,8,8 does not fit"),
        ((None, 3, 8, 8), 1, (3, 8), "--shape 3,8 does not fit"),
        ((), 1, None, "its input x is a scalar"),
    ],
)
def test_shapes_that_do_not_fit(
    dims: tuple[int | None, ...], batch_size: int, shape: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_shape("a.onnx", InputSpec("x", dims), batch_size=batch_size, shape=shape)


def test_a_shape_that_only_the_run_can_refuse(tmp_path: Path) -> None:
    """The file leaves height and width open, its linear layer does not."""
    path = tmp_path / "flat.onnx"
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "height", "width"])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    weight = numpy_helper.from_array(np.ones((16, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "flat", [images], [logits], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    runner = BACKENDS["onnxruntime"].open_model(str(path), threads=1, provider="CPUExecutionProvider")
    bind_and_run("flat.onnx", runner, np.zeros((1, 1, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"flat\.onnx: does not run on inputs of shape 1,1,5,5 \("):
        bind_and_run("flat.onnx", runner, np.zeros((1, 1, 5, 5), np.float32))


def test_shapes_as_text() -> None:
    assert parse_shape("1,28,28") == (1, 28, 28)
    for text in ("", "1,x", "0,3", "-1", "3;3"):
        with pytest.raises(InputError, match=f"--shape {text}: expected the positive sizes"):
            parse_shape(text)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.UINT8, "uint8"),
     (TensorProto.INT64, "int64")],
)  # fmt: skip
def test_inputs_of_other_types(tmp_path: Path, element: int, dtype: str) -> None:
    path = write_identity(tmp_path / "x.onnx", ["batch", 1000], element)
    runner = BACKENDS["onnxruntime"].open_model(str(path), threads=1, provider="CPUExecutionProvider")
    images = random_inputs(runner.input, (2, 1000))
    assert images.dtype == dtype
    np.testing.assert_array_equal(runner.bind(images)()[0], images)
    assert len(np.unique(images)) == 2 if dtype == "int64" else len(np.unique(images)) > 100
    np.testing.assert_array_equal(images, random_inputs(runner.input, (2, 1000)))

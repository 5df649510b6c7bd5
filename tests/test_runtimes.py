"""Runtimes run real files, and agree with each other on what they compute and on what they refuse."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoprune.bench.inputs import bind_and_run, only_input, parse_shape, random_inputs, resolve_shape
from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.structure import save_pruned
from autoprune.runtimes.find import RUNTIMES, find_runtime
from autoprune.runtimes.onnxruntime import OnnxRuntime, onnxruntime
from autoprune.runtimes.openvino import OpenVino
from autoprune.runtimes.runtime import InputSpec
from autoprune.runtimes.torch import Torch

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


def images_for(spec: InputSpec, count: int) -> np.ndarray:
    return random_inputs(spec, (count, 3, 8, 8), seed=count)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_it_reads_the_input_and_computes_as_torch_does(model: nn.Module, file: Path, name: str) -> None:
    for source in (file, file.read_bytes()):
        loaded = find_runtime(name).open_model(source, threads=1)
        assert loaded.inputs == (InputSpec("images", (None, 3, 8, 8), "float32"),)
        for count in (2, 5, 2):
            images = images_for(loaded.inputs[0], count)
            with torch.inference_mode():
                expected = model(torch.from_numpy(images)).numpy()
            np.testing.assert_allclose(loaded(images), expected, atol=1e-5)
            np.testing.assert_allclose(loaded.bind(images)(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_answers_are_the_caller_s_to_keep(file: Path, name: str) -> None:
    loaded = find_runtime(name).open_model(file, threads=1)
    first = loaded(images_for(loaded.inputs[0], 2))
    kept = first.copy()
    loaded(-3 * images_for(loaded.inputs[0], 2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_a_broken_file_is_named(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:100])
    runtime = find_runtime(name)
    for broken, message in (
        (tmp_path / "broken.onnx", r"broken\.onnx: \w+ ?\w* cannot load it"),
        (b"no model", "model: .* cannot load it"),
        (tmp_path / "nowhere.onnx", r"nowhere\.onnx: no such file"),
        (tmp_path, "a folder; .* takes .onnx files"),
    ):
        with pytest.raises(InputError, match=message):
            runtime.open_model(broken, threads=1)


def test_every_provider_that_is_listed_runs(file: Path) -> None:
    assert find_runtime("onnxruntime") == OnnxRuntime("CPUExecutionProvider")
    for provider in onnxruntime.get_available_providers():
        if provider in ("AzureExecutionProvider", "CPUExecutionProvider"):  # others need devices
            runtime = find_runtime("onnxruntime", device=provider)
            assert (runtime.name, runtime.device) == ("onnxruntime", provider)
            loaded = runtime.open_model(file, threads=1)
            assert bind_and_run(str(file), loaded, np.zeros((1, 3, 8, 8), np.float32)) is not None


def test_keys_tell_runtimes_apart() -> None:
    """What the latency table is keyed by, as before there was a choice."""
    assert OnnxRuntime().key == f"onnxruntime {onnxruntime.__version__}"
    keys = [find_runtime(name).key for name in RUNTIMES if name != "openvino"]
    assert len(set(keys)) == 2  # that of torch, compiled or not, is of the library


@needs_openvino
def test_openvino_s_key_and_devices() -> None:
    assert find_runtime("openvino") == OpenVino("CPU")
    assert OpenVino().key.startswith("openvino 20")
    with pytest.raises(InputError, match=r"--provider FPGA: not available; openvino \S+ has CPU"):
        find_runtime("openvino", device="FPGA", device_field="--provider")


@needs_openvino
def test_openvino_s_telemetry_is_off(tmp_path: Path) -> None:
    """Left to itself it makes an identifier in the home when it is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    program = "from autoprune.runtimes.openvino import OpenVino; print(OpenVino().key)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("openvino ")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="openvino is installed")
def test_openvino_that_is_not_installed_is_told() -> None:
    with pytest.raises(InputError, match=r"not installed; pip install 'autoprune\[openvino\]'"):
        find_runtime("openvino")


def test_torch_runs_a_pruned_folder(tmp_path: Path) -> None:
    spec = ModelSpec("resnet20", 10, 3, 0.25)
    model = build_model(spec)
    save_pruned(tmp_path, model, spec)
    loaded = Torch().open_model(tmp_path, threads=1)
    assert loaded.inputs[0].dims == (None, 3, None, None)
    images = images_for(loaded.inputs[0], 2)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_array_equal(loaded.bind(images)(), expected)


def test_torch_builds_a_model_by_name_for_the_images() -> None:
    loaded = Torch().open_model(Path("resnet20"), threads=1)
    for channels in (1, 3):
        assert loaded.bind(np.zeros((2, channels, 8, 8), np.float32))().shape == (2, 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_torch_compiled_computes_as_eager_does(tmp_path: Path) -> None:
    spec = ModelSpec("resnet20", 10, 1, 0.25)
    save_pruned(tmp_path, build_model(spec), spec)
    images = np.random.default_rng(0).standard_normal((1, 1, 8, 8), dtype=np.float32)
    eager, compiled = (Torch(compiled=compiled).open_model(tmp_path, threads=1)(images) for compiled in (False, True))
    np.testing.assert_allclose(compiled, eager, atol=1e-4, rtol=1e-4)


def test_what_is_not_there_or_not_taken_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--backend=tvm: unknown; use onnxruntime, openvino, torch, torch-compile"):
        find_runtime("tvm", field="--backend")
    with pytest.raises(InputError, match=r"--provider FPGA: not available; onnxruntime \S+ has CPUExecutionProvider"):
        find_runtime("onnxruntime", device="FPGA", device_field="--provider")
    two = write_identity(tmp_path / "two.onnx", [1, 2], inputs=2)
    with pytest.raises(InputError, match=r"two\.onnx: has 2 inputs \(x0, x1\), must have one"):
        only_input(str(two), OnnxRuntime().open_model(two, threads=1))
    text = write_identity(tmp_path / "text.onnx", [1, 2], TensorProto.STRING)
    with pytest.raises(InputError, match=r"text\.onnx: .*x0 is tensor\(string\)"):
        OnnxRuntime().open_model(text, threads=1)
    for content in (file, file.read_bytes()):
        with pytest.raises(InputError, match="torch and torch-compile take a pruned folder"):
            Torch().open_model(content, threads=1)
    with pytest.raises(InputError, match=r"nowhere: neither a pruned folder .* nor one of resnet20, "):
        Torch().open_model(Path("nowhere"), threads=1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def mine(device): return None", "mine cannot be called so"),
        ("def mine(): return 1", "has no name; a runtime has name, key, device, open_model"),
        ("class mine: name = key = ''; device = 'cpu'; open_model = None", "gives .* as its name, key and device"),
    ],
)
def test_a_user_s_file_that_is_no_runtime_is_named(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(InputError, match=rf"^measure\.runtime={file}:mine: .*{message}"):
        find_runtime(f"{file}:mine")
    with pytest.raises(InputError, match=r"--provider X: .* chooses its own"):
        find_runtime(f"{file}:mine", device="X", device_field="--provider")


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
    loaded = OnnxRuntime().open_model(path, threads=1)
    bind_and_run("flat.onnx", loaded, np.zeros((1, 1, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"flat\.onnx: does not run on inputs of shape 1,1,5,5 \("):
        bind_and_run("flat.onnx", loaded, np.zeros((1, 1, 5, 5), np.float32))


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
    loaded = OnnxRuntime().open_model(path, threads=1)
    images = random_inputs(loaded.inputs[0], (2, 1000))
    assert images.dtype == dtype
    np.testing.assert_array_equal(loaded.bind(images)(), images)
    assert len(np.unique(images)) == 2 if dtype == "int64" else len(np.unique(images)) > 100
    np.testing.assert_array_equal(images, random_inputs(loaded.inputs[0], (2, 1000)))

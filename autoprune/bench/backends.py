"""What can run a model to be timed: ONNX Runtime, OpenVINO, PyTorch eager and compiled. A backend's library is imported
only when it is used.
"""

import importlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoprune.foundation.errors import InputError, RunError
from autoprune.measure.device import CPU_PROVIDER
from autoprune.measure.timing import Call

Array = np.ndarray[Any, Any]

BUILT_IN_CLASSES = 10  # of a built-in architecture that is timed by its name, with fresh weights
RECOMPILE_LIMIT = 1024  # of torch.compile, for each `forward`: files, batch sizes and loads share it
ELEMENT_TYPES = {  # ONNX Runtime's and OpenVINO's names
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64",
}  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """The one input of a model: its name, dimensions (None: any; the first is the batch) and numpy element type."""

    name: str
    dims: tuple[int | None, ...]
    dtype: str = "float32"


class Runner(Protocol):
    """A loaded model."""

    @property
    def input(self) -> InputSpec: ...

    def bind(self, images: Array) -> Call:
        """A call that runs the model on `images` (batch, ...) and returns when the result is there."""
        ...


class Backend(Protocol):
    """A runtime with its devices, here called providers; the first is the default."""

    def runtime(self) -> str:
        """Name and version; `InputError` if it is not installed."""
        ...

    def providers(self) -> tuple[str, ...]: ...

    def open_model(self, source: str, *, threads: int, provider: str) -> Runner:
        """Load a file, or what the backend takes instead. Raises `InputError` naming `source`."""
        ...


@dataclass(frozen=True)
class _BoundRunner:
    session: Any
    input: InputSpec

    def bind(self, images: Array) -> Call:
        session, feed = self.session, {self.input.name: images}
        return lambda: session.run(None, feed)


class OnnxRuntimeBackend:
    """Sessions as `measure.latency` makes them (denormals set to zero), with any provider that is installed."""

    def runtime(self) -> str:
        from autoprune.runtimes.onnx_runtime import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def providers(self) -> tuple[str, ...]:
        from autoprune.runtimes.onnx_runtime import onnxruntime

        available = onnxruntime.get_available_providers()
        return (CPU_PROVIDER, *(name for name in available if name != CPU_PROVIDER))

    def open_model(self, source: str, *, threads: int, provider: str) -> Runner:
        from autoprune.measure.latency import make_session

        require_onnx_file(source, "onnxruntime")
        session = make_session(Path(source), threads=threads, provider=provider)
        if provider not in session.get_providers():  # it falls back to the CPU in silence
            raise InputError(
                f"--provider {provider}: ONNX Runtime could not start it; its libraries or its device are missing"
            )
        inputs = session.get_inputs()
        return _BoundRunner(session, _spec(source, [(item.name, item.shape, item.type) for item in inputs]))


class OpenVinoBackend:
    """OpenVINO in full float32, compiled for the very shape that is run."""

    def runtime(self) -> str:
        return f"openvino {_openvino().__version__.partition('-')[0]}"

    def providers(self) -> tuple[str, ...]:
        return ("CPU", *(name for name in _openvino().Core().available_devices if name != "CPU"))

    def open_model(self, source: str, *, threads: int, provider: str) -> Runner:
        require_onnx_file(source, "openvino")
        core = _openvino().Core()
        try:
            model = core.read_model(source)
        except RuntimeError as error:
            raise InputError(f"{source}: OpenVINO cannot load it ({error})") from None
        inputs = [(item.any_name, _openvino_dims(item), item.element_type.get_type_name()) for item in model.inputs]
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if provider == "CPU":
            settings |= {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        return _OpenVinoRunner(core, model, provider, settings, _spec(source, inputs))


@dataclass(frozen=True)
class _OpenVinoRunner:
    core: Any
    model: Any
    provider: str
    settings: dict[str, str]
    input: InputSpec

    def bind(self, images: Array) -> Call:
        model = self.model.clone()
        model.reshape(list(images.shape))
        request = self.core.compile_model(model, self.provider, self.settings).create_infer_request()
        return lambda: request.infer([images], share_inputs=True, share_outputs=True)


@dataclass(frozen=True)
class TorchBackend:
    """PyTorch on the CPU: a pruned folder, or a built-in architecture with fresh weights."""

    compiled: bool

    def runtime(self) -> str:
        return f"torch {metadata.version('torch')}"

    def providers(self) -> tuple[str, ...]:
        return ("cpu",)

    def open_model(self, source: str, *, threads: int, provider: str) -> Runner:
        if source.endswith(".onnx"):
            raise InputError(
                f"{source}: --backend torch and torch-compile take a pruned folder (RUN/pruned) or a built-in model "
                "such as resnet20; for .onnx files use onnxruntime or openvino"
            )
        import torch

        from autoprune.models import BUILT_IN
        from autoprune.pruning.structure import STRUCTURE_FILE, load_pruned

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        folder = Path(source)
        if source in BUILT_IN:
            return _TorchRunner(source, None, self.compiled, InputSpec("images", (None,) * 4))
        if not (folder / STRUCTURE_FILE).is_file():
            raise InputError(
                f"{source}: neither a pruned folder (RUN/pruned, with its {STRUCTURE_FILE}) nor one of "
                f"{', '.join(BUILT_IN)}, which --backend torch and torch-compile take"
            )
        model = load_pruned(folder)
        first = next((layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)), None)
        channels = first.in_channels if first is not None else None
        return _TorchRunner(source, model, self.compiled, InputSpec("images", (None, channels, None, None)))


@dataclass(frozen=True)
class _TorchRunner:
    source: str
    model: Any  # None: a built-in architecture, made when its input channels are known
    compiled: bool
    input: InputSpec

    def bind(self, images: Array) -> Call:
        import torch

        from autoprune.models import ModelSpec, build_model

        model = self.model or build_model(ModelSpec(self.source, BUILT_IN_CLASSES, images.shape[1]))
        batch = torch.from_numpy(images)
        if self.compiled:
            # Past its limit torch falls back to eager execution, which must not be timed as compiled.
            importlib.import_module("torch._dynamo").config.recompile_limit = RECOMPILE_LIMIT
            model = torch.compile(model, dynamic=False)

        def run() -> object:
            with torch.inference_mode():
                return model(batch)

        try:
            run()  # compiles
        except Exception as error:
            if self.compiled:
                raise RunError(f"{self.source}: torch cannot compile and run it ({error})") from None
            raise
        return run


BACKENDS: dict[str, Backend] = {
    "onnxruntime": OnnxRuntimeBackend(),
    "openvino": OpenVinoBackend(),
    "torch": TorchBackend(compiled=False),
    "torch-compile": TorchBackend(compiled=True),
}


def find_backend(name: str, provider: str | None) -> tuple[Backend, str]:
    """The backend and its provider (the default for None); `InputError` lists what there is."""
    if name not in BACKENDS:
        raise InputError(f"--backend {name}: unknown; use {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    available = backend.providers()
    if provider is not None and provider not in available:
        raise InputError(f"--provider {provider}: not available; {backend.runtime()} has {', '.join(available)}")
    return backend, provider or available[0]


def require_onnx_file(source: str, backend: str) -> None:
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{source}: a folder; --backend {backend} takes .onnx files")
    if not path.is_file():
        raise InputError(f"{source}: no such file")


def _spec(source: str, inputs: list[tuple[str, Any, str]]) -> InputSpec:
    if len(inputs) != 1:
        raise InputError(f"{source}: has {len(inputs)} inputs ({', '.join(item[0] for item in inputs)}), must have one")
    name, dims, element = inputs[0]
    if element not in ELEMENT_TYPES:
        raise InputError(f"{source}: input {name} is {element}; only numbers can be made up")
    return InputSpec(
        name, tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in dims), ELEMENT_TYPES[element]
    )


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise InputError("--backend openvino: not installed; pip install 'autoprune[openvino]'") from None


def _openvino_dims(item: Any) -> list[int | None]:
    return [None if dim.is_dynamic else dim.get_length() for dim in item.partial_shape]

"""OpenVINO in full float32, compiled for the very shapes that are run. Imported only when it is used, and without its
telemetry.

As it comes, 2026.4 makes an identifier under `~/intel` when it is imported, and sends an event to Google Analytics. It
does without where the package `openvino_telemetry` cannot be imported.
"""

import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoprune.errors import InputError
from autoprune.runtimes.runtime import Array, InputSpec, chosen_device, input_specs, require_file, shown_name

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


@dataclass(frozen=True)
class OpenVino:
    """The extra `openvino`. Raises `InputError` when it is used without it."""

    device: str = "CPU"
    name: ClassVar[str] = "openvino"

    @property
    def key(self) -> str:
        return f"openvino {_openvino().__version__.partition('-')[0]}"

    def open_model(self, model: Path | bytes, *, threads: int) -> "LoadedOpenVino":
        require_file(model, "OpenVINO")
        core = _openvino().Core()
        try:
            read = core.read_model(io.BytesIO(model) if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            raise InputError(f"{shown_name(model)}: OpenVINO cannot load it ({error})") from None
        inputs = [(item.any_name, _dims(item), item.element_type.get_type_name()) for item in read.inputs]
        settings = dict(SETTINGS)
        if self.device == "CPU":
            settings |= {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        return LoadedOpenVino(core, read, self.device, settings, input_specs(shown_name(model), inputs))


@dataclass(frozen=True)
class LoadedOpenVino:
    core: Any
    model: Any
    device: str
    settings: dict[str, str]
    inputs: tuple[InputSpec, ...]
    _compiled: dict[tuple[tuple[int, ...], ...], Any] = field(default_factory=dict)  # for the shapes of the last call

    def __call__(self, *arrays: Array) -> Array:
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._compiled:
            self._compiled.clear()
            self._compiled[shapes] = self._request(*arrays)
        return np.asarray(self._compiled[shapes].infer(list(arrays), share_inputs=True)[0])

    def bind(self, *arrays: Array) -> Callable[[], Array]:
        request, given = self._request(*arrays), list(arrays)
        return lambda: request.infer(given, share_inputs=True, share_outputs=True)[0]

    def _request(self, *arrays: Array) -> Any:
        model = self.model.clone()
        model.reshape({item.any_name: list(array.shape) for item, array in zip(model.inputs, arrays, strict=True)})
        return self.core.compile_model(model, self.device, self.settings).create_infer_request()


def on_device(device: str | None, *, field: str) -> OpenVino:
    """On the device of this name, the CPU for None. Raises `InputError` if it, or OpenVINO itself, is not there."""
    others = [name for name in _openvino(field=field).Core().available_devices if name != "CPU"]
    return OpenVino(chosen_device(device, ["CPU", *others], OpenVino().key, field=field))


def _openvino(*, field: str = "openvino") -> Any:
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # so it cannot be imported
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise InputError(f"{field}: OpenVINO is not installed; pip install 'autoprune[openvino]'") from None


def _dims(item: Any) -> list[int | None]:
    return [None if dim.is_dynamic else dim.get_length() for dim in item.partial_shape]

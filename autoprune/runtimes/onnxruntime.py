"""ONNX Runtime with its telemetry off; every other module takes it from here.

As it comes, 1.32 makes a device identifier and a queue of events under `~/.cache/Microsoft`, a file `.ses` in the
temporary folder, and looks up a host to send the events to: all that at its import, before any session. So the variable
that stops it must stand before the import; `disable_telemetry_events()` comes too late (measured). Processes that this
one starts inherit the variable.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoprune.errors import InputError
from autoprune.runtimes.runtime import Array, InputSpec, chosen_device, input_specs, require_file, shown_name

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"

os.environ[TELEMETRY_SWITCH] = "1"

import onnxruntime as onnxruntime  # noqa: E402  (for others to import from here)

CPU_PROVIDER = "CPUExecutionProvider"
OPTIMISED_FILE = "optimised.onnx"


def make_session(
    model: Path | bytes,
    *,
    threads: int,
    provider: str = CPU_PROVIDER,
    gives_way: bool = False,
    profiled_in: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session with denormals set to zero. Raises `InputError` if the file is missing or no ONNX model.

    Between calls its threads wait for the next one busily, unless it `gives_way` to other work on the same cores. With
    a folder `profiled_in` the time of each node is taken, and goes there with the graph that is really run
    (`OPTIMISED_FILE`).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1" if gives_way else "0")
    if profiled_in is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiled_in / "profile")
        options.optimized_model_filepath = str(profiled_in / OPTIMISED_FILE)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InputError(f"{shown_name(model)}: ONNX Runtime cannot load it ({error})") from None


@dataclass(frozen=True)
class OnnxRuntime:
    """Sessions of one execution provider."""

    device: str = CPU_PROVIDER
    name: ClassVar[str] = "onnxruntime"

    @property
    def key(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    def open_model(self, model: Path | bytes, *, threads: int) -> "LoadedSession":
        require_file(model, "ONNX Runtime")
        session = make_session(model, threads=threads, provider=self.device)
        if self.device not in session.get_providers():  # it falls back to the CPU in silence
            raise InputError(f"{self.device}: ONNX Runtime could not start it; its libraries or its device are missing")
        inputs = [(item.name, item.shape, item.type) for item in session.get_inputs()]
        return LoadedSession(session, input_specs(shown_name(model), inputs))


@dataclass(frozen=True)
class LoadedSession:
    session: Any
    inputs: tuple[InputSpec, ...]

    def __call__(self, *arrays: Array) -> Array:
        return np.asarray(self.bind(*arrays)())

    def bind(self, *arrays: Array) -> Callable[[], Array]:
        session = self.session
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        return lambda: session.run(None, feed)[0]


def on_provider(device: str | None, *, field: str) -> OnnxRuntime:
    """With the execution provider of this name, the CPU's for None. Raises `InputError` if it is not installed."""
    available = [name for name in onnxruntime.get_available_providers() if name != CPU_PROVIDER]
    return OnnxRuntime(chosen_device(device, [CPU_PROVIDER, *available], OnnxRuntime().key, field=field))

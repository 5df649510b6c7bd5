"""ONNX Runtime without the blocked layout that it has on x86: as builds for other processors run a file. Its times have
other steps, so that other widths are worth keeping.

`measure.runtime: examples/plugins/plain_layout.py:PlainLayout`
"""

from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import InputError
from autoprune.runtimes.onnxruntime import CPU_PROVIDER, LoadedSession, onnxruntime
from autoprune.runtimes.runtime import input_specs, require_file, shown_name


@dataclass(frozen=True)
class PlainLayout:
    name: str = "plain-layout"
    device: str = CPU_PROVIDER

    @property
    def key(self) -> str:
        return f"onnxruntime {onnxruntime.__version__} without blocked layouts"

    def open_model(self, model: Path | bytes, *, threads: int) -> LoadedSession:
        require_file(model, self.name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = onnxruntime.InferenceSession(source, options, providers=[self.device])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(f"{shown_name(model)}: ONNX Runtime cannot load it ({error})") from None
        inputs = [(item.name, item.shape, item.type) for item in session.get_inputs()]
        return LoadedSession(session, input_specs(shown_name(model), inputs))

"""PyTorch, eager or compiled, on the CPU. It takes no exported file: a pruned folder, or a built-in architecture."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import InputError, RunError
from autoprune.runtimes.runtime import Array, InputSpec, chosen_device

BUILT_IN_CLASSES = 10  # of a built-in architecture that is timed by its name, with fresh weights
RECOMPILE_LIMIT = 1024  # of torch.compile, for each `forward`: files, batch sizes and loads share it


@dataclass(frozen=True)
class Torch:
    """For `autoprune bench` alone, as what it loads is no file that a run exports."""

    compiled: bool = False
    device: str = "cpu"

    @property
    def name(self) -> str:
        return "torch-compile" if self.compiled else "torch"

    @property
    def key(self) -> str:
        from importlib import metadata  # not above: it takes megabytes where memory is measured

        return f"torch {metadata.version('torch')}"

    def open_model(self, model: Path | bytes, *, threads: int) -> "LoadedTorch":
        """A pruned folder (`RUN/pruned`), or the name of a built-in architecture, which gets fresh weights."""
        if isinstance(model, bytes) or model.suffix == ".onnx":
            raise InputError(
                f"{'model' if isinstance(model, bytes) else model}: torch and torch-compile take a pruned folder "
                "(RUN/pruned) or a built-in model such as resnet20; for .onnx files use onnxruntime or openvino"
            )
        import torch

        from autoprune.models.build import BUILT_IN
        from autoprune.pruning.structure import STRUCTURE_FILE, load_pruned

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        if str(model) in BUILT_IN:
            return LoadedTorch(str(model), None, self.compiled, (InputSpec("images", (None,) * 4),))
        if not (model / STRUCTURE_FILE).is_file():
            raise InputError(
                f"{model}: neither a pruned folder (RUN/pruned, with its {STRUCTURE_FILE}) nor one of "
                f"{', '.join(BUILT_IN)}, which torch and torch-compile take"
            )
        pruned = load_pruned(model)
        first = next((layer for layer in pruned.modules() if isinstance(layer, torch.nn.Conv2d)), None)
        channels = first.in_channels if first is not None else None
        return LoadedTorch(str(model), pruned, self.compiled, (InputSpec("images", (None, channels, None, None)),))


@dataclass(frozen=True)
class LoadedTorch:
    source: str
    model: Any  # None: a built-in architecture, made when its input channels are known
    compiled: bool
    inputs: tuple[InputSpec, ...]

    def __call__(self, *arrays: Array) -> Array:
        return self.bind(*arrays)()

    def bind(self, *arrays: Array) -> Callable[[], Array]:
        import torch

        from autoprune.models import ModelSpec, build_model

        (images,) = arrays
        model = self.model or build_model(ModelSpec(self.source, BUILT_IN_CLASSES, images.shape[1]))
        batch = torch.from_numpy(images)
        if self.compiled:
            # Past its limit torch falls back to eager execution, which must not be timed as compiled.
            importlib.import_module("torch._dynamo").config.recompile_limit = RECOMPILE_LIMIT
            model = torch.compile(model, dynamic=False)

        def run() -> Array:
            with torch.inference_mode():
                return model(batch).numpy()  # type: ignore[no-any-return]

        try:
            run()  # compiles
        except Exception as error:
            if self.compiled:
                raise RunError(f"{self.source}: torch cannot compile and run it ({error})") from None
            raise
        return run


def eager(device: str | None, *, field: str) -> Torch:
    return Torch(device=chosen_device(device, ["cpu"], Torch().key, field=field))


def compiled(device: str | None, *, field: str) -> Torch:
    return Torch(compiled=True, device=chosen_device(device, ["cpu"], Torch().key, field=field))

"""What is asked of a model before any work: that it can be followed, and that its file answers as it does."""

from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.data import SearchData, normalise
from autoprune.errors import ModelError, RunError
from autoprune.export.onnx_file import check_parity, export_onnx
from autoprune.progress import say
from autoprune.pruning.groups import guessed_groups
from autoprune.pruning.plain import bake, check_module
from autoprune.scratch import scratch_folder
from autoprune.training.memory_format import keep_channels_first, runs_channels_last

BATCHES = (1, 2, 5, 16)  # of real images, the first of the search split


def made_plain(model: nn.Module) -> None:
    """Bake parametrisations in and thaw frozen parameters, in place, and say so."""
    check_module(model)
    if baked := bake(model):
        say(f"parametrised weights are baked in, as they act: {_some(baked)}")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        model.requires_grad_(True)
        say(f"{len(frozen)} frozen parameters are thawed for fine-tuning: {_some(frozen)}")


def check_answers(model: nn.Module, data: SearchData, name: str) -> None:
    """Raise `ModelError` unless `model` can be followed and its exported file answers as it does, on real images.

    Several batch sizes are tried: code may have taken one for a number. A model that does not run with its channels
    last in memory is made to keep them first.
    """
    shown = normalise(data.search.images[: max(BATCHES)], data.info)
    guessed_groups(model, (shown[:2],))
    if not runs_channels_last(model, shown[:2]):
        keep_channels_first(model)
    with scratch_folder() as folder:
        path = folder / "original.onnx"
        try:
            export_onnx(model, path, data.info)
        except RunError as error:
            raise ModelError(f"{name}: {_without(error, path)}; write it with operations that ONNX has") from None
        for size in BATCHES:
            _check_batch(model, path, shown[:size], name)


def _check_batch(model: nn.Module, path: Path, images: Tensor, name: str) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            check_parity(model, path, images)
    except RunError as error:
        raise ModelError(
            f"{name}: its exported file does not answer as it does on {len(images)} images ({_without(error, path)}): "
            f"control flow that depends on the input, or on the batch's size, cannot be exported; use tensor "
            f"operations, and x.shape[0] for len(x)"
        ) from None


def _without(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

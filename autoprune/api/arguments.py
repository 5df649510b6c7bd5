"""What `autoprune.compress` is given, checked before any work: each mistake is told with the argument's name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from autoprune.config import RunConfig, TargetConfig
from autoprune.data import ImageSplit, SearchData
from autoprune.data.splits import check_split
from autoprune.errors import InputError, shown
from autoprune.foundation.paths import user_path

TARGET_EXAMPLE = '{"metric": "latency", "max_ratio": 0.5}'


def check_model(model: Any) -> None:
    """Raise `InputError` unless `model` is a name, or a module with dense float32 weights on the CPU."""
    if isinstance(model, str):
        return
    if isinstance(model, type):
        raise InputError(f"model: {model.__name__} is a class; give a trained instance of it")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model: is a TorchScript module, which cannot be cut; give the nn.Module that it was made from"
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"model: must be a trained nn.Module or the name of a model, got {shown(model)}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(f"model: {name} has no values yet; run a batch through the model, and train it")
        if tensor.is_meta:
            raise InputError(f"model: {name} is on the meta device and holds no values; load the weights first")
        if tensor.device.type != "cpu":
            raise InputError(f"model: {name} is on {tensor.device}; call .cpu() on the model")
        if tensor.layout != torch.strided:
            raise InputError(f"model: {name} is sparse ({tensor.layout}); call .to_dense() on it")
        if tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"model: {name} is {tensor.dtype}; only float32 models can be pruned")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InputError(f"model: {name} is {tensor.dtype}; call .float() on the model")


def check_data(data: Any, test: Any) -> None:
    """Raise `InputError` unless `data` is a name or splits, and `test` one that fits them.

    What a `DataInfo`, an `ImageSplit` and a `SearchData` must be, they see to themselves when they are made.
    """
    if test is not None and not isinstance(test, ImageSplit):
        raise InputError(f"test: must be an ImageSplit(images, labels), got {shown(test)}")
    if isinstance(data, str):
        return
    if not isinstance(data, SearchData):
        raise InputError(
            f"data: must be the name of a data set or a SearchData(info, train, search), got {shown(data)}"
        )
    if test is None:
        raise InputError("test: data given as SearchData needs a test split, as in test=ImageSplit(images, labels)")
    info = data.info
    if not isinstance(info.name, str) or not info.name.strip():
        raise InputError(f"data.info.name: must be a name, got {shown(info.name)}")
    if info.num_classes < 2:
        raise InputError(f"data.info.classes: must be a tuple of two names or more, got {shown(info.classes)}")
    check_split(test, info, "test: the test split")


def check_target(target: Any) -> list[dict[str, Any]]:
    """The bounds as plain values, of which only the types are checked; `InputError` names `target`."""
    bounds = [target] if isinstance(target, TargetConfig | Mapping) else target
    if isinstance(bounds, str) or not isinstance(bounds, Sequence) or not bounds:
        raise InputError(f"target: must be a bound such as {TARGET_EXAMPLE}, or a list of them, got {shown(target)}")
    plain = []
    for bound in bounds:
        if not isinstance(bound, TargetConfig | Mapping):
            raise InputError(f"target: must hold bounds such as {TARGET_EXAMPLE}, got {shown(bound)}")
        plain.append(bound.model_dump() if isinstance(bound, TargetConfig) else dict(bound))
    return plain


def check_settings(config: Any, checkpoint: Any, resume: Any, model: Any) -> None:
    """Raise `InputError` unless the other arguments are of their types; a checkpoint goes with a model's name."""
    if config is not None and not isinstance(config, RunConfig):
        raise InputError(f"config: must be a RunConfig, as of autoprune.config.file.load_config, got {shown(config)}")
    if config is not None and config.problem == "toy":
        raise InputError("config: problem: toy has no model to prune")
    if not isinstance(resume, bool):
        raise InputError(f"resume: must be True or False, got {shown(resume)}")
    if checkpoint is None:
        return
    if not isinstance(model, str):
        raise InputError("checkpoint: a model given as an object holds its weights; leave checkpoint out")
    user_path(checkpoint, field="checkpoint")


def check_run_folder(run_dir: Any) -> Path:
    """`run_dir` as a path; `InputError` names it if it can be none."""
    if not isinstance(run_dir, str | os.PathLike):
        raise InputError(f"run_dir: must be the folder where results go, got {shown(run_dir)}")
    return user_path(run_dir, field="run_dir")

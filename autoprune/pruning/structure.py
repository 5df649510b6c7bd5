"""A pruned model on disk: `structure.json` (shapes) and `model.safetensors` (weights); no pickle, no code."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.errors import InputError, ModelError, shown
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.paths import user_path
from autoprune.models import ModelSpec, build_model, is_factory, load_weights, save_weights
from autoprune.pruning.branches import Nothing, remove_layers
from autoprune.pruning.elastic import resized
from autoprune.pruning.layers import is_resized, kind_of, layer_sides, tensors_of
from autoprune.pruning.plain import plain_copy

SCHEMA = 1
STRUCTURE_FILE, WEIGHTS_FILE = "structure.json", "model.safetensors"
MOST_CLASSES, MOST_CHANNELS, MOST_WIDTH = 1_000_000, 4096, 64.0  # of an original that a file may ask to be built
MOST_PARAMS = 4_000_000_000


@dataclass(frozen=True)
class _Structure:
    """What the file says: sizes (out, in) of layers, shapes of bare tensors that were cut, and what is gone."""

    spec: ModelSpec | None
    layers: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, tuple[int, ...]]
    gone: tuple[str, ...]


def save_pruned(folder: Path, model: nn.Module, spec: ModelSpec | None) -> None:
    """Write both files. `spec` None: the model came as an object, and loading needs the original object again."""
    layers = {
        name: {"out_channels": layer_sides(module)[0], "in_channels": layer_sides(module)[1]}
        for name, module in model.named_modules()
        if kind_of(module) is not None
    }
    tensors = {
        f"{name}.{field}" if name else field: list(tensor.shape)
        for name, module in model.named_modules()
        for field, tensor in tensors_of(module).items()
        if not is_resized(module, field)
    }
    gone = [name for name, module in model.named_modules() if isinstance(module, Nothing)]
    written: dict[str, Any] = {"schema": SCHEMA, "model": asdict(spec) if spec is not None else None, "layers": layers}
    save_weights(model, folder / WEIGHTS_FILE)
    write_json(folder / STRUCTURE_FILE, written | {"tensors": tensors, "gone": gone})


def load_pruned(folder: Path | str, *, architecture: nn.Module | None = None) -> nn.Module:
    """The pruned model in evaluation mode.

    `architecture`, the unpruned model, is built from the name in the file unless it is given; then it stays as it is. A
    model from a factory, or one that came as an object, must be given: the file chooses no code to run.
    Raises `InputError` or `ModelError` naming the file and what does not fit, before anything large is made.
    """
    folder = user_path(folder, field="folder")
    if architecture is not None and not isinstance(architecture, nn.Module):
        raise InputError(
            f"architecture: must be the model before it was pruned, an nn.Module, got {shown(architecture)}"
        )
    path = folder / STRUCTURE_FILE
    structure = _read(path)
    if architecture is None:
        spec = _buildable(structure.spec, path)
        try:
            with torch.device("meta"):  # no memory is taken
                unpruned = build_model(spec)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        if sum(parameter.numel() for parameter in unpruned.parameters()) > MOST_PARAMS:
            raise ModelError(f"{path}: the model before pruning would have more than {MOST_PARAMS:,} parameters")
        _check_fits(unpruned, structure, path)
        model = build_model(spec)
    else:
        _check_fits(architecture, structure, path)
        model = plain_copy(architecture)
    model = resized(model, structure.layers, structure.tensors)
    remove_layers(model, structure.gone)
    load_weights(model, str(folder / WEIGHTS_FILE))
    model.eval()
    return model


def _read(path: Path) -> _Structure:
    raw = read_json(path)
    try:
        if raw["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {raw['schema']} is not supported (this version reads {SCHEMA})")
        return _Structure(
            _spec(raw["model"]) if raw["model"] is not None else None,
            {
                str(name): (_whole(layer["out_channels"]), _whole(layer["in_channels"]))
                for name, layer in raw["layers"].items()
            },
            {str(name): tuple(map(_whole, shape)) for name, shape in raw.get("tensors", {}).items()},
            tuple(str(name) for name in raw.get("gone", [])),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not the structure of a pruned model ({str(error)[:200]})") from None


def _spec(raw: Mapping[str, Any]) -> ModelSpec:
    spec = ModelSpec(str(raw["name"]), _whole(raw["num_classes"]), _whole(raw["in_channels"]), float(raw["width"]))
    if not 1 <= spec.num_classes <= MOST_CLASSES:
        raise ValueError(f"num_classes must be in 1..{MOST_CLASSES}")
    if not 1 <= spec.in_channels <= MOST_CHANNELS:
        raise ValueError(f"in_channels must be in 1..{MOST_CHANNELS}")
    if not (math.isfinite(spec.width) and 0 < spec.width <= MOST_WIDTH):
        raise ValueError(f"width must be above 0 and up to {MOST_WIDTH:g}")
    return spec


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _buildable(spec: ModelSpec | None, path: Path) -> ModelSpec:
    if spec is None:
        raise InputError(f"{path}: the model was given as an object; pass the original as architecture=")
    if is_factory(spec.name):  # a stranger's file must not choose what code runs
        raise InputError(f"{path}: the model comes from the factory {spec.name}; pass what it makes as architecture=")
    return spec


def _check_fits(unpruned: nn.Module, structure: _Structure, path: Path) -> None:
    """Raises `ModelError` for what is no cut of this architecture."""
    modules = dict(unpruned.named_modules())
    for name in structure.gone:
        if not name or name not in modules or name in structure.layers:
            raise ModelError(f"{path}: layer {name}, which is gone, does not fit the architecture")
    for name, (out_channels, in_channels) in structure.layers.items():
        module = modules.get(name)
        if module is None or kind_of(module) is None or not _is_cut_of(module, out_channels, in_channels):
            raise ModelError(f"{path}: layer {name} does not fit the architecture")
    for name, shape in structure.tensors.items():
        parent, _, field = name.rpartition(".")
        tensor = tensors_of(modules[parent]).get(field) if parent in modules else None
        if (
            tensor is None
            or tensor.dim() != len(shape)
            or not all(1 <= size <= most or size == most for size, most in zip(shape, tensor.shape, strict=True))
        ):
            raise ModelError(f"{path}: tensor {name} does not fit the architecture")


def _is_cut_of(module: nn.Module, out_channels: int, in_channels: int) -> bool:
    most_out, most_in = layer_sides(module)
    return min(1, most_out) <= out_channels <= most_out and min(1, most_in) <= in_channels <= most_in

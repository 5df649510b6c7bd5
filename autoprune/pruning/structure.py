"""A pruned model on disk: `structure.json` (shapes) and `model.safetensors` (weights); no pickle, no code."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from torch import Tensor, nn

from autoprune.errors import InputError, ModelError, shown
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.paths import user_path
from autoprune.models import ModelSpec, build_model, load_weights, save_weights
from autoprune.models.build import is_factory
from autoprune.pruning.branches import Nothing
from autoprune.pruning.elastic import Kept, cut_sides, sliced_tensors
from autoprune.pruning.layers import SIDES, Axis, is_resized, kind_of, layer_sides, tensors_of
from autoprune.pruning.plain import plain_copy

SCHEMA = 1
STRUCTURE_FILE, WEIGHTS_FILE = "structure.json", "model.safetensors"
MOST_CLASSES, MOST_CHANNELS, MOST_WIDTH = 1_000_000, 4096, 64.0  # of an original that a file may ask to be built
MOST_PARAMS = 4_000_000_000


class _Spec(BaseModel):
    """`ModelSpec`, in a stranger's file."""

    model_config = ConfigDict(strict=True)

    name: str
    num_classes: int = Field(ge=1, le=MOST_CLASSES)
    in_channels: int = Field(ge=1, le=MOST_CHANNELS)
    width: float = Field(gt=0, le=MOST_WIDTH, allow_inf_nan=False)


class _Sides(BaseModel):
    out_channels: StrictInt
    in_channels: StrictInt


class _Structure(BaseModel):
    """What the file says: sizes of layers, shapes of bare tensors that were cut, and what is gone."""

    schema_number: int = Field(alias="schema")
    model: _Spec | None
    layers: dict[str, _Sides]
    tensors: dict[str, tuple[StrictInt, ...]] = {}
    gone: tuple[str, ...] = ()


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
        spec = _buildable(structure.model, path)
        try:
            with torch.device("meta"):  # no memory is taken
                unpruned = build_model(spec)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        if sum(parameter.numel() for parameter in unpruned.parameters()) > MOST_PARAMS:
            raise ModelError(f"{path}: the model before pruning would have more than {MOST_PARAMS:,} parameters")
        kept = _kept(unpruned, structure, path)
        model = build_model(spec)
    else:
        kept = _kept(architecture, structure, path)
        model = plain_copy(architecture)
    model = cut_sides(model, kept, structure.gone)
    load_weights(model, str(folder / WEIGHTS_FILE))
    model.eval()
    return model


def _read(path: Path) -> _Structure:
    raw = read_json(path)
    if isinstance(raw, dict) and raw.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path}: schema {shown(raw['schema'])} is not supported (this version reads {SCHEMA})")
    try:
        return _Structure.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: not the structure of a pruned model ({where[:200]}: {first['msg']})") from None


def _buildable(spec: _Spec | None, path: Path) -> ModelSpec:
    if spec is None:
        raise InputError(f"{path}: the model was given as an object; pass the original as architecture=")
    if is_factory(spec.name):  # a stranger's file must not choose what code runs
        raise InputError(f"{path}: the model comes from the factory {spec.name}; pass what it makes as architecture=")
    return ModelSpec(**spec.model_dump())


def _kept(unpruned: nn.Module, structure: _Structure, path: Path) -> Kept:
    """So many channels of each cut side as the file says; which ones does not matter, all weights are read afterwards.

    Raises `ModelError` for what is no cut of this architecture.
    """
    modules = dict(unpruned.named_modules())
    kept: dict[tuple[str, Axis], Tensor] = {}
    for name in structure.gone:
        if not name or name not in modules or name in structure.layers:
            raise ModelError(f"{path}: layer {name}, which is gone, does not fit the architecture")
    for name, sides in structure.layers.items():
        module = modules.get(name)
        if module is None or (kind := kind_of(module)) is None:
            raise ModelError(f"{path}: layer {name} does not fit the architecture")
        for axis, size, most in zip(SIDES, (sides.out_channels, sides.in_channels), layer_sides(module), strict=True):
            lengths = [tensor.shape[dim] for tensor, dim in sliced_tensors(unpruned, name, axis)]
            if size != most and not 1 <= size <= min((most, *lengths)):
                raise ModelError(f"{path}: layer {name} does not fit the architecture")
            if size != most and axis in kind.tensors:
                kept[name, axis] = torch.arange(size)
    for name, shape in structure.tensors.items():
        parent, _, field = name.rpartition(".")
        tensor = tensors_of(modules[parent]).get(field) if parent in modules else None
        if tensor is None or tensor.dim() != len(shape):
            raise ModelError(f"{path}: tensor {name} does not fit the architecture")
        for dim, (size, most) in enumerate(zip(shape, tensor.shape, strict=True)):
            if size != most and not 1 <= size <= most:
                raise ModelError(f"{path}: tensor {name} does not fit the architecture")
            if size != most:
                kept[name, f"dim{dim}"] = torch.arange(size)
    return kept

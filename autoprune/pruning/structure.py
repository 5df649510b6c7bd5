"""A pruned model on disk: `structure.json` (shapes) and `model.safetensors` (weights); no pickle, no code."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.errors import InputError, ModelError
from autoprune.files import read_json, write_json
from autoprune.models import ModelSpec, build_model, is_factory, load_weights, save_weights
from autoprune.pruning.branches import Nothing, remove_layers
from autoprune.pruning.elastic import resize_layer
from autoprune.pruning.layers import layer_sides

SCHEMA = 1
STRUCTURE_FILE, WEIGHTS_FILE = "structure.json", "model.safetensors"
SIZED = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def save_pruned(folder: Path, model: nn.Module, spec: ModelSpec | None) -> None:
    """Write both files. `spec` None: the model came as an object, and loading needs the original object again."""
    layers = {
        name: {"out_channels": layer_sides(module)[0], "in_channels": layer_sides(module)[1]}
        for name, module in model.named_modules()
        if isinstance(module, SIZED)
    }
    gone = [name for name, module in model.named_modules() if isinstance(module, Nothing)]
    built = asdict(spec) if spec is not None else None
    save_weights(model, folder / WEIGHTS_FILE)
    write_json(folder / STRUCTURE_FILE, {"schema": SCHEMA, "model": built, "layers": layers, "gone": gone})


def load_pruned(folder: Path | str, *, architecture: nn.Module | None = None) -> nn.Module:
    """The pruned model in evaluation mode.

    `architecture`, the unpruned model, is built from the name in the file unless it is given; then it stays as it is. A
    model from a factory, or one that came as an object, must be given: the file chooses no code to run.
    Raises `InputError` or `ModelError` naming the file and what does not fit.
    """
    folder = Path(folder)
    path = folder / STRUCTURE_FILE
    raw = read_json(path)
    try:
        if raw["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {raw['schema']} is not supported (this version reads {SCHEMA})")
        sizes = {
            str(name): (int(layer["out_channels"]), int(layer["in_channels"])) for name, layer in raw["layers"].items()
        }
        gone = [str(name) for name in raw.get("gone", [])]
        spec = _spec(raw["model"]) if raw["model"] is not None else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not the structure of a pruned model ({error!r})") from None
    if architecture is None:
        if spec is None:
            raise InputError(f"{path}: the model was given as an object; pass the original as architecture=")
        if is_factory(spec.name):  # a stranger's file must not choose what code runs
            raise InputError(
                f"{path}: the model comes from the factory {spec.name}; pass what it makes as architecture="
            )
        model = build_model(spec)
    else:
        model = copy.deepcopy(architecture)
    modules = dict(model.named_modules())
    for name in gone:
        if not isinstance(modules.get(name), SIZED) or name in sizes:
            raise ModelError(f"{path}: layer {name}, which is gone, does not fit the architecture")
    remove_layers(model, gone)
    for name, (out_channels, in_channels) in sizes.items():
        module = modules.get(name)
        if not isinstance(module, SIZED) or not _is_cut_of(module, out_channels, in_channels):
            raise ModelError(f"{path}: layer {name} does not fit the architecture")
        resize_layer(module, out_channels=out_channels, in_channels=in_channels)
    load_weights(model, str(folder / WEIGHTS_FILE))
    return model.eval()


def _spec(raw: Mapping[str, Any]) -> ModelSpec:
    return ModelSpec(str(raw["name"]), int(raw["num_classes"]), int(raw["in_channels"]), float(raw["width"]))


def _is_cut_of(module: nn.Module, out_channels: int, in_channels: int) -> bool:
    most_out, most_in = layer_sides(module)
    return 1 <= out_channels <= most_out and 1 <= in_channels <= most_in

"""A pruned model on disk: `structure.json` (shapes) and `model.safetensors` (weights); no pickle, no code."""

from pathlib import Path

from torch import nn

from autoprune.elastic import layer_sides, resize_layer
from autoprune.errors import InputError, ModelError
from autoprune.files import read_json, write_json
from autoprune.models import ModelSpec, build_model, load_weights, save_weights

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
    built = None
    if spec is not None:
        built = {
            "name": spec.name,
            "num_classes": spec.num_classes,
            "in_channels": spec.in_channels,
            "width": spec.width,
        }
    save_weights(model, folder / WEIGHTS_FILE)
    write_json(folder / STRUCTURE_FILE, {"schema": SCHEMA, "model": built, "layers": layers})


def load_pruned(folder: Path | str, *, architecture: nn.Module | None = None) -> nn.Module:
    """The pruned model in evaluation mode.

    `architecture`, the unpruned model, is built from the name in the file unless it is given; it is changed into the
    pruned one. Raises `InputError` or `ModelError` naming the file and what does not fit.
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
        spec = ModelSpec(**raw["model"]) if raw["model"] is not None else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not the structure of a pruned model ({error!r})") from None
    if architecture is None:
        if spec is None:
            raise InputError(f"{path}: the model was given as an object; pass the original as architecture=")
        architecture = build_model(spec)
    modules = dict(architecture.named_modules())
    for name, (out_channels, in_channels) in sizes.items():
        module = modules.get(name)
        if not isinstance(module, SIZED) or out_channels < 1 or in_channels < 1:
            raise ModelError(f"{path}: layer {name} does not fit the architecture")
        resize_layer(module, out_channels=out_channels, in_channels=in_channels)
    load_weights(architecture, str(folder / WEIGHTS_FILE))
    return architecture.eval()

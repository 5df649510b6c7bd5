"""From a model's name to an `nn.Module` that fits the data."""

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autoprune.errors import ModelError, cut, in_a_line
from autoprune.foundation.factories import is_of_machine, load_factory
from autoprune.models.mobilenet import CifarMobileNetV2
from autoprune.models.resnet import CifarResNet
from autoprune.models.vgg import CifarVGG

BUILT_IN: dict[str, Callable[[int, int, float], nn.Module]] = {
    "resnet20": partial(CifarResNet, 20),
    "resnet56": partial(CifarResNet, 56),
    "vgg16_bn": CifarVGG,
    "mobilenet_v2": CifarMobileNetV2,
}


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build the same architecture again."""

    name: str
    num_classes: int
    in_channels: int
    width: float = 1.0


def is_factory(name: str) -> bool:
    """Whether building the model runs the user's own code."""
    return ":" in name and name.partition(":")[0] not in ("torchvision", "timm")


def build_model(spec: ModelSpec) -> nn.Module:
    """A fresh model in evaluation mode; `ModelError` says why a name cannot be built."""
    source, separator, name = spec.name.partition(":")
    if not separator:
        if spec.name not in BUILT_IN:
            raise ModelError(
                f"model.name={cut(spec.name)}: unknown; built in are {', '.join(BUILT_IN)}; or torchvision:NAME, "
                f"timm:NAME, path/file.py:factory, package.module:factory"
            )
        return BUILT_IN[spec.name](spec.num_classes, spec.in_channels, spec.width).eval()
    if source == "torchvision":
        return _torchvision(name, spec).eval()
    if source == "timm":
        return _timm(name, spec).eval()
    model = _call_factory(load_factory(spec.name, field="model.name"), spec)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name={spec.name}: the factory returned {type(model).__name__}, not an nn.Module")
    model.eval()  # which a model's own `train` may not return from
    return model


def check_classifier(model: nn.Module, name: str, input_shape: tuple[int, int, int], num_classes: int) -> None:
    """Raise `ModelError` unless `model` maps (2, C, H, W) to (2, num_classes) logits."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.zeros(2, *input_shape))
    except Exception as error:  # the user's model may raise anything
        raise ModelError(f"{name}: does not take the data's images {input_shape} ({error})") from None
    finally:
        model.train(was_training)
    if not isinstance(out, torch.Tensor) or out.shape != (2, num_classes):
        shape = tuple(out.shape[1:]) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(
            f"{name}: not a classifier of this data, which has {num_classes} classes: it gives {shape} for each image"
        )


def _call_factory(factory: Callable[..., Any], spec: ModelSpec) -> Any:
    offered = {"num_classes": spec.num_classes, "in_channels": spec.in_channels, "width": spec.width}
    try:
        accepted = inspect.signature(factory).parameters
        return factory(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if is_of_machine(error):
            raise
        raise ModelError(
            f"model.name={spec.name}: the factory failed ({type(error).__name__}: {error}); "
            f"it is called with those of num_classes, in_channels and width that it names"
        ) from error


def _torchvision(name: str, spec: ModelSpec) -> nn.Module:
    models = _imported("torchvision").models
    classifiers = models.list_models(module=models)  # others ask for more than images, and fetch weights from afar
    _check_known(name.lower(), classifiers, spec, "torchvision")
    return _constructed(lambda: models.get_model(name, weights=None, num_classes=spec.num_classes), spec, "torchvision")


def _timm(name: str, spec: ModelSpec) -> nn.Module:
    timm = _imported("timm")
    if not timm.is_model(name):  # a name of the hub would be fetched
        _check_known(name, timm.list_models(), spec, "timm")
    return _constructed(
        lambda: timm.create_model(name, num_classes=spec.num_classes, in_chans=spec.in_channels), spec, "timm"
    )


def _check_known(name: str, known: Sequence[str], spec: ModelSpec, library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        shown = f"near it are {', '.join(near)}" if near else f"there is for example {', '.join(known[:3])}"
        raise ModelError(
            f"model.name={cut(spec.name)}: {library} cannot build it: of its {len(known):,} classifiers none has "
            f"this name; {shown}"
        )


def _constructed(construct: Callable[[], Any], spec: ModelSpec, library: str) -> nn.Module:
    try:
        model: nn.Module = construct()
    except Exception as error:  # their constructors raise whatever their arguments lead to
        raise ModelError(f"model.name={spec.name}: {library} cannot build it ({in_a_line(error)})") from None
    return model


# torchvision's operators are missing from its wheel when torch is a CPU build; the models need only their names.
_torchvision_operators: list[torch.library.Library] = []


def _imported(library: str) -> Any:
    """torchvision or timm, which builds on it; `ModelError` says how to get what is missing or broken."""
    try:
        _import_torchvision()
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        missing = library if importlib.util.find_spec(library) is None else f"{library} needs {error.name}, which"
        raise ModelError(f"{missing} is not installed; pip install 'autoprune[vision]'") from None
    except Exception as error:  # libraries that do not fit this torch fail in many ways
        raise ModelError(
            f"{library} does not work beside torch {torch.__version__} ({in_a_line(error)}); install the versions that "
            f"belong together: pip install -U torch 'autoprune[vision]'"
        ) from None


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _torchvision_operators:
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _torchvision_operators.append(library)
        importlib.import_module("torchvision")

"""Models by name: built in, torchvision's, timm's, or the user's own factory; weights without pickle."""

from autoprune.models.build import ModelSpec, build_model, check_classifier
from autoprune.models.checkpoint import load_weights, save_weights, tensor_state
from autoprune.models.weight_checks import check_weights

__all__ = [
    "ModelSpec",
    "build_model",
    "check_classifier",
    "check_weights",
    "load_weights",
    "save_weights",
    "tensor_state",
]

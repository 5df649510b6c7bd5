"""Models by name: built in, torchvision's, timm's, or the user's own factory; weights without pickle."""

from autoprune.models.build import BUILT_IN, ModelSpec, build_model, check_classifier, is_factory
from autoprune.models.checkpoint import (
    SHIPPED_CHECKPOINTS,
    extra_state_left_out,
    load_tensor_state,
    load_weights,
    save_weights,
    tensor_state,
)
from autoprune.models.stated_accuracy import stated_accuracy
from autoprune.models.weight_checks import check_weights
from autoprune.models.weight_files import weights_path

__all__ = [
    "BUILT_IN",
    "SHIPPED_CHECKPOINTS",
    "ModelSpec",
    "build_model",
    "check_classifier",
    "check_weights",
    "extra_state_left_out",
    "is_factory",
    "load_tensor_state",
    "load_weights",
    "save_weights",
    "stated_accuracy",
    "tensor_state",
    "weights_path",
]

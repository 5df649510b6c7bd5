"""Weights in and out: safetensors, or torch files read with `weights_only=True`; nothing here unpickles code."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.files import atomic_path

_FOLDER = Path(__file__).parent.parent / "checkpoints"
SHIPPED_CHECKPOINTS: dict[str, Path] = {
    "resnet20-fashion-mnist": _FOLDER / "resnet20_fashion_mnist.safetensors",
}


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a shipped name or a file into `model`; `ModelError` names the file and what does not fit."""
    path = SHIPPED_CHECKPOINTS.get(checkpoint, Path(checkpoint).expanduser())
    tensors = read_tensors(path)
    expected = model.state_dict()
    wrong = [f"{name} missing" for name in expected.keys() - tensors.keys()]
    wrong += [f"{name} unexpected" for name in tensors.keys() - expected.keys()]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, the model wants {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise ModelError(f"{path}: does not fit the model ({'; '.join(sorted(wrong)[:3])}; {len(wrong)} in all)")
    model.load_state_dict(tensors)


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the state dict as safetensors (contiguous, on the CPU), whole or not at all."""
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `.safetensors` or a torch file (a state dict, or one under "state_dict"/"model").

    Raises `ModelError` if the file is missing, corrupt, or holds anything but tensors; nothing in it is run.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: no such checkpoint; give a file or a shipped name ({', '.join(SHIPPED_CHECKPOINTS)})"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise almost anything on broken bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: corrupt checkpoint, or one that holds more than tensors ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(f"{path}: holds no state dict of tensors")
    return loaded

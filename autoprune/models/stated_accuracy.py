"""How well a checkpoint says that its weights do: trainings note it beside them, under one name or another."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from autoprune.models.weight_files import read_content
from autoprune.models.weight_kinds import is_safetensors

# Of the held-out images, the search split of our own trainings first.
NAMES = (
    *("search_accuracy", "test_accuracy", "val_accuracy", "best_accuracy", "accuracy", "test_acc", "val_acc"),
    *("best_acc", "best_acc1", "best_top1", "best_prec1", "best_prec", "acc", "acc1", "top1", "prec1"),
)


def stated_accuracy(path: Path) -> float | None:
    """The share of images, 0..1, that a file of weights says its network had right; None if it says nothing.

    Raises `ModelError` for a file that cannot be read.
    """
    content = read_content(path)
    noted: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    if is_safetensors(path):
        with safetensors.safe_open(str(path), framework="pt") as file:
            noted = file.metadata() or {}
    return next((share for name in NAMES if (share := _share(noted.get(name))) is not None), None)


def _share(value: Any) -> float | None:
    """A share of 1, given as one or in percent; None for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    if 0 < number <= 1:
        return number
    return number / 100 if 1 < number <= 100 else None

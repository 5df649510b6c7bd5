"""Data from the user's own code: `path/file.py:factory` or `package.module:factory`.

`factory(split)` gets "train" or "test" and returns `(images, labels, class_names)`: uint8 (N, C, H, W), ints (N,).
Labels count in the class names beside them; "test" may list the same names in another order.
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from autoprune.data.classes import class_names, mapped_labels
from autoprune.data.splits import ImageSplit
from autoprune.errors import DataError
from autoprune.foundation.factories import load_factory


def load(spec: str, split: str) -> tuple[ImageSplit, tuple[str, ...]]:
    """One split and the names of the classes; `DataError` says what the factory got wrong."""
    factory = load_factory(spec, field="data.name")
    try:
        images, labels, names = factory(split)
        classes = class_names(names if isinstance(names, Set | Mapping) else tuple(names), "class_names")
        loaded = ImageSplit(torch.tensor(_array(images, "images")), _integers(_array(labels, "labels")))
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise DataError(
            f"data.name={spec}: the factory must take {split!r} and return (images, labels, class_names) with images "
            f"uint8 (N, C, H, W) and whole labels (N,) ({type(error).__name__}: {error})"
        ) from error
    if len(classes) < 2:
        raise DataError(f"data.name={spec}: {split!r} has {len(classes)} class(es); a classifier needs at least two")
    if len(loaded) == 0 or int(loaded.labels.min()) < 0 or int(loaded.labels.max()) >= len(classes):
        raise DataError(f"data.name={spec}: {split!r} must hold images with labels in 0..{len(classes) - 1}")
    if split == "train" and (empty := sorted(set(range(len(classes))) - set(loaded.labels.tolist()))):
        names_of = ", ".join(classes[number] for number in empty[:5])
        raise DataError(
            f"data.name={spec}: 'train' has no image of class {names_of}; give some, or leave the class out"
        )
    return loaded, classes


def load_as(spec: str, split: str, classes: tuple[str, ...]) -> ImageSplit:
    """One split with labels that count in `classes`, those of train; `DataError` if its names are others."""
    loaded, names = load(spec, split)
    return ImageSplit(loaded.images, mapped_labels(loaded.labels, names, classes, f"data.name={spec}: {split!r}"))


def _array(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object:
        raise TypeError(f"{name} are an array of objects; give numbers, all {name} of one size")
    return array


def _integers(labels: np.ndarray) -> torch.Tensor:
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels are {labels.dtype}")
    return torch.as_tensor(labels.astype(np.int64))

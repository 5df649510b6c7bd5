"""Data from the user's own code: `path/file.py:factory` or `package.module:factory`.

`factory(split)` gets "train" or "test" and returns `(images, labels, class_names)`: uint8 (N, C, H, W), ints (N,).
"""

import numpy as np
import torch

from autoprune.data.splits import ImageSplit
from autoprune.errors import DataError
from autoprune.factories import load_factory


def load(spec: str, split: str) -> tuple[ImageSplit, tuple[str, ...]]:
    """One split and the names of the classes; `DataError` says what the factory got wrong."""
    factory = load_factory(spec, field="data.name")
    try:
        images, labels, names = factory(split)
        classes = tuple(str(name) for name in names)
        loaded = ImageSplit(torch.tensor(np.asarray(images)), _integers(np.asarray(labels)))
    except Exception as error:  # the user's code may raise anything
        raise DataError(
            f"data.name={spec}: the factory must take {split!r} and return (images, labels, class_names) with images "
            f"uint8 (N, C, H, W) and whole labels (N,) ({type(error).__name__}: {error})"
        ) from error
    if len(loaded) == 0 or int(loaded.labels.min()) < 0 or int(loaded.labels.max()) >= len(classes):
        raise DataError(f"data.name={spec}: {split!r} must hold images with labels in 0..{len(classes) - 1}")
    return loaded, classes


def _integers(labels: np.ndarray) -> torch.Tensor:
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels are {labels.dtype}")
    return torch.as_tensor(labels.astype(np.int64))

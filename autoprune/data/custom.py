"""Data from the user's own code: `path/file.py:factory` or `package.module:factory`.

`factory(split)` gets "train" or "test" and returns `(images, labels, class_names)`: uint8 (N, C, H, W), ints (N,).
"""

import numpy as np
import torch

from autoprune.data.splits import ImageSplit
from autoprune.errors import DataError
from autoprune.factories import load_factory


def load(spec: str, split: str) -> tuple[ImageSplit, tuple[str, ...]]:
    factory = load_factory(spec, field="data.name")
    try:
        images, labels, names = factory(split)
        loaded = ImageSplit(
            torch.as_tensor(np.asarray(images)), torch.as_tensor(np.asarray(labels)).to(torch.int64)
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data.name={spec}: the factory must take a split's name and return (images, labels, class_names) "
            f"with images uint8 (N, C, H, W) ({error})"
        ) from None
    if len(loaded) == 0 or int(loaded.labels.min()) < 0 or int(loaded.labels.max()) >= len(names):
        raise DataError(f"data.name={spec}: labels of {split!r} must lie in 0..{len(names) - 1}")
    return loaded, tuple(str(name) for name in names)

"""A tiny data set that a network of two layers learns in seconds."""

import torch

from autoprune.data import DataInfo, ImageSplit, SearchData

INFO = DataInfo("bars", ("top", "bottom", "none"), 1, 8, 8, mean=(0.3,), std=(0.3,))


def bars(count: int, seed: int) -> ImageSplit:
    """Noise with a bright upper half, a bright lower half, or neither: separable, and left as it is by a flip."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
    labels = torch.arange(count) % 3
    images[labels == 0, :, :4] += 120
    images[labels == 1, :, 4:] += 120
    return ImageSplit(images.to(torch.uint8), labels)


DATA = SearchData(INFO, bars(300, 0), bars(90, 1))

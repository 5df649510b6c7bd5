"""Vectorised augmentation: a whole batch is cropped, flipped, erased or mixed by a few tensor operations."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.config import AugmentConfig
from autoprune.data.splits import DataInfo
from autoprune.errors import DataError


@dataclass(frozen=True)
class AugmentationDraws:
    """What chance decided for each of N images: offsets of the crop and the square's centre (N,); whether it is flipped
    and whether it gets the square, (N,) bool."""

    crop_row: Tensor
    crop_column: Tensor
    flipped: Tensor
    square_row: Tensor
    square_column: Tensor
    has_square: Tensor

    def select(self, indices: Tensor) -> "AugmentationDraws":
        return AugmentationDraws(*(getattr(self, field.name)[indices] for field in fields(self)))

    def forms(self, augmentation: AugmentConfig) -> Tensor | None:
        """Which of `augmentation.forms` each image takes (N,): equal numbers, equal images. None if it has none."""
        if augmentation.forms is None:
            return None
        crops = self.crop_row * augmentation.offsets + self.crop_column
        return crops * 2 + self.flipped if augmentation.flip else crops


def check_augmentation(config: AugmentConfig, info: DataInfo, field: str) -> None:
    """Raise `DataError` that names the key, `field` and one of its own, unless something of a picture stays."""
    side = min(info.height, info.width)
    for key in ("crop_padding", "erase_size", "cutmix_size"):
        size = getattr(config, key)
        # A crop may lie wholly in as much padding; a square of the whole side may still hang over the edge.
        if size > side or (key == "crop_padding" and size == side):
            raise DataError(
                f"{field}.{key}={size}: the images are {info.height}x{info.width} pixels, of which nothing might stay; "
                f"give {'less than ' if key == 'crop_padding' else 'at most '}{side}"
            )


def draw(
    count: int, size: tuple[int, int], augmentation: AugmentConfig, generator: torch.Generator
) -> AugmentationDraws:
    """Draw for `count` images of `size` (height, width)."""
    offsets = augmentation.offsets
    height, width = size
    return AugmentationDraws(
        crop_row=torch.randint(0, offsets, (count,), generator=generator),
        crop_column=torch.randint(0, offsets, (count,), generator=generator),
        flipped=(torch.rand(count, generator=generator) < 0.5) & augmentation.flip,
        # The square's centre may lie anywhere, so that part of it may fall outside (DeVries & Taylor 2017).
        square_row=torch.randint(0, height, (count,), generator=generator),
        square_column=torch.randint(0, width, (count,), generator=generator),
        has_square=torch.rand(count, generator=generator) < augmentation.square_prob,
    )


def augment(images: Tensor, augmentation: AugmentConfig, draws: AugmentationDraws) -> Tensor:
    """Crop, flip, and erase or mix each image as drawn for it: (N, C, H, W) uint8 to the same.

    A square is mixed in from the image before, where that one has been moved to (CutMix, Yun et al. 2019; of one size,
    so that the images of a batch need no loop).
    """
    count, _, height, width = images.shape
    padding = augmentation.crop_padding
    if padding:
        images = F.pad(images, (padding, padding, padding, padding))
    rows = torch.arange(height) + draws.crop_row[:, None]  # (N, H) source row of each target row
    columns = torch.arange(width) + draws.crop_column[:, None]  # (N, W)
    columns = torch.where(draws.flipped[:, None], columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    out = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if augmentation.erase_size:
        out = out * ~_squares((height, width), augmentation.erase_size, draws)[:, None]
    if augmentation.cutmix_size:
        squares = _squares((height, width), augmentation.cutmix_size, draws)[:, None]
        out = torch.where(squares, out.roll(1, 0), out)
    return out


def mixed_labels(
    labels: Tensor, classes: int, size: tuple[int, int], augmentation: AugmentConfig, draws: AugmentationDraws
) -> Tensor:
    """(N,) labels to what `augment` makes of them, (N, classes): the shares of the pixels that show each class."""
    shares = _squares(size, augmentation.cutmix_size, draws).float().mean((1, 2))[:, None]
    shown = F.one_hot(labels, classes).float()
    return shown * (1 - shares) + shown.roll(1, 0) * shares


def views(images: Tensor, augmentation: AugmentConfig) -> Iterator[Tensor]:
    """Each image as it is, and as training may show it too: (N, C, H, W) uint8, one after the other.

    Moved by half of `crop_padding` up, down, left and right, and all of these mirrored: what a model gets wrong changes
    from view to view, so that fewer images tell a small difference between two models.
    """
    padding = augmentation.crop_padding
    step = -(-padding // 2)
    moves = [(0, 0), *((step, 0), (-step, 0), (0, step), (0, -step)) * bool(step)]
    height, width = images.shape[2:]
    padded = F.pad(images, (padding, padding, padding, padding))
    for flipped in (False, True) if augmentation.flip else (False,):
        for down, right in moves:
            top, left = padding - down, padding - right
            shown = padded[:, :, top : top + height, left : left + width]
            yield shown.flip(3) if flipped else shown


def _squares(size: tuple[int, int], side: int, draws: AugmentationDraws) -> Tensor:
    """(N, height, width) bool: where the square of each image lies; nowhere if it has none."""
    rows = _within(torch.arange(size[0]) - draws.square_row[:, None], side)  # (N, H)
    columns = _within(torch.arange(size[1]) - draws.square_column[:, None], side)  # (N, W)
    return rows[:, :, None] & columns[:, None, :] & draws.has_square[:, None, None]


def _within(offset: Tensor, size: int) -> Tensor:
    return (offset >= -(size // 2)) & (offset < size - size // 2)


def normalise(images: Tensor, info: DataInfo) -> Tensor:
    """(N, C, H, W) uint8 to float32 with zero mean and unit variance per channel, channels-last in memory."""
    mean = torch.tensor(info.mean).view(1, -1, 1, 1) * 255
    std = torch.tensor(info.std).view(1, -1, 1, 1) * 255
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

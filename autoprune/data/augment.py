"""Vectorised augmentation: a whole batch is cropped, flipped and erased by a few tensor operations."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.data.splits import DataInfo


@dataclass(frozen=True)
class Augmentation:
    """`crop_padding` pixels of zeros around before a random crop; `erase_size` is the side of a square set to zero."""

    crop_padding: int = 2
    flip: bool = True
    erase_size: int = 0


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random crop, horizontal flip and square erasing, drawn for each image: (N, C, H, W) uint8 to the same."""
    count, _, height, width = images.shape
    padding = augmentation.crop_padding
    rows = torch.arange(height).repeat(count, 1)  # (N, H) source row of each target row
    columns = torch.arange(width).repeat(count, 1)  # (N, W)
    if padding:
        images = F.pad(images, (padding, padding, padding, padding))
        rows = rows + torch.randint(0, 2 * padding + 1, (count, 1), generator=generator)
        columns = columns + torch.randint(0, 2 * padding + 1, (count, 1), generator=generator)
    if augmentation.flip:
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    out = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if augmentation.erase_size:
        # The square's centre may lie anywhere, so that part of it may fall outside (DeVries & Taylor 2017).
        centre_row = torch.randint(0, height, (count, 1), generator=generator)
        centre_column = torch.randint(0, width, (count, 1), generator=generator)
        row_hit = _within(torch.arange(height) - centre_row, augmentation.erase_size)  # (N, H)
        column_hit = _within(torch.arange(width) - centre_column, augmentation.erase_size)  # (N, W)
        out = out * ~(row_hit[:, :, None] & column_hit[:, None, :])[:, None]
    return out


def _within(offset: Tensor, size: int) -> Tensor:
    return (offset >= -(size // 2)) & (offset < size - size // 2)


def normalise(images: Tensor, info: DataInfo) -> Tensor:
    """(N, C, H, W) uint8 to float32 with zero mean and unit variance per channel, channels-last in memory."""
    mean = torch.tensor(info.mean).view(1, -1, 1, 1) * 255
    std = torch.tensor(info.std).view(1, -1, 1, 1) * 255
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

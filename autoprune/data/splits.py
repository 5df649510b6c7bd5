"""What a data set is here: images in memory as bytes, a train split, and a search split cut from it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprune.errors import DataError
from autoprune.seeding import rng


@dataclass(frozen=True)
class ImageSplit:
    """Images with their classes; `DataError` if shapes or types are not these."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise DataError(f"images must be (N, C, H, W) uint8, got {tuple(self.images.shape)} {self.images.dtype}")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise DataError(
                f"labels must be ({len(self.images)},) int64, got {tuple(self.labels.shape)} {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSplit":
        return ImageSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class DataInfo:
    """What a model must know of its data; `mean` and `std` are per channel, of pixels scaled to 0..1."""

    name: str
    classes: tuple[str, ...]
    in_channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.in_channels, self.height, self.width)


@dataclass(frozen=True)
class SearchData:
    """All that training, search and model selection may see; the test split is not reachable from here."""

    info: DataInfo
    train: ImageSplit
    search: ImageSplit


def stratified_indices(labels: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """`count` indices with the classes in proportion (largest remainders), sorted; the same for the same seed."""
    if not 0 < count <= len(labels):
        raise DataError(f"cannot take {count} of {len(labels)} images")
    generator = rng(seed, purpose)
    classes, sizes = np.unique(labels.numpy(), return_counts=True)
    exact = sizes * count / len(labels)
    quota = np.floor(exact).astype(int)
    for index in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[index] += 1
    chosen = [
        generator.choice(np.flatnonzero(labels.numpy() == label), size, replace=False)
        for label, size in zip(classes, quota, strict=True)
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def cut_search_split(train: ImageSplit, count: int, *, seed: int) -> tuple[ImageSplit, ImageSplit]:
    """Cut a stratified search split of `count` images from `train`: (what is left of train, search)."""
    if count >= len(train):
        raise DataError(
            f"data.search_images={count} leaves nothing of the {len(train)} training images; lower data.search_images"
        )
    indices = stratified_indices(train.labels, count, seed=seed, purpose="search split")
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[indices] = False
    return train.select(torch.nonzero(rest).squeeze(1)), train.select(indices)

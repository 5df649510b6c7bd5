"""What a data set is here: images in memory as bytes, a train split, and a search split cut from it."""

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.classes import class_names
from autoprune.errors import DataError
from autoprune.foundation.seeding import rng

LEAST_SPREAD = 2  # of 255: less, over all images, is what rounding and compression leave of nothing


@dataclass(frozen=True)
class ImageSplit:
    """Images with their classes; `DataError` if shapes or types are not these."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def __post_init__(self) -> None:
        for name, tensor in (("images", self.images), ("labels", self.labels)):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
                kind = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise DataError(f"{name} must be a dense torch.Tensor on the CPU, got {kind}")
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise DataError(
                f"images must be (N, C, H, W) uint8, got {tuple(self.images.shape)} {self.images.dtype}"
                f"{_image_hint(self.images)}"
            )
        if _has_channels_last(self.images.shape[1:]):
            raise DataError(
                f"images must be (N, C, H, W), got {tuple(self.images.shape)}, which looks like (N, H, W, C): give "
                f"images.transpose(0, 3, 1, 2) (of a tensor: permute). Should they have {self.images.shape[1]} "
                f"channels and really be {self.images.shape[3]} wide, swap height and width"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise DataError(
                f"labels must be ({len(self.images)},) int64, got {tuple(self.labels.shape)} {self.labels.dtype}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """As arrays, which can be pickled without being copied: processes may share them."""
        return _split_of_arrays, (self.images.numpy(), self.labels.numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSplit":
        return ImageSplit(self.images[indices], self.labels[indices])


def _split_of_arrays(images: np.ndarray, labels: np.ndarray) -> ImageSplit:
    with warnings.catch_warnings():  # that shared ones must not be written to; nobody does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return ImageSplit(torch.from_numpy(images), torch.from_numpy(labels))


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

    def __post_init__(self) -> None:
        """Lists become tuples; `DataError` names the field that cannot be."""
        if isinstance(self.classes, str):
            raise DataError(f"DataInfo.classes: must be a list of names, got the text {self.classes[:50]!r}")
        object.__setattr__(self, "classes", class_names(self.classes, "DataInfo.classes"))
        if not self.classes:
            raise DataError("DataInfo.classes: must name at least one class")
        for field in ("in_channels", "height", "width"):
            size = getattr(self, field)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise DataError(f"DataInfo.{field}: must be a whole number above 0, got {size!r}")
        for field in ("mean", "std"):
            values = _numbers(getattr(self, field))
            if values is None or len(values) != self.in_channels or (field == "std" and min(values) <= 0):
                raise DataError(
                    f"DataInfo.{field}: must be {self.in_channels} finite number(s), one per channel"
                    f"{', above 0' if field == 'std' else ''}, got {getattr(self, field)!r}"
                )
            object.__setattr__(self, field, values)

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

    def __post_init__(self) -> None:
        """`DataError` unless both splits hold images of the shape and the classes that `info` tells."""
        if not isinstance(self.info, DataInfo):
            raise DataError(f"SearchData.info: must be a DataInfo, got {type(self.info).__name__}")
        for name in ("train", "search"):
            check_split(getattr(self, name), self.info, f"SearchData.{name}")


def check_split(split: ImageSplit, info: DataInfo, where: str) -> None:
    """Raise `DataError` unless `split` holds images of the shape and the classes that `info` tells."""
    if not isinstance(split, ImageSplit):
        raise DataError(f"{where}: must be an ImageSplit, got {type(split).__name__}")
    if tuple(split.images.shape[1:]) != info.input_shape:
        raise DataError(f"{where} has images of {tuple(split.images.shape[1:])}, train of {info.input_shape}")
    if len(split) == 0 or not 0 <= int(split.labels.min()) <= int(split.labels.max()) < info.num_classes:
        got = f"{int(split.labels.min())}..{int(split.labels.max())}" if len(split) else "no images"
        raise DataError(f"{where} must hold images with labels in 0..{info.num_classes - 1}, got {got}")


def check_varied(split: ImageSplit, where: str) -> None:
    """Raise `DataError` if all images are of one and the same grey or colour: there is nothing to be told apart."""
    spread = split.images.amax((0, 2, 3)).int() - split.images.amin((0, 2, 3)).int()  # (C,)
    if int(spread.max()) <= LEAST_SPREAD:
        colour = ", ".join(map(str, split.images[0, :, 0, 0].tolist()))
        raise DataError(
            f"{where}: all {len(split):,} images are one and the same plain {colour} of 255, so that nothing in them "
            f"tells the classes apart; look at the files, and at how they were saved"
        )


def count_repeated(images: Tensor, known: Iterable[Tensor]) -> int:
    """How many of `images` are among `known`, pixel by pixel."""
    seen = {digest for split in known for digest in _digests(split)}
    return sum(digest in seen for digest in _digests(images))


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


def _digests(images: Tensor) -> Iterator[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.numpy())


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the last of three sizes is much more likely that of channels: (16, 16, 3) against (3, 16, 16)."""
    first, second, last = shape
    return last in (1, 3, 4) and min(first, second) > last and (first > 4 or first == second)


def _image_hint(images: Tensor) -> str:
    if images.ndim == 3:
        return "; grey images need an axis for their one channel: images[:, None]"
    if images.ndim != 4 or images.dtype == torch.uint8 or not images.numel():
        return ""
    if not images.is_floating_point():
        return "; give whole numbers 0..255 as uint8"
    if not torch.isfinite(images).all():
        return "; they hold NaN or infinity, which no pixel is"
    if float(images.min()) >= 0 and float(images.max()) <= 1:
        return "; pixels are bytes: (images * 255).round() as uint8"
    return "; pixels are bytes 0..255, before any normalisation, as uint8"


def _numbers(values: Iterable[float]) -> tuple[float, ...] | None:
    """As floats, or None if they are none or not finite."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None

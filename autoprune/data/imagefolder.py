"""Any folder of pictures: `DIR/train/CLASS/*`, `DIR/test/CLASS/*`, and `DIR/search/CLASS/*` if it is there."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from autoprune.data.splits import DataInfo, ImageSplit
from autoprune.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})  # and "I;16" in its variants

Mode = Literal["L", "RGB"]


def class_names(folder: Path) -> tuple[str, ...]:
    """The class folders under `folder/train`, sorted."""
    names = tuple(_class_folders(folder, "train"))
    if len(names) < 2:
        raise DataError(f"{folder / 'train'}: {len(names)} class folder(s); a classifier needs at least two")
    return names


def has_split(folder: Path, split: str) -> bool:
    return (folder / split).is_dir()


def load(folder: Path, split: str, *, image_size: int | None) -> ImageSplit:
    """One split in memory; pictures are scaled and centre-cropped to `image_size` if it is given.

    Every split is grey (C = 1) if all pictures of "train" are, and RGB (C = 3) otherwise.
    Raises `DataError` naming the picture that is broken or of another size, or the folder that is missing.
    """
    pictures = _pictures(folder, split, class_names(folder))
    paths = list(chain.from_iterable(pictures))
    labels = [label for label, found in enumerate(pictures) for _ in found]
    mode = _common_mode(folder)
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(partial(_decode, image_size=image_size, mode=mode), paths))
    for path, array in zip(paths, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise DataError(
                f"{path}: {array.shape[1]}x{array.shape[0]} pixels, but {paths[0].name} has "
                f"{arrays[0].shape[1]}x{arrays[0].shape[0]}; set data.image_size to bring all to one size"
            )
    stacked = torch.from_numpy(np.stack(arrays))
    images = stacked[:, None] if mode == "L" else stacked.permute(0, 3, 1, 2).contiguous()
    return ImageSplit(images, torch.tensor(labels))


def describe(name: str, classes: tuple[str, ...], train: ImageSplit) -> DataInfo:
    """Shape and per-channel statistics of `train` (a uint8 histogram, so exact and without a float copy)."""
    _, channels, height, width = train.images.shape
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(channels):
        share = torch.bincount(train.images[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        channel_mean = float((share * levels).sum())
        mean.append(channel_mean)
        std.append(max(float((share * (levels - channel_mean) ** 2).sum()) ** 0.5, 1e-3))
    return DataInfo(name, classes, channels, height, width, tuple(mean), tuple(std))


def _class_folders(folder: Path, split: str) -> list[str]:
    if not has_split(folder, split):
        raise DataError(f"{folder / split}: no such folder; an image folder holds train/CLASS/* and test/CLASS/*")
    return sorted(path.name for path in (folder / split).iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path, split: str, classes: tuple[str, ...]) -> list[list[Path]]:
    """The pictures of each class, sorted; a class without any, or one that train lacks, is a `DataError`."""
    if unknown := set(_class_folders(folder, split)) - set(classes):
        raise DataError(f"{folder / split}: {', '.join(sorted(unknown))} is no class of {folder / 'train'}")
    pictures = []
    for name in classes:
        found = sorted(
            path
            for path in (folder / split / name).glob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not found:
            raise DataError(f"{folder / split / name}: no pictures ({', '.join(sorted(SUFFIXES))})")
        pictures.append(found)
    return pictures


def _common_mode(folder: Path) -> Mode:
    for path in chain.from_iterable(_pictures(folder, "train", class_names(folder))):
        with _open(path) as picture:  # reads the header alone
            if picture.mode not in GREY_MODES and not picture.mode.startswith("I;16"):
                return "RGB"
    return "L"


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # the decoders raise almost anything on broken bytes
        raise _unreadable(path, error) from None


def _decode(path: Path, *, image_size: int | None, mode: Mode) -> np.ndarray:
    with _open(path) as picture:
        try:
            converted = _eight_bits(picture).convert(mode)
        except Exception as error:
            raise _unreadable(path, error) from None
    if image_size is not None and converted.size != (image_size, image_size):
        scale = image_size / min(converted.size)
        scaled = converted.resize((round(converted.width * scale), round(converted.height * scale)))
        left, top = (scaled.width - image_size) // 2, (scaled.height - image_size) // 2
        converted = scaled.crop((left, top, left + image_size, top + image_size))
    return np.asarray(converted)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow's own conversion clips 16-bit grey to white; the upper byte is what is meant."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).astype(np.uint8))
    return picture


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable picture ({error})")

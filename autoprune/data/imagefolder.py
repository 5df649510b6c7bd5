"""Any folder of pictures: `DIR/train/CLASS/*`, `DIR/test/CLASS/*`, and `DIR/search/CLASS/*` if it is there."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from autoprune.data.splits import DataInfo, ImageSplit
from autoprune.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})


def class_names(folder: Path) -> tuple[str, ...]:
    """The class folders under `folder/train`, sorted."""
    train = folder / "train"
    if not train.is_dir():
        raise DataError(f"{train}: no such folder; an image folder holds train/CLASS/* and test/CLASS/*")
    names = tuple(sorted(path.name for path in train.iterdir() if path.is_dir()))
    if len(names) < 2:
        raise DataError(f"{train}: {len(names)} class folder(s); a classifier needs at least two")
    return names


def has_split(folder: Path, split: str) -> bool:
    return (folder / split).is_dir()


def load(folder: Path, split: str, *, image_size: int | None) -> ImageSplit:
    """One split in memory; pictures are scaled and centre-cropped to `image_size` if it is given.

    Raises `DataError` naming the picture that is broken or of another size, or the folder that is missing.
    """
    classes = class_names(folder)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / split / name).glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{folder / split / name}: no pictures ({', '.join(sorted(SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    first = _decode(paths[0], image_size, mode=None)
    mode = "L" if first.ndim == 2 else "RGB"
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(lambda path: _decode(path, image_size, mode=mode), paths, chunksize=256))
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


def _decode(path: Path, image_size: int | None, *, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            wanted = mode or ("L" if picture.mode in ("1", "L", "I", "F") else "RGB")
            converted = picture.convert(wanted)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture ({error})") from None
    if image_size is not None and converted.size != (image_size, image_size):
        scale = image_size / min(converted.size)
        scaled = converted.resize((round(converted.width * scale), round(converted.height * scale)))
        left, top = (scaled.width - image_size) // 2, (scaled.height - image_size) // 2
        converted = scaled.crop((left, top, left + image_size, top + image_size))
    return np.asarray(converted)

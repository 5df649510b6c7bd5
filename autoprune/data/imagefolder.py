"""Any folder of pictures: `DIR/train/CLASS/*`, `DIR/test/CLASS/*`, and `DIR/search/CLASS/*` if it is there."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from autoprune.data.picture_files import PictureFiles, find_classes, find_pictures, is_folder, tell
from autoprune.data.pictures import LARGE_PIXELS, Deep, Header, Mode, decode, peak, read_header
from autoprune.data.splits import DataInfo, ImageSplit
from autoprune.errors import DataError
from autoprune.progress import say

MEMORY_SHARE = 0.7  # of the machine's, that the pictures of a split may take

class_names = find_classes
T = TypeVar("T")


def has_split(folder: Path, split: str) -> bool:
    return is_folder(folder / split)


def load(folder: Path, split: str, *, image_size: int | None) -> ImageSplit:
    """One split in memory; pictures are scaled and centre-cropped to `image_size` if it is given.

    Every split is grey (C = 1) if all pictures of "train" are, and RGB (C = 3) otherwise. Pixels of more than 8 bits
    are scaled by what the pictures of "train" hold. Left out, and counted aloud, is what is no picture.
    Raises `DataError` naming the picture that is broken or of another size, or the folder that is missing.
    """
    classes = find_classes(folder)
    train = find_pictures(folder, "train", classes)
    files = train if split == "train" else find_pictures(folder, split, classes)
    tell(files, folder / split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused by name
        known = _headers(train)
        headers = known if files is train else _headers(files)
        mode: Mode = "L" if all(header.is_grey for header in known.values()) else "RGB"
        scales = _scales(known, headers, folder / split)
        images = _decoded(headers, mode=mode, image_size=image_size, scales=scales)
    labels = [label for label, found in enumerate(files.pictures) for _ in found]
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


def _headers(files: PictureFiles) -> dict[Path, Header]:
    return {path: read_header(path) for path in chain.from_iterable(files.pictures)}


def _scales(train: dict[Path, Header], headers: dict[Path, Header], where: Path) -> dict[str, Deep]:
    """How to take deep pixels of each kind in this split: by those of train, or by its own if train has none."""
    scales = {}
    for kind in ("whole", "fraction"):
        ours = [path for path, header in headers.items() if header.deep == kind]
        if not ours:
            continue
        judged = [path for path, header in train.items() if header.deep == kind] or ours
        scale = Deep(kind == "whole", max(_each(peak, judged, train | headers)))
        step = f"times {scale.factor:g}" if scale.factor > 1 else f"divided by {1 / scale.factor:g}"
        done = "taken as they are" if scale.factor == 1 else step
        say(f"{where}: {len(ours):,} pictures of more than 8 bits hold pixels up to {scale.peak:g}; they are {done}")
        scales[kind] = scale
    return scales


def _decoded(
    headers: dict[Path, Header], *, mode: Mode, image_size: int | None, scales: dict[str, Deep]
) -> torch.Tensor:
    """(N, C, H, W) uint8: each picture is written to its place as it is decoded."""
    paths = list(headers)

    def pixels(path: Path) -> np.ndarray:
        kind = headers[path].deep
        array = decode(path, mode=mode, image_size=image_size, deep=scales[kind] if kind is not None else None)
        return array[None] if mode == "L" else array.transpose(2, 0, 1)

    first = pixels(paths[0])
    _check_memory(len(paths), first.shape, paths[0].parent)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    places = {path: number for number, path in enumerate(paths)}

    def place(path: Path) -> None:
        made = pixels(path)
        if made.shape != first.shape:
            raise DataError(
                f"{path}: {made.shape[2]}x{made.shape[1]} pixels, but {paths[0].name} has "
                f"{first.shape[2]}x{first.shape[1]}; set data.image_size to bring all to one size"
            )
        images[places[path]] = made

    _each(place, paths, headers)
    return torch.from_numpy(images)


def _each(work: Callable[[Path], T], paths: Sequence[Path], headers: dict[Path, Header]) -> list[T]:
    """In threads, as the decoders let go of Python's lock, but large pictures one by one; the first error ends it."""
    large = [path for path in paths if headers[path].pixels > LARGE_PIXELS]
    done = [work(path) for path in large]
    with ThreadPoolExecutor() as pool:
        try:
            return done + list(pool.map(work, [path for path in paths if headers[path].pixels <= LARGE_PIXELS]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check_memory(count: int, shape: tuple[int, ...], where: Path) -> None:
    needed = count * int(np.prod(shape))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * there:
        channels, height, width = shape
        raise DataError(
            f"{where.parent}: {count:,} pictures of {width}x{height} in {channels} channel(s) take "
            f"{needed / 2**30:.1f} GiB of memory, and this machine has {there / 2**30:.1f}; set a smaller "
            f"data.image_size"
        )

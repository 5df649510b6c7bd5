"""Any folder of pictures: `DIR/train/CLASS/*`, `DIR/test/CLASS/*`, and `DIR/search/CLASS/*` if it is there."""

import math
import mmap
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from autoprune.compute.memory import free_bytes
from autoprune.compute.processes import in_forks, usual_workers
from autoprune.data.picture_files import PictureFiles, find_classes, find_pictures, tell
from autoprune.data.pictures import LARGE_PIXELS, Deep, Header, Mode, Note, Picture, decode, peak, read, read_header
from autoprune.data.splits import DataInfo, ImageSplit
from autoprune.errors import DataError, RunError
from autoprune.foundation.progress import say

BLACK_SHARE = 0.5  # of the deep pictures of a split: where so many come out black, the scale is wrong
TOLD: dict[Note, str] = {
    "transparent": "have transparent parts, which are shown on white",
    "turned": "are turned upright, as their EXIF orientation says",
    "first": "hold several frames or pages, of which the first alone is read",
}
MEMORY_SHARE = 0.7  # of what is free, that the pictures of a split may take
LEAST_EACH = 50  # pictures for a process: fewer are read before it has begun
COPIES = 2  # of them while the search split is cut from train

T = TypeVar("T")
Item = TypeVar("Item")


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
        guessed: Mode = "L" if read_header(train.pictures[0][0]).is_grey else "RGB"
        headers, ahead = _read(files, mode=guessed, image_size=image_size)
        is_grey = _is_grey(train) if files is not train else all(header.is_grey for header in headers.values())
        mode: Mode = "L" if is_grey else "RGB"
        is_deep = any(header.deep is not None for header in headers.values())
        judged = _headers(train) if is_deep and files is not train else headers
        scales = _scales(judged, headers, folder / split)
        if image_size is not None:
            _tell_enlarged(headers, image_size, folder / split)
        if mode != guessed:
            ahead = None
        images, notes = _decoded(headers, ahead, mode=mode, image_size=image_size, scales=scales)
        _tell_notes(notes, headers, scales, folder / split)
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


def _is_grey(files: PictureFiles) -> bool:
    """Whether all are: looked at up to the first that is not."""
    return all(read_header(path).is_grey for path in chain.from_iterable(files.pictures))


def _headers(files: PictureFiles) -> dict[Path, Header]:
    paths = list(chain.from_iterable(files.pictures))
    return dict(zip(paths, _side_by_side(read_header, paths), strict=True))


def _scales(train: dict[Path, Header], headers: dict[Path, Header], where: Path) -> dict[str, Deep]:
    """How to take deep pixels of each kind in this split: by those of train, or by its own if train has none."""
    scales = {}
    for kind in ("whole", "fraction"):
        ours = [path for path, header in headers.items() if header.deep == kind]
        if not ours:
            continue
        judged = [path for path, header in train.items() if header.deep == kind] or ours
        highest, where_it_is = max(_each(lambda path: (peak(path), path), judged, train | headers))
        scale = Deep(kind == "whole", highest, where_it_is)
        step = f"times {scale.factor:g}" if scale.factor > 1 else f"divided by {1 / scale.factor:g}"
        done = "taken as they are" if scale.factor == 1 else step
        say(f"{where}: {len(ours):,} pictures of more than 8 bits hold pixels up to {scale.peak:g}; they are {done}")
        scales[kind] = scale
    return scales


@dataclass(frozen=True)
class _Ahead:
    """What was decoded while the headers were read, and what became of it; the pictures without notes are left."""

    images: NDArray[np.uint8]  # (N, C, H, W)
    notes: dict[Path, frozenset[Note]]


def _read(files: PictureFiles, *, mode: Mode, image_size: int | None) -> tuple[dict[Path, Header], _Ahead | None]:
    """All headers, and, in the same go, the pixels of the pictures that are like the first one, taken to be in `mode`:
    to open a small picture takes nearly as long as to decode it."""
    paths = list(chain.from_iterable(files.pictures))
    _, first = read(paths[0], mode=mode, image_size=image_size)
    if first is None:
        return _headers(files), None
    shape = _planes(first, mode).shape
    try:
        images = _shared_images(paths, shape)
    except DataError:  # too little memory, which is told once it is known what is needed
        return _headers(files), None

    def look(placed: tuple[int, Path]) -> tuple[Header, frozenset[Note] | None]:
        number, path = placed
        header, made = read(path, mode=mode, image_size=image_size)
        if made is None or (pixels := _planes(made, mode)).shape != shape:
            return header, None
        images[number] = pixels
        return header, made.notes

    found = dict(zip(paths, _side_by_side(look, list(enumerate(paths))), strict=True))
    notes = {path: noted for path, (_, noted) in found.items() if noted is not None}
    return {path: header for path, (header, _) in found.items()}, _Ahead(images, notes)


def _decoded(
    headers: dict[Path, Header],
    ahead: _Ahead | None,
    *,
    mode: Mode,
    image_size: int | None,
    scales: dict[str, Deep],
) -> tuple[torch.Tensor, dict[Note, list[Path]]]:
    """(N, C, H, W) uint8, each picture written to its place as it is decoded, and the pictures of each note."""
    paths = list(headers)

    def decoded(path: Path) -> tuple[NDArray[np.uint8], frozenset[Note]]:
        kind = headers[path].deep
        made = decode(path, mode=mode, image_size=image_size, deep=scales[kind] if kind is not None else None)
        return _planes(made, mode), made.notes

    if ahead is None:
        ahead = _Ahead(_shared_images(paths, decoded(paths[0])[0].shape), {})
    shape, places = ahead.images.shape[1:], {path: number for number, path in enumerate(paths)}

    def place(path: Path) -> tuple[Path, frozenset[Note]]:
        made, noted = decoded(path)
        if made.shape != shape:
            raise DataError(
                f"{path}: {made.shape[2]}x{made.shape[1]} pixels, but {paths[0].name} has {shape[2]}x{shape[1]}; set "
                f"data.image_size to bring all to one size"
            )
        ahead.images[places[path]] = made
        return path, noted

    notes = ahead.notes | dict(_each(place, [path for path in paths if path not in ahead.notes], headers))
    by_note = {note: [path for path in paths if note in notes[path]] for note in get_args(Note)}
    return torch.from_numpy(ahead.images), by_note


def _planes(made: Picture, mode: Mode) -> NDArray[np.uint8]:
    """(C, H, W)"""
    return made.pixels[None] if mode == "L" else made.pixels.transpose(2, 0, 1)


def _shared_images(paths: Sequence[Path], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(N, C, H, W), which forked processes write to as well. Raises `DataError` if there is no room."""
    _check_memory(len(paths), shape, paths[0].parent)
    shared = mmap.mmap(-1, len(paths) * math.prod(shape))
    return np.frombuffer(shared, dtype=np.uint8).reshape(len(paths), *shape)


def _tell_enlarged(headers: dict[Path, Header], image_size: int, where: Path) -> None:
    sides = [header.side for header in headers.values() if header.side < image_size]
    if sides:
        say(
            f"{where}: {len(sides):,} of {len(headers):,} pictures are enlarged to data.image_size={image_size}, the "
            f"smallest from {min(sides)} pixels"
        )


def _tell_notes(
    notes: dict[Note, list[Path]], headers: dict[Path, Header], scales: dict[str, Deep], where: Path
) -> None:
    """Say what became of pictures; `DataError` if half of the deep ones, or more, come out black."""
    for note, what in TOLD.items():
        if notes[note]:
            say(f"{where}: {len(notes[note]):,} of {len(headers):,} pictures {what}")
    if not (black := notes["black"]):
        return
    deep = sum(header.deep is not None for header in headers.values())
    scale = scales[headers[black[0]].deep or "whole"]
    other = next((path for path in black if path != scale.peak_in), black[0])
    told = (
        f"{where}: {len(black):,} of {deep:,} pictures of more than 8 bits come out black: {scale.peak_in} holds "
        f"pixels up to {scale.peak:g}, which sets the scale, {other} up to {peak(other):g}"
    )
    if len(black) >= BLACK_SHARE * deep:
        raise DataError(f"data.name: {told}; bring all to one scale, or save them as 8-bit pictures")
    say(told)


def _each(work: Callable[[Path], T], paths: Sequence[Path], headers: dict[Path, Header]) -> list[T]:
    """Side by side, but large pictures one by one, for their memory; the first error ends it."""
    large = [path for path in paths if headers[path].pixels > LARGE_PIXELS]
    others = [path for path in paths if headers[path].pixels <= LARGE_PIXELS]
    return [work(path) for path in large] + _side_by_side(work, others)


def _side_by_side(work: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """In forked processes: threads would wait for each other over small pictures."""
    workers = min(usual_workers(), len(items) // LEAST_EACH)
    if workers < 2:
        return [work(item) for item in items]
    try:
        return in_forks(work, items, workers=workers)
    except BrokenProcessPool:
        raise RunError(
            "a process that reads pictures was killed, perhaps for want of memory; set OMP_NUM_THREADS=1 to read them "
            "in one"
        ) from None


def _check_memory(count: int, shape: tuple[int, ...], where: Path) -> None:
    needed = COPIES * count * int(np.prod(shape))
    there = free_bytes()
    if there is not None and needed > MEMORY_SHARE * there:
        channels, height, width = shape
        raise DataError(
            f"{where.parent}: {count:,} pictures of {width}x{height} in {channels} channel(s) take "
            f"{needed / 2**30:.1f} GiB of memory, and {there / 2**30:.1f} are free; set a smaller "
            f"data.image_size"
        )

"""One picture as bytes: grey or RGB, scaled and cropped if asked, in bounded memory, deep pixels brought to 0..255."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from autoprune.data.picture_files import readable_formats
from autoprune.errors import DataError

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})  # and "I;16" in its variants
MAX_PIXELS = 2**26  # of a picture as it is decoded: 192 MiB in colour
MAX_DEEP_PIXELS = 2**25  # of one with more than 8 bits
LARGE_PIXELS = 2**22  # from here on one picture should be decoded at a time
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that cameras and formats have
# The two orders of bytes, and the machine's own.
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

Mode = Literal["L", "RGB"]


@dataclass(frozen=True)
class Deep:
    """Pixels of more than 8 bits: whole numbers or fractions, and the largest that the training pictures hold."""

    is_whole: bool
    peak: float

    @property
    def shift(self) -> int:
        """By how many bits a pixel is too deep: 16 bits lose their lower byte, but 8 bits in 16 stay as they are."""
        return next((depth for depth in DEPTHS if self.peak < 2**depth), DEPTHS[-1]) - DEPTHS[0]

    @property
    def factor(self) -> float:
        """What brings a pixel to 0..255; fractions up to 1 are shares of it."""
        return 255.0 if not self.is_whole and self.peak <= 1 else 0.5**self.shift


@dataclass(frozen=True)
class Header:
    """What a picture's header tells: whether it is grey, the kind of its pixels if they are no bytes, their number."""

    is_grey: bool
    deep: Literal["whole", "fraction"] | None
    pixels: int


def read_header(path: Path) -> Header:
    """Raises `DataError` naming the picture if it is none."""
    with _open(path) as picture:
        raw = _raw_mode(picture)
        is_grey = picture.mode in GREY_MODES or picture.mode.startswith("I;16") or raw.startswith("LA;")
        is_whole = picture.mode.startswith("I") or _is_deep(raw)
        kind: Literal["whole", "fraction"] | None = "fraction" if picture.mode == "F" else "whole" if is_whole else None
        return Header(is_grey, kind, picture.width * picture.height)


def peak(path: Path) -> float:
    """The largest pixel of a deep picture."""
    return float(_deep_pixels(path).max())


def decode(path: Path, *, mode: Mode, image_size: int | None, deep: Deep | None = None) -> NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) RGB; the centre square, scaled to `image_size`, if that is given.

    `deep` is how to take pixels of more than 8 bits; None: the picture has none. Raises `DataError` naming a picture
    that is broken, too large, or deeper than those of the training.
    """
    if deep is not None:
        return _fitted(Image.fromarray(_bytes(path, deep)), mode, image_size)
    with _open(path) as picture:
        if image_size is not None and picture.width * picture.height > LARGE_PIXELS:
            scale = 2 * image_size / min(picture.size)
            picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))  # JPEG alone
        _check_size(path, picture)
        try:
            return _fitted(picture, mode, image_size)
        except Exception as error:  # the decoders raise almost anything on broken bytes
            raise _unreadable(path, error) from None


def _fitted(picture: Image.Image, mode: Mode, image_size: int | None) -> NDArray[np.uint8]:
    converted = picture if picture.mode == mode else picture.convert(mode)
    if image_size is not None and converted.size != (image_size, image_size):
        # Only the centre square is scaled: the whole of a long strip would be far larger than itself.
        side = min(converted.size)
        left, top = (converted.width - side) / 2, (converted.height - side) / 2
        converted = converted.resize((image_size, image_size), box=(left, top, left + side, top + side))
    return np.asarray(converted)


def _bytes(path: Path, deep: Deep) -> NDArray[np.uint8]:
    pixels = _deep_pixels(path)
    largest, limit = float(pixels.max()), 255 / deep.factor
    if largest > 4 * (limit + 1):
        raise DataError(
            f"{path}: holds pixels up to {largest:g}, the training pictures up to {deep.peak:g}: not the same scale; "
            f"save all as 8-bit pictures"
        )
    scaled = pixels >> deep.shift if deep.is_whole else np.rint(pixels * deep.factor)
    return np.minimum(scaled, 255).astype(np.uint8)


def _deep_pixels(path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, C) pixels as whole numbers, or as fractions if the file holds such; none below zero."""
    with _open(path) as picture:
        _check_size(path, picture, MAX_DEEP_PIXELS)
        raw = _raw_mode(picture)
        try:
            if not _is_deep(raw) or picture.mode.startswith("I"):
                pixels = np.asarray(picture)
            elif raw.startswith("LA;"):  # Pillow knows its upper bytes alone: as four bytes a pixel all are there
                parts = np.asarray(_read_as(picture, "RGBA"))
                pixels = (parts[..., 0].astype(np.uint16) << 8) | parts[..., 1]
            else:
                upper = np.asarray(picture).astype(np.uint16)
                with _open(path) as again:  # read in the other byte order, the upper byte is the lower one
                    pixels = (upper << 8) | np.asarray(_read_as(again, raw[:-1] + OTHER_ORDER[raw[-1]]))
        except Exception as error:  # the decoders raise almost anything on broken bytes
            raise _unreadable(path, error) from None
    if not np.isfinite(pixels).all() or pixels.min() < 0:
        found = (
            f"from {pixels.min():g} to {pixels.max():g}" if np.isfinite(pixels).all() else "that are NaN or infinite"
        )
        raise DataError(f"{path}: holds pixels {found}; save it as an 8-bit picture")
    return pixels


def _read_as(picture: ImageFile.ImageFile, raw: str) -> Image.Image:
    """The same, not decoded yet, with its pixels taken to lie as `raw` says."""
    tiles: list[Any] = []
    for tile in picture.tile:
        args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
    picture.tile = tiles
    return picture


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """How a pixel lies in the file, as Pillow's decoders call it: "RGB;16B" is colour of 16 bits a channel."""
    args = picture.tile[0][3] if picture.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_deep(raw: str) -> bool:
    return raw[:-1].endswith(";16") and raw[-1] in OTHER_ORDER


def _open(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path, formats=readable_formats())
    except Image.DecompressionBombError:
        raise DataError(f"{path}: far too many pixels to be read; make it smaller") from None
    except Exception as error:  # the decoders raise almost anything on broken bytes
        raise _unreadable(path, error) from None


def _check_size(path: Path, picture: Image.Image, most: int = MAX_PIXELS) -> None:
    if picture.width * picture.height > most:
        raise DataError(
            f"{path}: {picture.width}x{picture.height} pixels are more than are read ({most:,}); make it smaller"
        )


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable picture ({error})")

"""One picture as bytes: grey or RGB, upright, on white where it is transparent, scaled and cropped if asked, in bounded
memory, deep pixels brought to 0..255."""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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

# EXIF's orientations, each as what shows the picture upright.
ORIENTATION_TAG = 0x0112
UPRIGHT: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
BLACK = 2  # of 255: no more than rounding leaves of a picture on another scale
HOT_SHARE = 1e-3  # of the pixels: so few above that are the sensor's, and no picture

Mode = Literal["L", "RGB"]
Note = Literal["transparent", "turned", "first", "black"]


@dataclass(frozen=True)
class Deep:
    """Pixels of more than 8 bits: whole numbers or fractions, and the largest that the training pictures hold."""

    is_whole: bool
    peak: float
    peak_in: Path

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
    """What a picture's header tells: whether it is grey, the kind of its pixels if they are no bytes, their number,
    and the shorter side."""

    is_grey: bool
    deep: Literal["whole", "fraction"] | None
    pixels: int
    side: int


@dataclass(frozen=True)
class Picture:
    """(H, W) grey or (H, W, 3) RGB, and what became of it: transparent parts were shown on white, it was turned
    upright, its first frame or page alone was read, or its deep pixels came out black."""

    pixels: NDArray[np.uint8]
    notes: frozenset[Note]


@dataclass(frozen=True)
class _DeepPixels:
    """(H, W) or (H, W, C) whole numbers or fractions as in the file, (H, W) how opaque they are if it says."""

    colours: NDArray[Any]
    alpha: NDArray[np.uint8] | None


def read_header(path: Path) -> Header:
    """Raises `DataError` naming the picture if it is none."""
    with _open(path) as picture:
        return _header(picture)


def read(path: Path, *, mode: Mode, image_size: int | None) -> tuple[Header, Picture | None]:
    """The header, and in the same go what `decode` makes of the picture; None if it is deep or large, or cannot be
    decoded, which `decode` tells. Raises `DataError` as `read_header` does."""
    with _open(path) as picture:
        header = _header(picture)
        made = None
        if header.deep is None and header.pixels <= LARGE_PIXELS:
            with suppress(Exception):  # the decoders raise almost anything on broken bytes
                made = _made_of(picture, picture, mode, image_size)
        return header, made


def _header(picture: ImageFile.ImageFile) -> Header:
    raw = _raw_mode(picture)
    is_grey = picture.mode in GREY_MODES or picture.mode.startswith("I;16") or raw.startswith("LA;")
    is_whole = picture.mode.startswith("I") or _is_deep(raw)
    kind: Literal["whole", "fraction"] | None = "fraction" if picture.mode == "F" else "whole" if is_whole else None
    return Header(is_grey, kind, picture.width * picture.height, min(picture.size))


def peak(path: Path) -> float:
    """The largest pixel of a deep picture."""
    with _open(path) as picture:
        return float(_deep_pixels(path, picture).colours.max())


def decode(path: Path, *, mode: Mode, image_size: int | None, deep: Deep | None = None) -> Picture:
    """In `mode`; the centre square, scaled to `image_size`, if that is given.

    `deep` is how to take pixels of more than 8 bits; None: the picture has none. Raises `DataError` naming a picture
    that is broken, too large, or deeper than those of the training.
    """
    with _open(path) as picture:
        if deep is None and image_size is not None and picture.width * picture.height > LARGE_PIXELS:
            scale = 2 * image_size / min(picture.size)
            picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))  # JPEG alone
        try:
            if deep is None:
                _check_size(path, picture, MAX_PIXELS)
                return _made_of(picture, picture, mode, image_size)
            made = _made_of(_shallow(path, _deep_pixels(path, picture), deep), picture, mode, image_size)
            black: set[Note] = {"black"} if _is_black(made.pixels) else set()
            return replace(made, notes=made.notes | black)
        except DataError:
            raise
        except Exception as error:  # the decoders raise almost anything on broken bytes
            raise _unreadable(path, error) from None


def _made_of(shown: Image.Image, picture: ImageFile.ImageFile, mode: Mode, image_size: int | None) -> Picture:
    """Of the pixels that are `shown` of a picture."""
    made, is_transparent = _fitted(shown, mode, image_size)
    turn = UPRIGHT.get(_orientation(picture))
    told: dict[Note, bool] = {"transparent": is_transparent, "turned": turn is not None, "first": _has_more(picture)}
    return Picture(made if turn is None else turn(made), frozenset(note for note, holds in told.items() if holds))


def _fitted(picture: Image.Image, mode: Mode, image_size: int | None) -> tuple[NDArray[np.uint8], bool]:
    """The pixels, and whether some of them were transparent."""
    wanted = "RGBA" if picture.has_transparency_data else mode
    converted = picture if picture.mode == wanted else picture.convert(wanted)
    if image_size is not None and converted.size != (image_size, image_size):
        # Only the centre square is scaled: the whole of a long strip would be far larger than itself.
        side = min(converted.size)
        left, top = (converted.width - side) / 2, (converted.height - side) / 2
        converted = converted.resize((image_size, image_size), box=(left, top, left + side, top + side))
    if wanted == mode:
        return np.asarray(converted), False
    is_transparent = converted.getchannel("A").getextrema() != (255, 255)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", converted.size, "white"), converted).convert(mode)), (
        is_transparent
    )


def _shallow(path: Path, found: _DeepPixels, deep: Deep) -> Image.Image:
    """The same with 8 bits a channel."""
    pixels = found.colours
    largest, limit = float(pixels.max()), 255 / deep.factor
    if largest > 4 * (limit + 1):
        raise DataError(
            f"{path}: holds pixels up to {largest:g}, the training pictures up to {deep.peak:g}: not the same scale; "
            f"save all as 8-bit pictures"
        )
    scaled = pixels >> deep.shift if deep.is_whole else np.rint(pixels * deep.factor)
    made = np.minimum(scaled, 255).astype(np.uint8)
    if made.shape[2:] == (4,):
        return Image.merge("CMYK", [Image.fromarray(made[..., channel]) for channel in range(4)])
    picture = Image.fromarray(made)
    if found.alpha is not None:
        picture.putalpha(Image.fromarray(found.alpha))
    return picture


def _is_black(made: NDArray[np.uint8]) -> bool:
    return int((made > BLACK).sum()) <= max(1, HOT_SHARE * made.size)


def _deep_pixels(path: Path, picture: ImageFile.ImageFile) -> _DeepPixels:
    """The pixels of a picture of more than 8 bits; none is below zero."""
    alpha = None
    _check_size(path, picture, MAX_DEEP_PIXELS)
    raw = _raw_mode(picture)
    try:
        if not _is_deep(raw) or picture.mode.startswith("I"):
            pixels = np.asarray(picture)
        elif raw.startswith("LA;"):  # Pillow knows its upper bytes alone: as four bytes a pixel all are there
            parts = np.asarray(_read_as(picture, "RGBA"))
            pixels = (parts[..., 0].astype(np.uint16) << 8) | parts[..., 1]
            alpha = parts[..., 2]
        else:
            upper = np.asarray(picture).astype(np.uint16)
            with _open(path) as again:  # read in the other byte order, the upper byte is the lower one
                pixels = (upper << 8) | np.asarray(_read_as(again, raw[:-1] + OTHER_ORDER[raw[-1]]))
            if picture.mode == "RGBA":
                pixels, alpha = pixels[..., :3], upper[..., 3].astype(np.uint8)
    except Exception as error:  # the decoders raise almost anything on broken bytes
        raise _unreadable(path, error) from None
    if not np.isfinite(pixels).all() or pixels.min() < 0:
        found = (
            f"from {pixels.min():g} to {pixels.max():g}" if np.isfinite(pixels).all() else "that are NaN or infinite"
        )
        raise DataError(f"{path}: holds pixels {found}; save it as an 8-bit picture")
    return _DeepPixels(pixels, alpha)


def _orientation(picture: Image.Image) -> int:
    """Of a picture that is decoded (some turn themselves upright then); 1, as it lies, where nothing says otherwise."""
    try:
        found = picture.getexif().get(ORIENTATION_TAG)
    except Exception:  # what stands beside the pixels may be broken
        return 1
    return found if isinstance(found, int) else 1


def _has_more(picture: ImageFile.ImageFile) -> bool:
    """Whether it has other frames or pages than the first; those of a PSD are the layers of one picture."""
    return picture.format != "PSD" and bool(getattr(picture, "is_animated", False))


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


def _check_size(path: Path, picture: Image.Image, most: int) -> None:
    if picture.width * picture.height > most:
        raise DataError(
            f"{path}: {picture.width}x{picture.height} pixels are more than are read ({most:,}); make it smaller"
        )


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable picture ({error})")

"""Which files of an image folder are pictures, of which class they are, and what is left out."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from autoprune.data.classes import class_names, same_text
from autoprune.errors import DataError, cut
from autoprune.foundation.progress import say

# Of all that Pillow knows: still pictures that it decodes by itself, without another program (as EPS needs one).
FORMATS = (
    *("PNG", "JPEG", "BMP", "DIB", "WEBP", "PPM", "TIFF", "GIF", "JPEG2000", "AVIF", "QOI"),
    *("TGA", "PCX", "SGI", "ICO", "MSP", "SUN", "XBM", "XPM", "IM", "PSD"),
)
NOT_A_FILE, LINKED_FOLDER, NO_SUFFIX, OUTSIDE = "not an ordinary file", "linked folder", "without a suffix", "no class"


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of each class, sorted; how many lie in folders within class folders; what is left out, by kind."""

    pictures: tuple[tuple[Path, ...], ...]
    deeper: int
    left_out: Counter[str]


@functools.cache
def readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of files that are read as pictures, in lower case."""
    formats = readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_classes(folder: Path) -> tuple[str, ...]:
    """The class folders under `folder/train`, sorted."""
    names = class_names(list(_class_folders(folder, "train")), str(folder / "train"))
    if len(names) < 2:
        raise DataError(f"{folder / 'train'}: {len(names)} class folder(s); a classifier needs at least two")
    return names


def find_pictures(folder: Path, split: str, classes: Sequence[str]) -> PictureFiles:
    """The pictures of each class at any depth; a class without any, or one that train lacks, is a `DataError`."""
    folders = _class_folders(folder, split)
    where = folder / split
    class_names(list(folders), str(where))
    by_name = {same_text(name): name for name in folders}
    if unknown := sorted(by_name.keys() - {same_text(name) for name in classes}):
        raise DataError(f"{where}: {', '.join(by_name[name] for name in unknown)} is no class of {folder / 'train'}")
    pictures, deeper, left_out = [], 0, Counter(_outside(where))
    for name in classes:
        class_folder = where / by_name.get(same_text(name), name)
        found, others = _walk(class_folder) if is_folder(class_folder) else ((), Counter())
        left_out += others
        if not found:
            shown = f"; left out are {_counted(others)}" if others else ""
            raise DataError(f"{class_folder}: no pictures ({', '.join(sorted(suffixes()))}){shown}")
        deeper += sum(path.parent != class_folder for path in found)
        pictures.append(found)
    return PictureFiles(tuple(pictures), deeper, left_out)


def tell(files: PictureFiles, where: Path) -> None:
    """Say what is not as one would expect."""
    if files.deeper:
        total = sum(map(len, files.pictures))
        say(f"{where}: {files.deeper:,} of {total:,} pictures lie in folders within class folders; they are read too")
    if files.left_out:
        say(f"{where}: {files.left_out.total():,} files are left out: {_counted(files.left_out)}")


def _class_folders(folder: Path, split: str) -> list[str]:
    where = folder / split
    if not is_folder(where):
        there = _folders_in(folder)
        hint = f"; {cut(str(folder))} holds {', '.join(there[:8])}" if there else ""
        raise DataError(
            f"{cut(str(where))}: no such folder; an image folder holds train/CLASS/* and test/CLASS/*{hint}"
        )
    return _folders_in(where)


def _folders_in(folder: Path) -> list[str]:
    if not is_folder(folder):
        return []
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from None


def _walk(folder: Path) -> tuple[tuple[Path, ...], Counter[str]]:
    """Pictures below a class folder, sorted, and what else lies there, by kind; hidden files are passed over."""

    def fail(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error)

    found: list[Path] = []
    others: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        others[LINKED_FOLDER] += sum((Path(parent) / name).is_symlink() for name in folders)  # it may lead in a circle
        where = Path(parent)
        for name in names:
            if name.startswith("."):
                continue
            kind = _kind(os.path.join(parent, name))  # noqa: PTH118 - paths are slow, and there may be a million
            if kind is None:
                found.append(where / name)
            else:
                others[kind] += 1
    return tuple(sorted(found, key=lambda path: path.parts)), +others


def _kind(path: str) -> str | None:
    """Why a file is no picture; None: it is one, by its suffix."""
    if not os.path.isfile(path):  # noqa: PTH113
        return NOT_A_FILE
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return None if suffix in suffixes() else suffix or NO_SUFFIX


def _outside(where: Path) -> Counter[str]:
    """Pictures beside the class folders: of no class."""
    return Counter(OUTSIDE for path in where.iterdir() if not path.is_dir() and path.suffix.lower() in suffixes())


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror})")

"""Paths that a user names: what is no path, or cannot be read or written, is told before any work."""

import os
import tempfile
from pathlib import Path
from typing import Any

from autoprune.errors import InputError, shown

MOST_NAME_BYTES = 255  # of one part of a path, on all usual file systems
MOST_PATH_BYTES = 4095
MOST_OUTPUT_BYTES = 200  # of a file's name: the temporary file beside it has a longer one


def user_path(path: Any, *, field: str) -> Path:
    """`path` with `~` expanded; `InputError` names `field` and why no file can have this name."""
    text = checked_name(path, field=field)
    if not text.startswith("~"):
        return Path(text)
    user = Path(text).parts[0]
    try:
        has_home = Path(user).expanduser().is_dir()  # system users are given one that nobody made
    except (RuntimeError, OSError):
        has_home = False
    if not has_home:
        raise InputError(f"{field}: {shown(text)}: {shown(user)} is no home folder here; write the path out")
    return Path(text).expanduser()


def checked_name(path: Any, *, field: str) -> str:
    """`path` as text, whatever machine it is for; `InputError` names `field` and what no file's name may hold."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{field}: must be the path of a file or folder, got {shown(path)}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise InputError(f"{field}: must be a path as text, got {shown(text)}")
    if not text.strip():
        raise InputError(f"{field}: is empty; name one or leave it out")
    if "\0" in text:
        raise InputError(f"{field}: {shown(text)}: holds a zero byte, which no file's name can; correct the path")
    try:
        parts = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        raise InputError(f"{field}: {shown(text)}: is no text that a file can be called; correct the path") from None
    longest, whole = max(map(len, parts)), sum(map(len, parts)) + len(parts) - 1
    if longest > MOST_NAME_BYTES or whole > MOST_PATH_BYTES:
        raise InputError(
            f"{field}: {shown(text)}: too long for a path ({max(longest, whole):,} bytes; a name may have "
            f"{MOST_NAME_BYTES}, a path {MOST_PATH_BYTES:,}); choose a shorter one"
        )
    return text


def require_writable_folder(folder: Path, *, field: str) -> None:
    """Raise `InputError` naming `field` unless files can be written into `folder`, or where it would be made.

    It is tried with a folder that is removed at once: rights alone do not tell (`/proc`, a read-only disk).
    """
    try:
        existing = nearest_existing(folder)
        if not existing.is_dir():
            raise InputError(f"{field}: {folder} cannot be made: {existing} is no folder; choose another {field}")
        with tempfile.TemporaryDirectory(dir=existing, prefix=".autoprune-"):
            pass
    except OSError as error:
        raise InputError(f"{field}: {folder} cannot be written ({error.strerror}); choose another {field}") from None


def require_writable_file(path: Path, *, field: str) -> None:
    """Raise `InputError` naming `field` unless a file can be written at `path`; nothing is left there."""
    try:
        if path.is_dir():
            raise InputError(f"{field} {path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{field} {path}: is a device or a pipe; name a file")
        if len(os.fsencode(path.name)) > MOST_OUTPUT_BYTES:
            raise InputError(f"{field} {path}: its name is longer than {MOST_OUTPUT_BYTES} bytes; choose a shorter one")
    except OSError as error:
        raise InputError(f"{field} {path}: cannot be reached ({error.strerror}); choose another file") from None
    require_writable_folder(path.parent, field=field)


def nearest_existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there; a link that leads nowhere is there, and no folder."""
    while not folder.exists() and not folder.is_symlink():
        folder = folder.parent
    return folder

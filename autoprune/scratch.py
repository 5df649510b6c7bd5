"""Temporary files and folders that say whose they are: what a killed process left behind, the next one removes.

The owner holds a lock (`flock`) on its temporary file, or on the marker in its temporary folder, for as long as it
lives; the system takes the lock away when it dies, however. So what can be locked belongs to no one any more. A process
number would tell less: they come again, and mean nothing in another container.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "autoprune-"
MARKER = ".autoprune-lock"
RANDOM = r"[a-z0-9_]{8}"  # of `tempfile`
FOLDER = re.compile(rf"{PREFIX}{RANDOM}")
# `.policy.json.autoprune-1a2b3c4d.json`; earlier versions left `autoprune-` out.
FILE = re.compile(rf"\.(?P<name>.+)\.(?P<mark>{PREFIX})?{RANDOM}(?P<suffix>\.[^.]*)?")


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path` with its suffix, locked and removed in the end unless it was moved; those that killed
    writers of `path` left are removed first."""
    for left in path.parent.glob(f".{_literally(path.name)}.{PREFIX}*"):
        if is_temporary_of(left.name, path.name):
            remove_if_orphaned(left)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{PREFIX}", suffix=path.suffix)
        temporary = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same(handle, temporary):  # nobody took it for an orphan before it was locked
                yield temporary
                return
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether this version or an earlier one calls its temporary files so. Certain only where all files are ours."""
    found = FILE.fullmatch(name)
    return found is not None and Path(found["name"]).suffix == (found["suffix"] or "")


def is_temporary_of(name: str, target: str) -> bool:
    """Whether this version calls a temporary file of `target` so."""
    found = FILE.fullmatch(name)
    return found is not None and found["mark"] is not None and is_temporary(name) and found["name"] == target


def remove_orphans(folder: Path) -> None:
    """Remove temporary files of dead processes from `folder` and all folders in it, where all files are ours."""
    for path in sorted(folder.rglob(".*")):
        if is_temporary(path.name) and path.is_file() and not path.is_symlink():
            remove_if_orphaned(path)


def remove_if_orphaned(path: Path) -> None:
    """Remove a temporary file unless its owner lives; what cannot be opened or removed stays."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, removed when the block ends. Those of processes that were killed are removed first.

    Only folders that hold our marker, are this user's, and that nobody has locked: nothing else is touched.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if FOLDER.fullmatch(left.name):
            _remove_folder_if_orphaned(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        marker = folder / MARKER
        handle = os.open(marker, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same(handle, marker):
                yield folder
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


@contextlib.contextmanager
def scratch_for_all() -> Iterator[Path]:
    """A `scratch_folder` that the whole process uses for temporary files while the block runs, libraries too.

    For processes of our own: in another's it would hold, and in the end remove, the files of other threads.
    """
    before = tempfile.tempdir
    with scratch_folder() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def _remove_folder_if_orphaned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid != os.getuid():
            return
        handle = os.open(folder / MARKER, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The marker goes last: if this process is killed midway, the next one goes on.
            for path in folder.iterdir():
                if path.name == MARKER:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _literally(text: str) -> str:
    """`text` as a pattern of `glob` that matches itself alone."""
    return re.sub(r"([*?[])", r"[\1]", text)

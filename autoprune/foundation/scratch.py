"""Temporary files and folders that say whose they are: what a killed process left behind, the next one removes.

The owner holds a lock (`flock`) on its temporary file, or on the file beside its temporary folder, for as long as it
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
LOCK_SUFFIX = ".lock"
RANDOM = r"[a-z0-9_]{8}"  # of `tempfile`
LOCK = re.compile(rf"{PREFIX}{RANDOM}{re.escape(LOCK_SUFFIX)}")
# `.policy.json.autoprune-1a2b3c4d.json`; earlier versions left `autoprune-` out.
FILE = re.compile(rf"\.(?P<name>.+)\.(?P<mark>{PREFIX})?{RANDOM}(?P<suffix>\.[^.]*)?")


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path` with its suffix, locked and removed in the end unless it was moved; those that killed
    writers of `path` left are removed first."""
    for left in path.parent.glob(f".{_literally(path.name)}.{PREFIX}*"):
        if is_temporary_of(left.name, path.name):
            remove_if_orphaned(left)
    with _locked(prefix=f".{path.name}.{PREFIX}", suffix=path.suffix, folder=path.parent) as temporary:
        yield temporary


@contextlib.contextmanager
def _locked(*, prefix: str, suffix: str, folder: Path | None = None) -> Iterator[Path]:
    """An empty temporary file that is locked while the block runs, and gone afterwards unless it was moved."""
    while True:
        handle, name = tempfile.mkstemp(suffix, prefix, folder)
        file = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same(handle, file):  # nobody took it for an orphan before it was locked
                yield file
                return
        finally:
            file.unlink(missing_ok=True)
            os.close(handle)


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

    Beside each folder lies its lock, which is there before the folder and after it: only folders with a lock that is
    this user's, and that nobody holds, are removed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if LOCK.fullmatch(left.name):
            _remove_folder_if_orphaned(left)
    while True:
        with _locked(prefix=PREFIX, suffix=LOCK_SUFFIX) as lock:
            folder = lock.with_suffix("")
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:  # a stranger's
                continue
            try:
                yield folder
                return
            finally:
                shutil.rmtree(folder, ignore_errors=True)


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


def _remove_folder_if_orphaned(lock: Path) -> None:
    """Remove the folder that `lock` is of, then the lock: if this process is killed midway, the next one goes on."""
    folder = lock.with_suffix("")
    with contextlib.suppress(OSError):
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_uid != os.getuid() or not _is_same(handle, lock):
                return
            if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.getuid()):
                return
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink()
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

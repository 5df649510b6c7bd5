"""Files that are whole or absent: everything is written beside its place and moved there in one step."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.errors import InputError, RunError
from autoprune.foundation.paths import nearest_existing, user_path
from autoprune.foundation.scratch import temporary_beside

FULL_BYTES = 2**20  # less than this is left when a write fails: then that is why
MIN_FREE_BYTES = 100 * 2**20  # a run leaves about 10 MB; checkpoints of large models need more


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block ends well, remove it otherwise.

    What a killed process left of an earlier write to `path` is removed. Raises `RunError` if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(path) as temporary:
        try:
            yield temporary
            temporary.chmod(0o644)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        except Exception as error:
            if _is_disk_full(error, path.parent):
                raise RunError(f"{path}: the disk is full; free some space and go on with --resume") from error
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any parser reads: NaN and infinity are refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; `InputError` names the file if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/autoprune` or `~/.cache/autoprune`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (user_path(base, field="XDG_CACHE_HOME") if base else Path.home() / ".cache") / "autoprune"


def require_free_space(folder: Path, needed_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise `InputError` before any work if the disk under `folder` cannot hold a run."""
    free_bytes = shutil.disk_usage(nearest_existing(folder)).free
    if free_bytes < needed_bytes:
        raise InputError(
            f"{folder}: the disk is nearly full ({free_bytes / 2**20:.0f} MiB free, a run needs "
            f"{needed_bytes / 2**20:.0f} MiB); free some space or choose another --run-dir"
        )


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """Libraries hide ENOSPC in errors of their own; what they had written still fills the disk, or they say so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(folder).free < FULL_BYTES


def named_path(text: str) -> Path:
    """The path that a user wrote, `~` resolved; the home of somebody unknown is left as it stands: no such file."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)

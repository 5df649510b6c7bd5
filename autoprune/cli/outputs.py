"""Files that a command leaves when it is done: none takes the place of what it reads, nor of a stranger's file."""

import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import InputError
from autoprune.foundation.files import read_json
from autoprune.space.policy import load_policy

LARGEST_JSON = 64 * 2**20  # bytes: more is none of ours
HEAD_BYTES = 4096  # of a page: its title stands within them
PAGE_MARK = b" \xc2\xb7 autoprune</title>"  # of every page that is made from a template of ours
PICTURE_MARKS = (b"\x89PNG", b"<?xml", b"<svg")


@dataclass(frozen=True)
class Output:
    """A file that will be written at `path`, as the option `field` asks; one that is there must be of the same kind:
    `is_ours` tells, `kind` says it."""

    field: str
    path: Path
    kind: str
    is_ours: Callable[[Path], bool]


def json_output(field: str, path: Path, *, kind: str) -> Output:
    """JSON that says of itself that it is a `kind`."""

    def is_ours(there: Path) -> bool:
        raw = read_json(there) if there.stat().st_size <= LARGEST_JSON else None
        return isinstance(raw, dict) and raw.get("kind") == kind

    return Output(field, path, f"JSON of autoprune ({kind})", is_ours)


def page_output(field: str, path: Path) -> Output:
    return Output(field, path, "page of autoprune", lambda there: PAGE_MARK in _head(there))


def picture_output(field: str, path: Path) -> Output:
    return Output(field, path, "PNG or SVG", lambda there: _head(there).lstrip().startswith(PICTURE_MARKS))


def policy_output(field: str, path: Path) -> Output:
    def is_ours(there: Path) -> bool:
        load_policy(there)
        return True

    return Output(field, path, "policy of autoprune", is_ours)


def check_outputs(outputs: Iterable[Output], inputs: Iterable[str | Path | None]) -> None:
    """Raise `InputError` for an output that is one of `inputs` or another output, by whatever name or link, or that
    would overwrite a file of another kind; an empty file may be overwritten."""
    outputs = tuple(outputs)
    read = [Path(name) for name in inputs if name is not None]
    for output in outputs:
        where = f"{output.field} {output.path}"
        if (same := next((path for path in read if _is_same(path, output.path)), None)) is not None:
            raise InputError(f"{where}: would overwrite {same}, which is read; choose another file")
        if not _may_overwrite(output):
            raise InputError(
                f"{where}: there is a file already, and no {output.kind}; delete it, or choose another file"
            )
    for first, second in itertools.combinations(outputs, 2):
        if _is_same(first.path, second.path):
            raise InputError(f"{second.field} {second.path}: is written by {first.field} already; choose another file")


def _may_overwrite(output: Output) -> bool:
    try:
        return not output.path.exists() or output.path.stat().st_size == 0 or output.is_ours(output.path)
    except InputError:  # it is no JSON, or no policy
        return False
    except OSError as error:
        raise InputError(
            f"{output.field} {output.path}: cannot be read ({error.strerror}); choose another file"
        ) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _is_same(first: Path, second: Path) -> bool:
    """Whether both are one file; of files that are not there yet, whether they have one place."""
    try:
        return first.samefile(second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)

"""Files that a command leaves when it is done: none takes the place of what it reads, nor of a stranger's file."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from autoprune.cli.options import STDOUT
from autoprune.errors import InputError
from autoprune.foundation import progress
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.terminal import stdout_console
from autoprune.space.policy import load_policy

LARGEST_JSON = 64 * 2**20  # bytes: more is none of ours
HEAD_BYTES = 4096  # of a page: its title stands within them
PAGE_MARK = b" \xc2\xb7 autoprune</title>"  # of every page that is made from a template of ours
PICTURE_MARKS = (b"\x89PNG", b"<?xml", b"<svg")


@dataclass(frozen=True)
class Kind:
    """What may be overwritten: how it is called, and whether a file that is there is of it."""

    name: str
    is_ours: Callable[[Path], bool]


PAGE = Kind("page of autoprune", lambda there: PAGE_MARK in _head(there))
PICTURE = Kind("PNG or SVG", lambda there: _head(there).lstrip().startswith(PICTURE_MARKS))
POLICY = Kind("policy of autoprune", lambda there: bool(load_policy(there)))


def json_kind(kind: str) -> Kind:
    """JSON that says of itself that it is a `kind`."""

    def is_ours(there: Path) -> bool:
        raw = read_json(there) if there.stat().st_size <= LARGEST_JSON else None
        return isinstance(raw, dict) and raw.get("kind") == kind

    return Kind(f"JSON of autoprune ({kind})", is_ours)


def check_outputs(outputs: Iterable[tuple[str, Path | None, Kind]], inputs: Iterable[str | Path | None]) -> None:
    """Raise `InputError` for an output (its option, its path, its kind) that is one of `inputs` or another output, by
    whatever name or link, or that would overwrite a file of another kind; an empty file may be overwritten, and None is
    no output."""
    asked = [(field, path, kind) for field, path, kind in outputs if path is not None]
    read = [Path(name) for name in inputs if name is not None]
    for field, path, kind in asked:
        if (same := next((other for other in read if _is_same(other, path)), None)) is not None:
            raise InputError(f"{field} {path}: would overwrite {same}, which is read; choose another file")
        if not _may_overwrite(field, path, kind):
            raise InputError(
                f"{field} {path}: there is a file already, and no {kind.name}; delete it, or choose another file"
            )
    for (first, path, _), (second, other, _) in itertools.combinations(asked, 2):
        if _is_same(path, other):
            raise InputError(f"{second} {other}: is written by {first} already; choose another file")


def json_file(target: str | None) -> Path | None:
    """The file that `--json` names, if it names one."""
    return None if target in (None, STDOUT) else Path(target)


def console_beside(target: str | None) -> Console:
    """For what is shown to people: stdout, unless `--json` has it."""
    return progress.console if target == STDOUT else stdout_console()


def write_figures(document: Mapping[str, Any], target: str | None) -> None:
    """Where `--json` says."""
    if target == STDOUT:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    elif target is not None:
        write_json(Path(target), document)


def _may_overwrite(field: str, path: Path, kind: Kind) -> bool:
    try:
        return not path.exists() or path.stat().st_size == 0 or kind.is_ours(path)
    except InputError:  # it is no JSON, or no policy
        return False
    except OSError as error:
        raise InputError(f"{field} {path}: cannot be read ({error.strerror}); choose another file") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _is_same(first: Path, second: Path) -> bool:
    """Whether both are one file; of files that are not there yet, whether they have one place."""
    try:
        return first.samefile(second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)

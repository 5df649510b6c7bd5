"""`path/file.py:factory` and `package.module:factory`: the user's own code, run because the user named it."""

import errno
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from autoprune.errors import AutopruneError, InputError, UserCodeError

_executed: dict[Path, tuple[bytes, ModuleType]] = {}  # what a file held, and what came of it
_files: dict[str, Path] = {}  # by what was named, as "field=spec": the user's own file
NETWORK = "model.name="
PACKAGE = Path(__file__).parents[1]
INSTALLED = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # PyTorch's words


def load_factory(spec: str, *, field: str) -> Callable[..., Any]:
    """Import the callable that `spec` names; `InputError` names `field` and what is missing.

    A file is executed once in a process, and again only when it was changed.
    """
    place, _, name = spec.rpartition(":")
    where = f"{field}={spec}"
    if not place or not name:
        raise InputError(f"{where}: expected path/file.py:factory or package.module:factory")
    try:
        module = _of_file(place, where) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's code may raise anything while it is imported
        if is_of_machine(error):
            raise
        if isinstance(error, FileNotFoundError) and Path(str(error.filename)).name == Path(place).name:
            raise InputError(f"{where}: {place}: no such file") from None
        raise InputError(f"{where}: cannot import {place} ({type(error).__name__}: {error})") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"{where}: {place} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


@contextmanager
def users_errors() -> Iterator[None]:
    """What a user's own code raises while the block runs, as `UserCodeError` that names its key, file and line.

    It is the user's if none of our frames lies further in than theirs, also where it was caught and told otherwise. Not
    of a network: it is caught where it is made and first looked at, and later it is ours that was cut. What is not
    theirs, but went through their file, keeps its traceback, with a last line that says where.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raised: BaseException | None = error
        while isinstance(raised, AutopruneError):
            raised = raised.__cause__ or raised.__context__
        found = None if raised is None or is_of_machine(raised) else _users_frame(raised)
        if found is None:
            raise
        of_network = any(key.startswith(NETWORK) for key in found.keys) and not isinstance(raised, SystemExit)
        is_theirs, keys = not found.calls_ours and not of_network, ", ".join(found.keys)
        if isinstance(error, AutopruneError):
            if found.calls_ours:
                raise
            kind = UserCodeError if is_theirs and not isinstance(error, InputError) else type(error)
            raise kind(f"{error} (raised in {found.line}, of {keys})") from error
        if is_theirs:
            raise UserCodeError(f"{keys}: {found.line}: raised {type(raised).__name__}: {raised}") from error
        error.add_note(f"It came through {found.line}, of {keys}")
        raise


def is_of_machine(error: BaseException) -> bool:
    """Whether memory or a disk is full, which is nobody's mistake."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_full or isinstance(error, MemoryError) or any(part in str(error) for part in OUT_OF_MEMORY)


def check_call(function: Callable[..., Any], *arguments: object, field: str, **named: object) -> None:
    """Raises `InputError` unless `function` can be called with so many arguments and with those that are named."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError as error:
        raise InputError(f"{field}: {getattr(function, '__name__', function)} cannot be called so: {error}") from None
    except ValueError:  # one without a signature, such as a C function
        pass


def short_name(spec: str) -> str:
    """What a folder or a chart may be named by: the factory of `path/file.py:factory`, any other name as it is."""
    return spec.rpartition(":")[2]


def source_of(spec: str) -> bytes:
    """What stands in the file of `path/file.py:factory`; nothing for other names, such as built-in ones."""
    file = Path(spec.rpartition(":")[0]).expanduser()
    return file.read_bytes() if file.suffix == ".py" and file.is_file() else b""


@dataclass(frozen=True)
class _UsersFrame:
    """Where an error went through a user's own code: the innermost line there, and whether that called ours."""

    keys: list[str]
    line: str
    calls_ours: bool


def _users_frame(error: BaseException) -> _UsersFrame | None:
    frames = [*traceback.walk_tb(error.__traceback__)][::-1]
    calls_ours = False
    for depth, (frame, line) in enumerate(frames):
        file = Path(frame.f_code.co_filename)
        if _is_ours(frame):
            calls_ours |= frame.f_code.co_name != "__getattr__"  # which raises for a name that there is not
        elif beside := [key for key, own in _files.items() if _is_beside(file, own)]:
            callers = itertools.takewhile(lambda frame: not _is_ours(frame), (frame for frame, _ in frames[depth:]))
            return _UsersFrame(_named_by(callers) or beside, f"{file}, line {line}", calls_ours)
    return None


def _named_by(frames: Iterable[FrameType]) -> list[str]:
    """The keys that name what runs in one of the frames, or else all that name its file."""
    of_file: list[str] = []
    for frame in frames:
        keys = [key for key, file in _files.items() if file == Path(frame.f_code.co_filename)]
        if exact := [key for key in keys if short_name(key) == frame.f_code.co_qualname.partition(".")[0]]:
            return exact
        of_file = of_file or keys
    return of_file


def _is_ours(frame: FrameType) -> bool:
    name, file = str(frame.f_globals.get("__name__")), Path(frame.f_code.co_filename)
    return name.startswith("autoprune.") or file.is_relative_to(PACKAGE)  # which may be run as a program


def _is_beside(file: Path, own: Path) -> bool:
    """Whether a file is a user's own, or lies in its folder or below, and is no library's."""
    is_installed = bool(INSTALLED.intersection(file.parts)) or file.is_relative_to(STANDARD_LIBRARY)
    return file == own or (file.is_relative_to(own.parent) and not is_installed)


def _of_file(place: str, where: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    _files[where] = path
    content = path.read_bytes()
    if path in _executed and _executed[path][0] == content:
        return _executed[path][1]
    # Its own name among the modules: `model.py` must not hide another `model`, and dataclasses look their module up.
    name = f"autoprune_user_file_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    beside = str(path.parent)
    if beside not in sys.path:  # it may import its neighbours, now or when it is called, as it could as a script
        sys.path.append(beside)
    try:
        exec(compile(content, path, "exec"), vars(module))  # the loader takes a file of the same length for the same
    except BaseException:
        del sys.modules[name]
        raise
    _executed[path] = content, module
    return module

"""`path/file.py:factory` and `package.module:factory`: the user's own code, run because the user named it."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import AutopruneError, InputError, UserCodeError

_executed: dict[Path, tuple[bytes, ModuleType]] = {}  # what a file held, and what came of it
_modules: dict[str, set[str]] = {}  # by what was named, as "field=spec": the modules that it is code of


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
        if isinstance(error, FileNotFoundError) and Path(str(error.filename)).name == Path(place).name:
            raise InputError(f"{where}: {place}: no such file") from None
        raise InputError(f"{where}: cannot import {place} ({type(error).__name__}: {error})") from error
    _modules[where] = _beside(module)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"{where}: {place} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


@contextmanager
def users_errors() -> Iterator[None]:
    """What a user's own code raises while the block runs, as `UserCodeError` that names its key, file and line.

    It is the user's if none of our frames lies further in than theirs, also where it was caught and told otherwise.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raised: BaseException | None = error
        while isinstance(raised, AutopruneError):
            raised = raised.__cause__ or raised.__context__
        if raised is None or (found := _raised_in(raised)) is None:
            raise
        keys, line = found
        if not isinstance(error, AutopruneError):
            raise UserCodeError(f"{keys}: {line}: raised {type(raised).__name__}: {raised}") from error
        kind = type(error) if isinstance(error, InputError) else UserCodeError
        raise kind(f"{error} (raised in {line}, of {keys})") from error


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


def _raised_in(error: BaseException) -> tuple[str, str] | None:
    """The keys of the user's code that raised `error`, with its file and line; None if ours did, or another's."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("autoprune.") and frame.f_code.co_name != "__getattr__":  # of a name that there is not
            return None
        if keys := [key for key, modules in _modules.items() if module in modules]:
            exact = [key for key in keys if short_name(key) == frame.f_code.co_qualname.partition(".")[0]]
            return ", ".join(exact or keys), f"{frame.f_code.co_filename}, line {line}"
    return None


def _beside(module: ModuleType) -> set[str]:
    """The name of a module, and those of its neighbours that it takes something from."""
    folder = Path(getattr(module, "__file__", None) or "").parent
    names = [getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in vars(module).values()]
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names if isinstance(name, str)}
    return {module.__name__, *(name for name, file in files.items() if file and Path(file).parent == folder)}


def _of_file(place: str, where: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    content = path.read_bytes()
    if path in _executed and _executed[path][0] == content:
        return _executed[path][1]
    # Its own name among the modules: `model.py` must not hide another `model`, and dataclasses look their module up.
    name = f"autoprune_user_file_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    _modules[where] = {name}
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

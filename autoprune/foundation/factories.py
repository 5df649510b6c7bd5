"""`path/file.py:factory` and `package.module:factory`: the user's own code, run because the user named it."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import InputError


def load_factory(spec: str, *, field: str) -> Callable[..., Any]:
    """Import the callable that `spec` names; `InputError` names `field` and what is missing."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise InputError(f"{field}={spec}: expected path/file.py:factory or package.module:factory")
    try:
        if place.endswith(".py"):
            module = _run_file(Path(place).expanduser().resolve())
        else:
            module = importlib.import_module(place)
    except FileNotFoundError:
        raise InputError(f"{field}={spec}: {place}: no such file") from None
    except (Exception, SystemExit) as error:  # the user's code may raise anything while it is imported
        raise InputError(f"{field}={spec}: cannot import {place} ({type(error).__name__}: {error})") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"{field}={spec}: {place} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


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


def _run_file(path: Path) -> ModuleType:
    # Its own name among the modules: `model.py` must not hide another `model`, and dataclasses look their module up.
    name = f"autoprune_user_file_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    beside = str(path.parent)
    if beside not in sys.path:  # it may import its neighbours, now or when it is called, as it could as a script
        sys.path.append(beside)
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

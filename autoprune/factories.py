"""`path/file.py:factory` and `package.module:factory`: the user's own code, run because the user named it."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprune.errors import InputError


def load_factory(spec: str, *, field: str) -> Callable[..., Any]:
    """Import the callable that `spec` names; `InputError` names `field` and what is missing."""
    place, _, name = spec.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place).expanduser().resolve()
            if not path.is_file():
                raise InputError(f"{field}={spec}: {path} is no file")
            module_spec = importlib.util.spec_from_file_location(path.stem, path)
            assert module_spec is not None and module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            module_spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except ImportError as error:
        raise InputError(f"{field}={spec}: cannot import {place} ({error})") from None
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"{field}={spec}: {place} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]

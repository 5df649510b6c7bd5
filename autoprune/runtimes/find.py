"""Runtimes by name, and a user's own."""

from collections.abc import Callable
from typing import Any, Protocol

from autoprune.errors import InputError
from autoprune.foundation.factories import check_call, load_factory
from autoprune.runtimes import onnxruntime, openvino, torch
from autoprune.runtimes.runtime import Runtime

FIELD = "measure.runtime"
MEMBERS = ("name", "key", "device", "open_model")


class MakeRuntime(Protocol):
    def __call__(self, device: str | None, *, field: str) -> Runtime: ...


RUNTIMES: dict[str, MakeRuntime] = {
    "onnxruntime": onnxruntime.on_provider,
    "openvino": openvino.on_device,
    "torch": torch.eager,
    "torch-compile": torch.compiled,
}


def find_runtime(name: str, *, device: str | None = None, field: str = FIELD, device_field: str = "device") -> Runtime:
    """One of `RUNTIMES` on one of its devices (None: its usual one), or a user's own `path/file.py:factory`.

    Raises `InputError` naming the field of what is not there.
    """
    if name in RUNTIMES:
        return RUNTIMES[name](device, field=device_field if device is not None else f"{field}={name}")
    if ":" not in name:
        raise InputError(f"{field}={name}: unknown; use {', '.join(RUNTIMES)}, or path/file.py:factory")
    if device is not None:
        raise InputError(f"{device_field} {device}: {name} chooses its own")
    return _own(load_factory(name, field=field), where=f"{field}={name}")


def _own(factory: Callable[..., Any], *, where: str) -> Runtime:
    check_call(factory, field=where)
    runtime: Runtime = factory()
    missing = [member for member in MEMBERS if not hasattr(runtime, member)]
    texts = [] if missing else [runtime.name, runtime.key, runtime.device]
    if missing or not all(isinstance(text, str) and text for text in texts):
        lacks = f"has no {missing[0]}" if missing else f"gives {texts} as its name, key and device"
        raise InputError(f"{where}: {lacks}; a runtime has {', '.join(MEMBERS)}, as autoprune.runtimes.runtime says")
    return runtime

"""What runs an exported model: the protocol that each runtime keeps, and what they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autoprune.errors import InputError

Array = np.ndarray[Any, Any]

ELEMENT_TYPES = {  # ONNX Runtime's and OpenVINO's names
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64",
}  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, dimensions (None: any; the first is the batch) and numpy element type."""

    name: str
    dims: tuple[int | None, ...]
    dtype: str = "float32"


class LoadedModel(Protocol):
    """A model that is ready to run. It takes an array for each of its `inputs`, in their order."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    def __call__(self, *arrays: Array) -> Array:
        """The first output, (N, ...), for any N that the file takes; the caller keeps it."""
        ...

    def bind(self, *arrays: Array) -> Callable[[], Array]:
        """A call that runs the model on these very arrays and returns when its first output is there; the next call may
        write over that. Whatever depends on the arrays' shapes alone is done before: calls are timed."""
        ...


class Runtime(Protocol):
    """Runs exported ONNX files. Values, not objects with a state: two of one kind are the same runtime."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """Name, version and whatever else of it changes times: figures of different keys are never mixed."""
        ...

    @property
    def device(self) -> str:
        """What it runs on, in its own words."""
        ...

    def open_model(self, model: Path | bytes, *, threads: int) -> LoadedModel:
        """Load a file, or its contents. Raises `InputError` naming the file if it is not there or not such a model."""
        ...


def shown_name(model: Path | bytes) -> str:
    """What a message calls it."""
    return "model" if isinstance(model, bytes) else str(model)


def require_file(model: Path | bytes, runtime: str) -> None:
    """Raises `InputError` unless `model` is a file that is there, or the contents of one."""
    if isinstance(model, bytes) or model.is_file():
        return
    if model.is_dir():
        raise InputError(f"{model}: a folder; {runtime} takes .onnx files")
    raise InputError(f"{model}: no such file")


def chosen_device(device: str | None, available: Sequence[str], key: str, *, field: str) -> str:
    """`device`, the first one for None. Raises `InputError` if it is none of those that are available."""
    if device is not None and device not in available:
        raise InputError(f"{field} {device}: not available; {key} has {', '.join(available)}")
    return device or available[0]


def input_specs(source: str, inputs: Sequence[tuple[str, Sequence[object], str]]) -> tuple[InputSpec, ...]:
    """From names, dimensions and a runtime's names of element types. Raises `InputError` for what is no number."""
    for name, _, element in inputs:
        if element not in ELEMENT_TYPES:
            raise InputError(f"{source}: input {name} is {element}; only numbers can be made up")
    return tuple(
        InputSpec(
            name, tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in dims), ELEMENT_TYPES[element]
        )
        for name, dims, element in inputs
    )

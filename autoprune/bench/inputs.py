"""Made-up inputs for a model that is timed: their shape from the model itself and what the user adds."""

import math
from typing import Any

import numpy as np

from autoprune.compute.machine import require_memory
from autoprune.compute.memory import memory_limited
from autoprune.errors import AutopruneError, InputError
from autoprune.measure.timing import Call
from autoprune.runtimes.runtime import InputSpec, LoadedModel

BYTES_A_NUMBER = 16  # of memory for each number of an input: itself, a copy, and what a layer makes of it
LONGEST_SHAPE = 100  # characters
Array = np.ndarray[Any, Any]


def parse_shape(text: str) -> tuple[int, ...]:
    """`1,28,28` as (1, 28, 28): one image, without the batch."""
    try:
        shape = tuple(int(part) for part in text.split(",")) if len(text) <= LONGEST_SHAPE else ()
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"--shape {text}: expected the positive sizes of one image, for example 1,28,28")
    return shape


def only_input(source: str, model: LoadedModel) -> InputSpec:
    """Raises `InputError` for a model with several inputs."""
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise InputError(f"{source}: has {len(model.inputs)} inputs ({names}), must have one")
    return model.inputs[0]


def resolve_shape(source: str, spec: InputSpec, *, batch_size: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape (batch, ...) to run `source` with. Raises `InputError` if it is open or does not fit."""
    if not spec.dims:
        raise InputError(f"{source}: its input {spec.name} is a scalar, which has no batch")
    if spec.dims[0] not in (None, batch_size):
        raise InputError(
            f"{source}: takes batches of {spec.dims[0]} only, so --batch {batch_size} does not fit; "
            "export it with a dynamic batch, or give the --batch it takes"
        )
    inner = spec.dims[1:]
    if shape is None:
        shape = tuple(dim for dim in inner if dim is not None)
        if len(shape) < len(inner):
            raise InputError(f"{source}: takes inputs {_shown(spec)}; say which, for example --shape {_example(inner)}")
    if len(shape) != len(inner) or any(fixed not in (None, given) for fixed, given in zip(inner, shape, strict=True)):
        raise InputError(f"{source}: takes inputs {_shown(spec)}; --shape {_joined(shape)} does not fit")
    needed_bytes = batch_size * math.prod(shape) * BYTES_A_NUMBER
    require_memory(needed_bytes, field=f"{source}: --batch {batch_size}", fix="lower it, or give a smaller --shape")
    return (batch_size, *shape)


def random_inputs(spec: InputSpec, shape: tuple[int, ...], *, seed: int = 0) -> Array:
    """Normal numbers for a float input, bytes of noise for `uint8`, zeros and ones for other integers."""
    rng = np.random.default_rng(seed)
    if spec.dtype.startswith("float"):
        return rng.standard_normal(shape, dtype=np.float32).astype(spec.dtype)
    return rng.integers(0, 256 if spec.dtype == "uint8" else 2, shape).astype(spec.dtype)


def bind_and_run(source: str, model: LoadedModel, images: Array) -> Call:
    """A call that has run once; `InputError` if the model does not take `images`."""
    try:
        with memory_limited():
            call = model.bind(images)
            call()
    except AutopruneError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise InputError(f"{source}: does not run on inputs of shape {_joined(images.shape)} ({error})") from None
    return call


def _shown(spec: InputSpec) -> str:
    return f"({', '.join(['batch', *(str(dim) if dim is not None else 'any' for dim in spec.dims[1:])])})"


def _example(inner: tuple[int | None, ...]) -> str:
    guesses = [3, *[224] * len(inner)][: len(inner)] if len(inner) > 1 else [128]
    return _joined(tuple(guess if dim is None else dim for dim, guess in zip(inner, guesses, strict=True)))


def _joined(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))

"""What a runtime must do, tried on a few small networks in some seconds."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import torch
from torch import nn

from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.export.onnx_file import INPUT_NAME, export_onnx
from autoprune.measure.timing import time_once_ms
from autoprune.runtimes.runtime import InputSpec, LoadedModel, Runtime
from autoprune.testing.errors import ContractError

Array = np.ndarray[Any, Any]

MOST_APART = 1e-3  # of logits, in units of their largest
BATCHES = (1, 3, 3, 1, 1, 5, 3)  # one after the other, with other values each
MANY = 32  # images that a timed call must take clearly longer for than for one
LEAST_LONGER = 2.0
BUSY_S = 0.3
MOST_BESIDE = 0.2  # of what the busiest thread computes: what all others may beside it
OWN_THREADS = Path("/proc/self/task")  # Linux
TWO_INPUTS = """
<ir_version: 8, opset_import: ["": 17]>
two (float[rows, 4] a, float[rows, 4] b) => (float[rows, 4] y) { y = Sub (a, b) }
"""
INFO = DataInfo("made up", ("a", "b", "c"), 3, 16, 16, mean=(0.0,) * 3, std=(1.0,) * 3)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU6())
        self.branch = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Hardswish(), nn.Conv2d(12, 12, 1))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        logits: torch.Tensor = self.head(torch.relu(x + self.branch(x)))
        return logits


def check_runtime(make: Callable[[], Runtime]) -> None:
    """A runtime answers as PyTorch does, whatever it was asked before, and runs anew whenever a bound call is timed; it
    keeps to the threads that it was given, as far as that can be seen, names a file that it cannot load, and has a key
    that stays.

    `make` is what `measure.runtime` names. Raises `ContractError`.
    """
    runtime = make()
    _check_texts(runtime, make())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 3))
        for name, model in (("plain", plain), ("residual", _Residual())):
            export_onnx(model.eval(), folder / f"{name}.onnx", INFO)
            for source in (folder / f"{name}.onnx", (folder / f"{name}.onnx").read_bytes()):
                _check_answers(runtime.open_model(source, threads=1), model)
        _check_two_inputs(runtime, folder / "two.onnx")
        _check_broken(runtime, folder)
        large = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), plain[-2])
        export_onnx(large.eval(), folder / "large.onnx", INFO)
        _check_timed(runtime, folder / "large.onnx")


def _check_texts(first: Runtime, second: Runtime) -> None:
    for member in ("name", "key", "device"):
        text = getattr(first, member)
        if not isinstance(text, str) or not text:
            raise ContractError(f"{member}: must be a text, got {text!r}")
        if getattr(first, member) != text or getattr(second, member) != text:
            raise ContractError(f"{member}: must stay, was {text!r} and then {getattr(second, member)!r}")


def _check_answers(loaded: LoadedModel, model: nn.Module) -> None:
    spec = InputSpec(INPUT_NAME, (None, *INFO.input_shape))
    if loaded.inputs != (spec,):
        raise ContractError(f"inputs: must be ({spec},), got {loaded.inputs}")
    batches = [_images(count, seed) for seed, count in enumerate(BATCHES)]
    expected = [_torch_answers(model, images) for images in batches]
    untouched = [images.copy() for images in batches]
    given = [_like(loaded(images), right, "call") for images, right in zip(batches, expected, strict=True)]
    if not all(np.array_equal(images, before) for images, before in zip(batches, untouched, strict=True)):
        raise ContractError("call: must leave the images as they are")
    calls = [loaded.bind(images) for images in batches]
    for _ in range(2):
        for call, right in zip(calls, expected, strict=True):
            _like(call(), right, "bind")
    for answer, right in zip(given, expected, strict=True):
        _like(answer, right, "call: a later one wrote over an earlier answer, which")


def _check_two_inputs(runtime: Runtime, file: Path) -> None:
    """As the layers have them that a latency table measures: a residual beside the input."""
    onnx.save(onnx.parser.parse_model(TWO_INPUTS), file)
    loaded = runtime.open_model(file.read_bytes(), threads=1)
    if (names := [spec.name for spec in loaded.inputs]) != ["a", "b"]:
        raise ContractError(f"inputs: must be a and b, as the file has them, got {names}")
    first, second = np.full((2, 4), 5.0, dtype=np.float32), np.full((2, 4), 2.0, dtype=np.float32)
    _like(loaded.bind(first, second)(), first - second, "bind, of two inputs")


def _check_broken(runtime: Runtime, folder: Path) -> None:
    whole = (folder / "plain.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("no model")
    for name in ("cut.onnx", "text.onnx", "nowhere.onnx"):
        try:
            runtime.open_model(folder / name, threads=1)
        except InputError as error:
            if name not in str(error):
                raise ContractError(f"open_model: its error must name the file {name}, says {error}") from None
        except Exception as error:
            raise ContractError(f"open_model: must raise InputError for {name}, raised {error!r}") from error
        else:
            raise ContractError(f"open_model: must raise InputError for {name}, raised nothing")


def _check_timed(runtime: Runtime, file: Path) -> None:
    loaded = runtime.open_model(file, threads=1)
    one, many = (loaded.bind(_images(count, seed=0)) for count in (1, MANY))
    one_ms, many_ms = (min(time_once_ms(call) for _ in range(5)) for call in (one, many))
    if many_ms < LEAST_LONGER * one_ms:
        raise ContractError(
            f"bind: {MANY} images took {many_ms:.3g} ms and one {one_ms:.3g} ms; a call must run the whole batch, and "
            "return when that is done"
        )
    beside = _computed_beside(many)
    if beside > MOST_BESIDE:
        raise ContractError(f"open_model: with threads=1 other threads compute {beside:.0%} of what the busiest does")


def _computed_beside(call: Callable[[], object]) -> float:
    """What all threads but the busiest compute while `call` runs, as a share of that one; 0 where it cannot be seen."""
    before, started = _computed_ns(), time.perf_counter()
    while time.perf_counter() - started < BUSY_S:
        call()
    computed = [ns - before.get(thread, 0) for thread, ns in _computed_ns().items()]
    return (sum(computed) - max(computed)) / max(computed) if computed and max(computed) > 0 else 0.0


def _computed_ns() -> dict[str, int]:
    """Time on a processor of each of this process's threads."""
    found = {}
    for thread in OWN_THREADS.iterdir() if OWN_THREADS.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the system does not tell
            found[thread.name] = int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return found


def _like(found: object, expected: Array, what: str) -> Array:
    if not isinstance(found, np.ndarray) or found.shape != expected.shape:
        got = found.shape if isinstance(found, np.ndarray) else type(found).__name__
        raise ContractError(f"{what}: must give an array {expected.shape}, gave {got}")
    apart = float(np.abs(found - expected).max())
    if not apart <= MOST_APART * float(np.abs(expected).max()):
        raise ContractError(f"{what}: answers otherwise than PyTorch, by up to {apart:.3g}")
    return found


def _torch_answers(model: nn.Module, images: Array) -> Array:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()  # type: ignore[no-any-return]


def _images(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *INFO.input_shape), dtype=np.float32)

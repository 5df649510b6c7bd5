"""An adaptive file as a service runs it: batches regrouped by level, a mean latency that is held, labels learned from.

A batch of images that need different levels cannot run under one `If`. The session takes the file apart again: every
level with its router is a graph of its own, run for those images of a batch that need it.
"""

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autoprune.adaptive.calibration import OnlineCalibration, of_text
from autoprune.adaptive.export import (
    CALIBRATION_KEY,
    GOES_ON,
    LEVEL_NAME,
    LEVELS_KEY,
    PRICE_NAME,
    level_name,
    next_name,
)
from autoprune.adaptive.shared_weights import SHARED
from autoprune.errors import InputError
from autoprune.export.onnx_file import INPUT_NAME, OUTPUT_NAME
from autoprune.measure.latency import make_session
from autoprune.onnx_runtime import onnxruntime

LEAST_PRICE_SHARE = 1e-4  # of the range: from 0 no factor leads back up
GAIN = 0.02  # change of the price's logarithm for an image whose latency is off by all of the budget
MOST_CHANGE = 0.3  # of the logarithm in one batch
WARM_UP_RUNS, TIMED_RUNS = 5, 15

Images = NDArray[np.float32]


@dataclass(frozen=True)
class AdaptiveAnswers:
    """What a batch of N images was answered."""

    logits: NDArray[np.float32]  # (N, classes)
    levels: NDArray[np.int64]  # (N,) the level that answered
    by_level: NDArray[np.int64]  # (levels, N) the class that each level gave, -1 where it did not run


@dataclass(frozen=True)
class SessionCounters:
    """Since the session was opened."""

    images: int
    answered: tuple[int, ...]  # by each level
    ran: tuple[int, ...]  # images that each level ran for
    seconds: float  # spent in `run`

    @property
    def latency_ms_mean(self) -> float:
        """Of an image; 0 before the first one."""
        return 1000 * self.seconds / self.images if self.images else 0.0


class AdaptiveSession:
    """Runs `export/adaptive.onnx` on batches of any size; safe to share between threads.

    With `latency_budget_ms` the mean time of an image is held there: whenever images take longer the price of time
    goes up, so that fewer of them run a larger level. Labels that arrive later can be learned from (`learn`).
    Raises `InputError` for a file that is no adaptive model, or a budget that even the smallest level exceeds.
    """

    def __init__(
        self, path: Path | str, *, threads: int = 1, price: float | None = None, latency_budget_ms: float | None = None
    ) -> None:
        self._path = path
        model = _loaded(Path(path))
        known = {entry.key: entry.value for entry in model.metadata_props}
        self.levels = int(known[LEVELS_KEY])
        self.max_price = float(known["max_price"])
        parts = [make_session(part.SerializeToString(), threads=threads) for part in _parts(model, self.levels)]
        self._parts: tuple[onnxruntime.InferenceSession, ...] = tuple(parts)
        shape = model.graph.input[0].type.tensor_type.shape.dim
        self.input_shape = tuple(int(dimension.dim_value) for dimension in shape[1:])
        default = next(weight for weight in model.graph.initializer if weight.name == PRICE_NAME)
        self._price = float(onnx.numpy_helper.to_array(default)[0]) if price is None else price
        if self._price < 0:
            raise InputError(f"price: must not be negative, got {self._price}")
        self._calibration = _calibration(known.get(CALIBRATION_KEY), self.levels, path)
        self._worth = (1.0,) * self.levels  # replaced as a whole: threads read it
        self._lock = threading.Lock()
        self._answered = np.zeros(self.levels, dtype=np.int64)
        self._ran = np.zeros(self.levels, dtype=np.int64)
        self._seconds = 0.0
        self.latency_budget_ms = latency_budget_ms
        if latency_budget_ms is not None:
            self._check_budget(latency_budget_ms)

    @property
    def price(self) -> float:
        """What time is worth now: for a learned router a run of the largest level, in right answers; for a cascade 0.5
        where its thresholds are as they were chosen, 1 where no image goes on."""
        return self._price

    @property
    def worth_of_going_on(self) -> tuple[float, ...]:
        """At each level, as labels have told, times what it was on the search split: time costs as much less there.

        Above 1 where a level is wrong more often for the doubt it has, or larger ones set more of its errors right.
        """
        return self._worth

    @property
    def counters(self) -> SessionCounters:
        with self._lock:
            answered, ran = tuple(self._answered.tolist()), tuple(self._ran.tolist())
            return SessionCounters(sum(answered), answered, ran, self._seconds)

    def run(self, images: Images) -> AdaptiveAnswers:
        """Answer normalised images (N, C, H, W), float32.

        Raises `InputError` for no image, another shape or type, or values that are not finite, and counts nothing then.
        """
        self._check(images)
        started = time.perf_counter()
        prices = self._price / np.array(self._worth)
        waiting: dict[int, list[NDArray[np.int64]]] = {0: [np.arange(len(images))]}
        levels = np.zeros(len(images), dtype=np.int64)
        by_level = np.full((self.levels, len(images)), -1, dtype=np.int64)
        logits: NDArray[np.float32] | None = None
        ran = np.zeros(self.levels, dtype=np.int64)
        for level, part in enumerate(self._parts):
            here = np.concatenate(waiting.get(level, [np.zeros(0, dtype=np.int64)]))
            if not len(here):
                continue
            ran[level] = len(here)
            is_last = level + 1 == self.levels
            feed = {INPUT_NAME: images if len(here) == len(images) else images[here]}
            takes_price = len(part.get_inputs()) > 1
            price = prices[level : level + 1].astype(np.float32)
            found = part.run(None, {**feed, PRICE_NAME: price} if takes_price else feed)
            if logits is None:
                logits = np.zeros((len(images), found[0].shape[1]), dtype=np.float32)
            logits[here], levels[here] = found[0], level
            by_level[level, here] = found[0].argmax(1)
            if not is_last:
                is_flag = found[1].dtype == bool  # whether to go on; else the number of the level to run
                asked = level + found[1].reshape(-1) if is_flag else np.minimum(found[1], self.levels - 1)
                for larger in range(level + 1, self.levels):
                    waiting.setdefault(larger, []).append(here[asked == larger])
        assert logits is not None
        seconds = time.perf_counter() - started
        with self._lock:
            self._answered += np.bincount(levels, minlength=self.levels)
            self._ran += ran
            self._seconds += seconds
            if self.latency_budget_ms is not None:
                self._price = self._next_price(1000 * seconds / len(images), len(images))
        return AdaptiveAnswers(logits, levels, by_level)

    def learn(self, answers: AdaptiveAnswers, labels: NDArray[np.int64]) -> None:
        """Take in the labels (N,) of images that `run` answered, whenever they arrive; -1 where there is none.

        A level that has become surer than it should be then hands more images on, and one whose errors larger levels no
        longer set right fewer; with a budget the mean latency is held all the same. Raises `InputError` for labels that
        do not fit, and for a file that says nothing of what its levels were like.
        """
        if self._calibration is None:
            raise InputError(f"{self._path}: says nothing of its levels' calibration; export it again to learn")
        labels = np.asarray(labels)
        classes = answers.logits.shape[1]
        if labels.shape != answers.levels.shape or labels.dtype.kind not in "iu":
            raise InputError(f"labels: must be {len(answers.levels)} whole numbers, got {labels.dtype} {labels.shape}")
        if len(labels) and not -1 <= labels.min() <= labels.max() < classes:
            raise InputError(f"labels: must be -1 to {classes - 1}, got {labels.min()} to {labels.max()}")
        told = labels >= 0
        logits = answers.logits[told].astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = np.asarray(powers / powers.sum(1, keepdims=True), dtype=np.float32)
        with self._lock:
            self._calibration.learn(answers.by_level[:, told], probabilities, labels[told])
            self._worth = tuple(self._calibration.worth.tolist())

    def _next_price(self, latency_ms: float, images: int) -> float:
        """An integral controller on the logarithm of the price."""
        assert self.latency_budget_ms is not None
        change = GAIN * images * (latency_ms / self.latency_budget_ms - 1.0)
        moved = self._price * math.exp(min(max(change, -MOST_CHANGE), MOST_CHANGE))
        return min(max(moved, LEAST_PRICE_SHARE * self.max_price), self.max_price)

    def _check(self, images: Images) -> None:
        expected = f"float32 images (N, {', '.join(map(str, self.input_shape))})"
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            raise InputError(f"images: must be {expected}, got {getattr(images, 'dtype', type(images).__name__)}")
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InputError(f"images: must be {expected}, got {images.shape}")
        if not len(images):
            raise InputError(f"images: must be {expected} with N of at least 1, got none")
        if not np.isfinite(images).all():
            raise InputError("images: hold values that are not finite; normalise them as (pixel / 255 - mean) / std")

    def _check_budget(self, budget_ms: float) -> None:
        black = np.zeros((1, *self.input_shape), dtype=np.float32)
        feed: dict[str, Any] = {INPUT_NAME: black, PRICE_NAME: np.array([self.max_price], dtype=np.float32)}
        times = []
        for _ in range(WARM_UP_RUNS + TIMED_RUNS):
            started = time.perf_counter()
            self._parts[0].run(None, feed)
            times.append(1000 * (time.perf_counter() - started))
        smallest_ms = float(np.median(times[WARM_UP_RUNS:]))
        if budget_ms < smallest_ms:
            raise InputError(
                f"latency_budget_ms: {budget_ms:.4g} is below what the smallest level takes here for one image, "
                f"{smallest_ms:.4g} ms; raise it or make a model with a smaller level"
            )


def _calibration(text: str | None, levels: int, path: Path | str) -> OnlineCalibration | None:
    if text is None:
        return None
    try:
        expected = of_text(text)
    except ValueError as error:
        raise InputError(f"{path}: its calibration cannot be read ({error})") from None
    if len(expected) != levels:
        raise InputError(f"{path}: has the calibration of {len(expected)} levels and holds {levels}")
    return OnlineCalibration(expected)


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # the reader raises almost anything on broken bytes
        raise InputError(f"{path}: not an ONNX model ({error})") from None
    known = {entry.key for entry in model.metadata_props}
    if not {LEVELS_KEY, "max_price"} <= known or LEVEL_NAME not in {value.name for value in model.graph.output}:
        raise InputError(f"{path}: no adaptive model; make one with `autoprune adapt`")
    return model


def _parts(model: onnx.ModelProto, levels: int) -> list[onnx.ModelProto]:
    """Each level with its router as a model for batches; the price is an input where the router reads it."""
    graph = model.graph
    branches = [
        next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
        for node in graph.node
        if node.op_type == "If"
    ]
    first = [node for node in graph.node if node.name.startswith(level_name(0, ""))]
    own = [weight for weight in graph.initializer if weight.name.startswith(level_name(0, ""))]
    contents = [(first, own), *((list(branch.node), list(branch.initializer)) for branch in branches)]
    if len(contents) != levels:
        raise InputError(f"the file holds {len(contents)} levels and says that there are {levels}")
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    image = helper.make_tensor_value_info(
        INPUT_NAME, TensorProto.FLOAT, ["batch", *(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:])]
    )
    price = helper.make_tensor_value_info(PRICE_NAME, TensorProto.FLOAT, [1])
    parts = []
    for level, (nodes, weights) in enumerate(contents):
        outputs = [helper.make_tensor_value_info(level_name(level, OUTPUT_NAME), TensorProto.FLOAT, ["batch", classes])]
        if level + 1 < levels:
            flag = level_name(level, GOES_ON)
            is_flag = any(flag in node.output for node in nodes)
            decision, kind = (flag, TensorProto.BOOL) if is_flag else (next_name(level), TensorProto.INT64)
            outputs.append(helper.make_tensor_value_info(decision, kind, None))
        reads_price = any(PRICE_NAME in node.input for node in nodes)
        read = {name for node in nodes for name in node.input}
        shared = [weight for weight in graph.initializer if weight.name.startswith(SHARED) and weight.name in read]
        inputs = [image, price] if reads_price else [image]
        part = helper.make_graph(nodes, f"level_{level}", inputs, outputs, initializer=[*weights, *shared])
        parts.append(helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version))
    return parts

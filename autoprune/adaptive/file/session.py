"""An adaptive file as a service runs it: batches regrouped by level, a mean latency that is held, labels learned from.

A batch of images that need different levels cannot run under one `If`. The session takes the file apart again: every
level with its router is a graph of its own, run for those images of a batch that need it.
"""

import math
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.file.export import PRICE_NAME
from autoprune.adaptive.file.session_file import LARGEST_PRICE, read_session_file
from autoprune.compute.memory import memory_limited
from autoprune.errors import InputError, shown
from autoprune.export.onnx_file import INPUT_NAME
from autoprune.foundation.bounds import real_number, thread_count
from autoprune.runtimes.onnxruntime import make_session, onnxruntime

LEAST_PRICE_SHARE = 1e-4  # of the range: from 0 no factor leads back up
GAIN = 0.02  # change of the price's logarithm for an image whose latency is off by all of the budget
MOST_CHANGE = 0.3  # of the logarithm in one batch
WARM_UP_RUNS, TIMED_RUNS = 5, 15
FAR = 8.0  # so many times what lies between black and white, beyond either, no normalised pixel lies; bytes do
CHUNK_VALUES = 2**21  # of the images that a level runs at once: what it computes in between takes far more memory
NONE = -1  # of the levels
CHUNK_IMAGES = (8, 256)  # least and most: from some dozens on a larger batch is no faster

Images = NDArray[np.float32]


@dataclass(frozen=True)
class AdaptiveAnswers:
    """What a batch of N images was answered."""

    logits: NDArray[np.float32]  # (N, classes)
    levels: NDArray[np.int64]  # (N,) the level that answered
    by_level: NDArray[np.int64]  # (levels, N) the class that each level gave, -1 where it did not run
    session: object = field(repr=False, compare=False)  # a mark of the session that gave them
    learned: NDArray[np.bool_] = field(repr=False, compare=False)  # (N,) whose labels it has had


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
    Raises `InputError` for a file that is no adaptive model, for numbers that are not finite or out of range (`threads`
    from 1 to this machine's processors, `price` from 0, a budget above 0), or a budget that even the smallest level
    exceeds.
    """

    def __init__(
        self, path: Path | str, *, threads: int = 1, price: float | None = None, latency_budget_ms: float | None = None
    ) -> None:
        threads = thread_count("threads", threads)
        if price is not None:
            price = real_number("price", price, least=0, most=LARGEST_PRICE)
        latency_budget_ms = _budget(latency_budget_ms)
        if not isinstance(path, str | Path):
            raise InputError(f"path: must be a file's name, got {shown(path)}")
        self._path = Path(path)
        file = read_session_file(self._path)
        self.levels, self.max_price, self.input_shape = len(file.parts), file.max_price, file.input_shape
        self._classes, self._pixels = file.classes, file.pixels
        self._mark = object()
        parts = [make_session(part.SerializeToString(), threads=threads) for part in file.parts]
        self._parts: tuple[onnxruntime.InferenceSession, ...] = tuple(parts)
        self._price = file.default_price if price is None else price
        self._calibration = file.calibration
        self._worth = (1.0,) * self.levels  # replaced as a whole: threads read it
        self._lock = threading.Lock()
        self._answered = np.zeros(self.levels, dtype=np.int64)
        self._ran = np.zeros(self.levels, dtype=np.int64)
        self._seconds = 0.0
        least, most = CHUNK_IMAGES
        self._chunk = min(max(CHUNK_VALUES // math.prod(self.input_shape), least), most)
        with memory_limited():
            self._try_levels()
        self._latency_budget_ms = latency_budget_ms
        if latency_budget_ms is not None:
            self._check_budget(latency_budget_ms)

    @property
    def latency_budget_ms(self) -> float | None:
        """The mean time of an image that is held; None: the price stays. May be set: a finite number above 0."""
        return self._latency_budget_ms

    @latency_budget_ms.setter
    def latency_budget_ms(self, budget_ms: float | None) -> None:
        self._latency_budget_ms = _budget(budget_ms)

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
        """Answer normalised images (N, C, H, W), float32, some hundred at a time: memory does not grow with N.

        Raises `InputError` for no image, another shape or type, values that are not finite, or far from what pixels
        are once they are normalised, and counts nothing then.
        """
        self._check(images)
        started = time.perf_counter()
        prices, count = self._price / np.array(self._worth), len(images)
        answers = AdaptiveAnswers(
            np.zeros((count, self._classes), dtype=np.float32),
            np.zeros(count, dtype=np.int64),
            np.full((self.levels, count), NONE, dtype=np.int64),
            self._mark,
            np.zeros(count, dtype=bool),
        )
        for first in range(0, count, self._chunk):
            self._answer(images[first : first + self._chunk], first, prices, answers)
        seconds = time.perf_counter() - started
        with self._lock:
            self._answered += np.bincount(answers.levels, minlength=self.levels)
            self._ran += (answers.by_level >= 0).sum(1)
            self._seconds += seconds
            if self._latency_budget_ms is not None:
                self._price = self._next_price(1000 * seconds / count, count)
        return answers

    def _answer(self, images: Images, first: int, prices: NDArray[np.float64], answers: AdaptiveAnswers) -> None:
        """A chunk, from the image `first` on: all of it through the smallest level, then those that go on through
        larger ones; it goes into `answers`."""
        upcoming = np.zeros(len(images), dtype=np.int64)  # the level that each image runs next
        for level in range(self.levels):
            here = np.flatnonzero(upcoming == level)
            if not len(here):
                continue
            found = self._run_level(level, images if len(here) == len(images) else images[here], prices[level])
            answers.logits[first + here], answers.levels[first + here] = found[0], level
            answers.by_level[level, first + here] = found[0].argmax(1)
            if level + 1 < self.levels:
                is_flag = found[1].dtype == bool  # whether to go on; else the number of the level to run
                asked = level + found[1].reshape(-1) if is_flag else np.minimum(found[1], self.levels - 1)
                upcoming[here] = np.where(asked > level, asked, NONE)

    def _run_level(self, level: int, images: Images, price: float) -> list[Any]:
        """Its logits and, unless it is the largest, what to do."""
        part = self._parts[level]
        feed: dict[str, Any] = {INPUT_NAME: images}
        if len(part.get_inputs()) > 1:
            feed[PRICE_NAME] = np.array([price], dtype=np.float32)
        try:
            found = part.run(None, feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(f"{self._path}: level {level} does not run on {len(images)} images ({error})") from None
        if found[0].shape != (len(images), self._classes):
            raise InputError(f"{self._path}: level {level} gives {found[0].shape} for {len(images)} images")
        return list(found)

    def _try_levels(self) -> None:
        """Once each, so that a file that cannot answer is refused when it is opened."""
        black = np.zeros((1, *self.input_shape), dtype=np.float32)
        for level in range(self.levels):
            if not np.isfinite(self._run_level(level, black, self.max_price)[0]).all():
                raise InputError(f"{self._path}: level {level} answers NaN or infinity to a black image")

    def learn(self, answers: AdaptiveAnswers, labels: NDArray[np.int64]) -> None:
        """Take in the labels (N,) of images that `run` answered, whenever they arrive; -1 where there is none.

        A level that has become surer than it should be then hands more images on, and one whose errors larger levels no
        longer set right fewer; with a budget the mean latency is held all the same. Raises `InputError` for labels that
        do not fit or have been taken in before, and for a file that says nothing of what its levels were like.
        """
        if self._calibration is None:
            raise InputError(f"{self._path}: says nothing of its levels' calibration; export it again to learn")
        if not isinstance(answers, AdaptiveAnswers) or answers.session is not self._mark:
            raise InputError("answers: must be what `run` of this session gave")
        try:
            labels = np.asarray(labels)
        except ValueError:
            raise InputError(
                f"labels: must be {len(answers.levels)} whole numbers, got lists of several lengths"
            ) from None
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
            if again := int((told & answers.learned).sum()):
                raise InputError(f"labels: those of {again} of these images were learned from before; give -1 for them")
            answers.learned[told] = True
            self._calibration.learn(answers.by_level[:, told], probabilities, labels[told])
            self._worth = tuple(self._calibration.worth.tolist())

    def _next_price(self, latency_ms: float, images: int) -> float:
        """An integral controller on the logarithm of the price."""
        assert self._latency_budget_ms is not None
        change = GAIN * images * (latency_ms / self._latency_budget_ms - 1.0)
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
        if not all(np.isfinite(images[at : at + self._chunk]).all() for at in range(0, len(images), self._chunk)):
            raise InputError("images: hold values that are not finite; normalise them as (pixel / 255 - mean) / std")
        if self._pixels is not None:
            black, white = self._pixels
            lowest, highest = float(images.min()), float(images.max())
            if lowest < black - FAR * (white - black) or highest > white + FAR * (white - black):
                raise InputError(
                    f"images: hold values from {lowest:g} to {highest:g}, where black is {black:.3g} and white "
                    f"{white:.3g}; normalise them as (pixel / 255 - mean) / std, with those in the file's metadata"
                )

    def _check_budget(self, budget_ms: float) -> None:
        black = np.zeros((1, *self.input_shape), dtype=np.float32)
        times = []
        for _ in range(WARM_UP_RUNS + TIMED_RUNS):
            started = time.perf_counter()
            self._run_level(0, black, self.max_price)
            times.append(1000 * (time.perf_counter() - started))
        smallest_ms = float(np.median(times[WARM_UP_RUNS:]))
        if budget_ms < smallest_ms:
            raise InputError(
                f"latency_budget_ms: {budget_ms:.4g} is below what the smallest level takes here for one image, "
                f"{smallest_ms:.4g} ms; raise it or make a model with a smaller level"
            )


def _budget(budget_ms: object) -> float | None:
    return (
        None
        if budget_ms is None
        else real_number("latency_budget_ms", budget_ms, least=0, most=math.inf, above_least=True)
    )

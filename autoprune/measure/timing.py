"""Timing of calls in turn on a machine that others use too: interleaved bursts, and the time of an undisturbed call.

On a shared machine a neighbour on the same core makes calls 1.5 times slower, for a millisecond or for minutes, and
medians then measure the neighbour. A small fixed computation, the *reference*, is therefore timed before and after each
burst: while it takes longer than its best time the core is disturbed, and the burst between is set aside.
"""

import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], object]

REFERENCE_SIZE, REFERENCE_REPEATS = 64, 2  # two small matrix products: 20 microseconds of multiply-adds, no threads
QUIET_TOLERANCE = 0.05  # a reference within this of its best time: the core is undisturbed
PATIENCE_S = 4.0  # no quiet moment for so long: the core has become slower for good (heat), and "best" starts again
QUIET_CALLS, QUIET_BURSTS = 48, 8  # so many undisturbed calls, in so many bursts, settle a figure
BURST_S = 0.0004  # quiet spells on a busy machine last about a millisecond
MOST_CALLS_A_BURST = 8
QUIET_PERCENTILE = 5  # what disturbances are left among quiet calls only ever add time
# A call longer than a burst is one of a large model, whose weights come back into the cache only after some calls: the
# second call of a VGG-16 after other models have run takes a fifth longer than the seventh.
LONG_WARM_CALLS, LONG_CALLS, LONG_BURSTS = 6, 6, 10
LONG_PERCENTILE = 25  # of the medians of its bursts, which vary by what others leave of the shared cache
CACHE_LINE_BYTES = 64
WAITS_A_CALL = 4  # so many times, at least, a call is tried on a machine that is never quiet
FLOOR_CALLS = 8  # without quiet calls: the fastest of all stand in for them
NOISY_SHARE = 0.5  # more disturbed calls than this make the machine a noisy one
DISTURBED = 0.1  # a call this much slower than an undisturbed one was disturbed


@dataclass(frozen=True)
class QuietTime:
    """The time of one undisturbed call, in milliseconds, and how it was come by."""

    quiet_ms: float
    disturbed_share: float  # of all calls timed, 0..1
    calls: int
    settled: bool  # whether enough undisturbed calls were seen before time ran out


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python's collector would fall on whichever call is being timed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_once_ms(call: Call) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


class Reference:
    """The small fixed computation, and the best time that it has taken so far."""

    def __init__(self, best_ms: float = float("inf")) -> None:
        generator = np.random.default_rng(0)
        size = (REFERENCE_SIZE, REFERENCE_SIZE)
        self._left, self._right = (generator.standard_normal(size, dtype=np.float32) for _ in range(2))
        self._out = np.empty(size, dtype=np.float32)
        self.best_ms = best_ms
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)
        self._last_quiet = time.perf_counter()

    def quiet_ms(self) -> float | None:
        """Time the reference once, after a call that brings it back into the cache; None if that took too long."""
        self._run()
        took_ms = time_once_ms(self._run)
        now = time.perf_counter()
        self.best_ms = min(self.best_ms, took_ms)
        if took_ms <= self.best_ms * (1 + QUIET_TOLERANCE):
            self._last_quiet = now
            self._recent.clear()
            return took_ms
        self._recent.append((now, took_ms))
        if now - self._last_quiet > PATIENCE_S:
            self.best_ms = min(ms for _, ms in self._recent)
            self._last_quiet = now
        return None

    def wait(self, deadline: float) -> float | None:
        """Repeat it until it is quiet; None if `deadline` (of `time.perf_counter`) is over before."""
        while (took_ms := self.quiet_ms()) is None:
            if time.perf_counter() > deadline:
                return None
        return took_ms

    def restart_patience(self) -> None:
        """Time in which nothing was timed does not count."""
        self._last_quiet = time.perf_counter()
        self._recent.clear()

    def _run(self) -> None:
        for _ in range(REFERENCE_REPEATS):
            np.matmul(self._left, self._right, out=self._out)


reference = Reference()  # of this process


def time_rounds(
    calls: Sequence[Call],
    *,
    rounds: int,
    runs: int,
    rng: np.random.Generator,
    limit_s: float | None = None,
    least_rounds: int = 0,
    on_round: Callable[[], None] | None = None,
) -> np.ndarray[Any, Any]:
    """Milliseconds (calls, rounds, runs): a burst of each in turn, in random order, turned round in the next round.

    Each call then comes as often early as late and after each other one, and keeps in step with no neighbour's rhythm.
    Stops early after `limit_s`, with at least `least_rounds`.
    """
    samples_ms = np.empty((len(calls), rounds, runs))
    started = time.perf_counter()
    order = np.arange(len(calls))
    with no_garbage_collection():
        for index in range(rounds):
            order = rng.permutation(len(calls)) if index % 2 == 0 else order[::-1]
            for which in order:
                call = calls[int(which)]
                call()  # brings the weights back into the cache
                for run in range(runs):
                    samples_ms[which, index, run] = time_once_ms(call)
            if on_round is not None:
                on_round()
            if limit_s is not None and index + 1 >= least_rounds and time.perf_counter() - started > limit_s:
                return samples_ms[:, : index + 1]
    return samples_ms


def time_until_quiet(
    calls: Sequence[Call],
    *,
    limit_s: float,
    slow_to_warm: Sequence[bool] | None = None,
    seed: int = 0,
    on_settled: Callable[[Sequence[int]], object] | None = None,
) -> list[QuietTime]:
    """Time `calls` in turn, in random order, each until enough undisturbed calls were seen or `limit_s` is over.

    `slow_to_warm`: for each call, whether it is to be warmed up like a long one, because it reads much memory.
    `on_settled` gets the numbers of the calls that settled in a round, also of none. Raises whatever a call raises.
    """
    order = np.random.default_rng(seed)
    seen = [_Seen() for _ in calls]
    active = list(range(len(calls)))
    deadline = time.perf_counter() + limit_s
    share_s = limit_s / (WAITS_A_CALL * max(1, len(calls)))  # waiting with one call takes nothing from the others
    reference.restart_patience()
    with no_garbage_collection():
        for call, calls_seen, is_slow in zip(calls, seen, slow_to_warm or [False] * len(calls), strict=True):
            calls_seen.plan(call, slow_to_warm=is_slow)
        while active:
            for index in order.permutation(active):
                call = calls[index]
                for _ in range(seen[index].warm_calls):
                    call()  # brings the weights back into the cache
                before_ms = reference.wait(min(deadline, time.perf_counter() + share_s))
                times_ms = [time_once_ms(call) for _ in range(seen[index].burst_calls)]
                after_ms = reference.quiet_ms()
                if before_ms is None or after_ms is None:
                    seen[index].add_disturbed(times_ms)
                else:
                    seen[index].add_quiet(times_ms, reference_ms=(before_ms + after_ms) / 2)
            settled = [index for index in active if seen[index].settled]
            active = [index for index in active if not seen[index].settled]
            if on_settled is not None:
                on_settled(settled)
            if time.perf_counter() > deadline:
                break
    return [calls_seen.result(reference.best_ms) for calls_seen in seen]


def quiet_time(samples_ms: np.ndarray[Any, Any]) -> QuietTime:
    """The undisturbed time in samples of any shape that were taken without a reference: that of the fastest calls."""
    seen = _Seen()
    seen.add_disturbed(samples_ms.ravel().tolist())
    return seen.result(reference_best_ms=1.0)


def time_cold(calls: Sequence[Call], *, cache_bytes: int, repeats: int = 9) -> list[float]:
    """Milliseconds of each call right after something else has filled all caches: with data that lie in memory.

    `cache_bytes`: of the largest cache. Of `repeats` calls in random order the 25th percentile counts.
    """
    order = np.random.default_rng(0)
    elsewhere = np.ones(2 * cache_bytes // 4, dtype=np.float32)
    samples_ms = np.empty((repeats, len(calls)))
    for call in calls:
        call()
    with no_garbage_collection():
        for repeat in range(repeats):
            for index in order.permutation(len(calls)):
                elsewhere[:: CACHE_LINE_BYTES // 4].sum()
                samples_ms[repeat, index] = time_once_ms(calls[index])
    return [float(value) for value in np.percentile(samples_ms, LONG_PERCENTILE, axis=0)]


class _Seen:
    """The calls of one thing, and how it is to be called: a long call has bursts of another kind."""

    def __init__(self) -> None:
        self.warm_calls, self.burst_calls, self._is_long = 1, 1, False
        self._quiet: list[float] = []  # in units of the reference, so that changes of the clock rate cancel
        self._quiet_bursts = 0
        self._all_ms: list[float] = []

    def plan(self, call: Call, *, slow_to_warm: bool = False) -> None:
        call()
        once_s = time_once_ms(call) / 1e3
        self._is_long = slow_to_warm or once_s > BURST_S
        if self._is_long:
            self.warm_calls, self.burst_calls = LONG_WARM_CALLS, LONG_CALLS
        else:
            self.burst_calls = int(min(MOST_CALLS_A_BURST, max(1, BURST_S / max(once_s, 1e-9))))

    def add_disturbed(self, times_ms: Sequence[float]) -> None:
        self._all_ms.extend(times_ms)

    def add_quiet(self, times_ms: Sequence[float], *, reference_ms: float) -> None:
        self._all_ms.extend(times_ms)
        counted = [float(np.median(times_ms))] if self._is_long else times_ms
        self._quiet.extend(time_ms / reference_ms for time_ms in counted)
        self._quiet_bursts += 1

    @property
    def settled(self) -> bool:
        if self._is_long:
            return self._quiet_bursts >= LONG_BURSTS
        return self._quiet_bursts >= QUIET_BURSTS and len(self._quiet) >= QUIET_CALLS

    def result(self, reference_best_ms: float) -> QuietTime:
        if self._quiet:
            percentile = LONG_PERCENTILE if self._is_long else QUIET_PERCENTILE
            quiet_ms = float(np.percentile(self._quiet, percentile)) * reference_best_ms
        else:
            quiet_ms = float(np.median(sorted(self._all_ms)[:FLOOR_CALLS]))
        slow = np.array(self._all_ms) > quiet_ms * (1 + DISTURBED)
        return QuietTime(quiet_ms, float(slow.mean()), len(self._all_ms), self.settled)

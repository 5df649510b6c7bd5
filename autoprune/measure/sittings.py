"""Calls timed in turn in several *sittings*, each of which loads everything anew.

One load of a file may run a tenth slower than the next for as long as it lives, by where its memory happens to lie. The
sittings are the blocks of `autoprune.measure.stats`, so that this luck is in the intervals.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.measure.timing import Call, time_rounds

WARM_UP_S = 0.03  # of each call, in each sitting

Load = Callable[[], Call]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sittings:
    """samples_ms is (calls, rounds, runs), the rounds in contiguous sittings as `numpy.array_split` has them;
    load_ms is (sittings, loads). `calls` are those of the last sitting."""

    samples_ms: Array
    load_ms: Array
    calls: tuple[Call, ...]


def time_in_sittings(
    loads_anew: Sequence[Load],
    *,
    sittings: int,
    rounds: int,
    runs: int,
    beside: Sequence[Call] = (),
    on_sitting: Callable[[], None] | None = None,
) -> Sittings:
    """Load all in random order, warm them up and time `rounds` in all, `sittings` times; the calls `beside` them stay,
    and are timed in the same rounds."""
    rng = np.random.default_rng(0)
    calls: list[Call] = [_not_loaded] * len(loads_anew)
    load_ms = np.zeros((sittings, len(loads_anew)))
    parts = []
    for sitting, part in enumerate(np.array_split(np.arange(rounds), sittings)):
        for index in rng.permutation(len(loads_anew)):
            started = time.perf_counter()
            calls[index] = loads_anew[index]()
            load_ms[sitting, index] = (time.perf_counter() - started) * 1e3
        together = [*calls, *beside]
        warm_up(together)
        parts.append(time_rounds(together, rounds=len(part), runs=runs, rng=rng))
        if on_sitting is not None:
            on_sitting()
    return Sittings(np.concatenate(parts, axis=1), load_ms, tuple(calls))


def warm_up(calls: Sequence[Call]) -> None:
    for call in calls:
        deadline = time.perf_counter() + WARM_UP_S
        while time.perf_counter() < deadline:
            call()


def _not_loaded() -> object:
    raise AssertionError("a call is timed before it is loaded")

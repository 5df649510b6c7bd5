"""Measured latency of files: interleaved in one process, loaded anew several times, and how much faster one is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.measure.sittings import time_in_sittings
from autoprune.measure.stats import PairedRatio, paired_ratio
from autoprune.measure.timing import QUIET_PERCENTILE, Call, QuietTime, time_until_quiet
from autoprune.runtimes.runtime import Runtime

Array = np.ndarray[Any, Any]

QUIET_LIMIT_S = 0.7  # for each file, on a machine that is never quiet
SITTINGS = (4, 10)  # least and most
ROUNDS_A_SITTING = 5
LOADING_S = 10.0  # at most, unless there are the fewest sittings


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one call: p50 and p95 over all timed calls, samples (rounds, runs) in `blocks` sittings, and of
    an undisturbed call."""

    latency_ms_p50: float
    latency_ms_p95: float
    samples_ms: Array
    blocks: int
    latency_ms_quiet: float


def measure_interleaved(
    files: Sequence[Path], images: Array, *, runtime: Runtime, threads: int, rounds: int, runs_per_round: int
) -> list[Latency]:
    """Time all `files` on the same images (N, C, H, W), a short burst of each in turn, `rounds` times, in sittings.

    Slow spells of the machine then fall on all alike.
    """
    started = time.perf_counter()
    loads_anew = [_loading(runtime, file, images, threads) for file in files]
    for load_anew in loads_anew:
        load_anew()
    sittings = planned_sittings(rounds, load_s=time.perf_counter() - started)
    timed = time_in_sittings(loads_anew, sittings=sittings, rounds=rounds, runs=runs_per_round)
    quiet_ms = undisturbed_ms(timed.samples_ms, time_until_quiet(timed.calls, limit_s=QUIET_LIMIT_S * len(files)))
    return [
        Latency(
            float(np.median(samples)),
            float(np.percentile(samples, 95)),
            samples,
            sittings,
            undisturbed,
        )
        for samples, undisturbed in zip(timed.samples_ms, quiet_ms, strict=True)
    ]


def planned_sittings(rounds: int, *, load_s: float) -> int:
    """How many, where all files take `load_s` to load."""
    least, most = SITTINGS
    wanted = min(rounds // ROUNDS_A_SITTING, most, int(LOADING_S / max(load_s, 1e-9)))
    return min(rounds, max(least, wanted))


def _loading(runtime: Runtime, file: Path, images: Array, threads: int) -> Callable[[], Call]:
    return lambda: runtime.open_model(file, threads=threads).bind(images)


def undisturbed_ms(samples_ms: Array, quiet: Sequence[QuietTime]) -> list[float]:
    """What an undisturbed call of each file takes, from samples (files, rounds, runs) and the times found after them.

    If those came out slower than the samples' medians, or did not settle, the machine was busier than before. The
    fast end of the samples then stands in, for all files alike, so that their ratios still compare like with like.
    """
    medians = np.median(samples_ms, axis=(1, 2))
    if all(found.settled and found.quiet_ms <= median for found, median in zip(quiet, medians, strict=True)):
        return [found.quiet_ms for found in quiet]
    return [float(value) for value in np.percentile(samples_ms, QUIET_PERCENTILE, axis=(1, 2))]


def speedup(reference: Latency, candidate: Latency) -> PairedRatio:
    """How many times faster than the reference, both of one measurement."""
    return paired_ratio(reference.samples_ms, candidate.samples_ms, blocks=reference.blocks)

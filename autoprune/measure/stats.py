"""Statistics of calls that were timed in turn on a machine with neighbours: ratios and medians with honest intervals.

Noise comes in spells, so neighbouring rounds are alike and intervals that take rounds for independent are far too
narrow. Everything here therefore takes contiguous *blocks* of rounds, each longer than most spells, as its unit: the
method of batch means (Schmeiser 1982, "Batch size effects in the analysis of simulation output") for the ratio, the
block bootstrap (Künsch 1989) for medians and quiet times.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.measure.timing import quiet_time

Array = np.ndarray[Any, Any]

BLOCKS = 10
BOOTSTRAP_SAMPLES = 1000
QUIET_KEPT = 16  # calls that each block gives to the bootstrap of the quiet time, which looks at the fastest few
# Student's t, two-sided 99%, for 1, 2, ... degrees of freedom; further on an expansion is exact to 0.002.
# Not 95%: spells that outlast a block make blocks alike, and what is called a 95% interval must cover at least that.
T_995 = (
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
    3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845,
)  # fmt: skip
Z_995 = 2.575829
# What a ratio moves by between two measurements of the same files, minutes apart, beyond what one of them can see: by
# clock speed, temperature, and what neighbours do to the shared cache.
DRIFT = 0.01


@dataclass(frozen=True)
class PairedRatio:
    """A ratio of times, and an interval that is to hold what another measurement of the files finds, 95 times of 100.

    It cannot know what neighbours do, for minutes, to weights that lie in a cache that they share.
    """

    ratio: float
    ci95: tuple[float, float]
    blocks: int


def paired_ratio(reference_ms: Array, candidate_ms: Array, *, blocks: int = BLOCKS) -> PairedRatio:
    """How many times longer the reference takes than the candidate (its speed-up), from samples (rounds, runs) of each.

    In each round the fastest calls of the two bursts, a moment apart, are divided: a spell that covers both bursts
    cancels, and what interrupts single calls only adds time and drops out (with both cores taken by others, medians of
    bursts gave intervals fifty times as wide). A block of rounds gives the median of its log ratios, which drops the
    rounds that a spell's edge cut in two, and the estimate is the median over blocks: one load in eight may be a tenth
    slower for as long as it lives. Where everything is loaded anew several times, `blocks` is the number of loads, so
    that this luck is in the interval, which `interval_again` makes.
    Raises `ValueError` for fewer than two rounds, or unequal ones.
    """
    rounds = len(reference_ms)
    if rounds != len(candidate_ms) or rounds < 2:
        raise ValueError(f"paired rounds are needed, two at least; got {rounds} and {len(candidate_ms)}")
    blocks = max(2, min(blocks, rounds))
    log_ratios = np.log(reference_ms.min(axis=1) / candidate_ms.min(axis=1))  # (rounds,)
    block_values = np.array([np.median(block) for block in np.array_split(log_ratios, blocks)])
    estimate = float(np.median(block_values))
    return PairedRatio(math.exp(estimate), interval_again(estimate, block_values), blocks)


def interval_again(log_ratio: float, block_values: Array) -> tuple[float, float]:
    """What another measurement of as many blocks finds, from the logarithms that the blocks (B,) of this one gave.

    A prediction interval: the spread of the blocks counts for this measurement and once more for the other, by
    Student's t, taken wide. `DRIFT`, of which one measurement sees nothing, is added as squares.
    """
    count = len(block_values)
    spread = student_t_995(count - 1) * float(block_values.std(ddof=1)) * math.sqrt(2 / count)
    half = math.hypot(spread, DRIFT)
    return math.exp(log_ratio - half), math.exp(log_ratio + half)


def mean_ratio(reference_ms: Array, candidate_ms: Array, *, blocks: int = BLOCKS) -> PairedRatio:
    """The candidate's mean time by the reference's, over things (N,) that both were timed on, and its interval.

    Unlike a median, the mean has each of them in it: what an input-adaptive file takes for its hardest inputs, too. The
    interval is `interval_again`'s, of contiguous blocks. Raises `ValueError` for fewer than two.
    """
    count = len(reference_ms)
    if count != len(candidate_ms) or count < 2:
        raise ValueError(f"paired times are needed, two at least; got {count} and {len(candidate_ms)}")
    blocks = min(blocks, count)
    parts = zip(np.array_split(reference_ms, blocks), np.array_split(candidate_ms, blocks), strict=True)
    log_ratios = np.log([candidate.mean() / reference.mean() for reference, candidate in parts])
    ratio = float(candidate_ms.mean() / reference_ms.mean())
    return PairedRatio(ratio, interval_again(math.log(ratio), log_ratios), blocks)


def student_t_995(freedom: int) -> float:
    """The 99.5% quantile of Student's t."""
    if freedom <= len(T_995):
        return T_995[freedom - 1]
    cubic = (Z_995**3 + Z_995) / (4 * freedom)
    return Z_995 + cubic + (5 * Z_995**5 + 16 * Z_995**3 + 3 * Z_995) / (96 * freedom**2)


def median_interval(samples_ms: Array, *, blocks: int = BLOCKS) -> tuple[float, float]:
    """95% interval of the median of all calls, from samples (rounds, runs), by resampling blocks of rounds."""
    return _block_bootstrap(np.array_split(samples_ms, min(blocks, len(samples_ms))), np.median)


def quiet_interval(samples_ms: Array, *, blocks: int = BLOCKS) -> tuple[float, float]:
    """95% interval of the quiet time, from samples (rounds, runs), by resampling blocks of rounds."""
    parts = np.array_split(samples_ms, min(blocks, len(samples_ms)))
    fastest = [np.sort(part, axis=None)[:QUIET_KEPT] for part in parts]
    return _block_bootstrap(fastest, lambda samples_ms: quiet_time(samples_ms).quiet_ms)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of the ranks; NaN where there is no order to agree on: one value, or all of them equal."""
    ours, theirs = np.array(first, dtype=float), np.array(second, dtype=float)
    if len(np.unique(ours)) < 2 or len(np.unique(theirs)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(ours), _ranks(theirs))[0, 1])


def _ranks(values: Array) -> Array:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


def _block_bootstrap(blocks: list[Array], statistic: Callable[[Array], float]) -> tuple[float, float]:
    chosen = np.random.default_rng(0).integers(0, len(blocks), (BOOTSTRAP_SAMPLES, len(blocks)))
    found = [statistic(np.concatenate([blocks[index].ravel() for index in row])) for row in chosen]
    low, high = np.percentile(found, [2.5, 97.5])
    whole = float(statistic(np.concatenate([block.ravel() for block in blocks])))
    return min(float(low), whole), max(float(high), whole)  # a minimum lies at the edge of what resampling can give

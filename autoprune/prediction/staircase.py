"""Ladders: the widths of a group at which measured time steps down. Where they lie is found by measuring."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STEP_TOLERANCE = 0.02  # a narrower width must be at least this much faster to be a rung: the noise of a measurement
CLEAR_GAIN = 0.05
MOST_CANDIDATES = 16
SCANNED_WHOLE = 16  # a group of up to this many channels is measured at every width
Cost = Callable[[int], float]
Ladders = Mapping[str, tuple[int, ...]]  # by group


def staircase(widths: Sequence[int], cost: Cost) -> tuple[int, ...]:
    """The widths worth having: those that no wider one matches in time (latency is a staircase, and not monotone)."""
    kept = [max(widths)]
    least = cost(kept[0])
    for width in sorted(widths, reverse=True)[1:]:
        time_of_width = cost(width)
        if time_of_width < least * (1 - STEP_TOLERANCE):
            kept.append(width)
            least = time_of_width
    return tuple(sorted(kept))


def scanned_widths(channels: int, *, min_keep: float) -> tuple[int, ...]:
    """The widths to measure one by one: all of a narrow group, the uppermost of a wide one, ascending."""
    least = least_width(channels, min_keep=min_keep)
    return tuple(range(max(least, channels - SCANNED_WHOLE), channels + 1))


@dataclass(frozen=True)
class Step:
    """Multiples of `width` are faster than their neighbours, by `gain` of the mean time on average."""

    width: int
    gain: float


NO_STEP = Step(1, 0.0)


def alignment(widths: Sequence[int], times: Sequence[float]) -> Step:
    """The number whose multiples are faster than their neighbours, as far as times of some `widths` in a row show it.

    `NO_STEP` if none stands out. A straight line is taken away first: that narrower is faster says nothing of steps.
    """
    if len(widths) < 3 or max(times) <= 0:  # too few to tell, or all too small to measure
        return NO_STEP
    line = np.polyval(np.polyfit(widths, times, 1), widths)
    residuals = (np.array(times) - line) / np.mean(times)
    found = NO_STEP
    for step in range(2, max(widths)):
        multiples = [residual for width, residual in zip(widths, residuals, strict=True) if width % step == 0]
        # Every multiple of a step is one too: a larger step must be clearly better.
        if len(multiples) >= 2 and -float(np.mean(multiples)) > found.gain + STEP_TOLERANCE / 4:
            found = Step(step, -float(np.mean(multiples)))
    return found


def settled_steps(steps: Mapping[str, Step], *, also: Sequence[str] = ()) -> dict[str, int]:
    """The step of each group: its own where it stands out clearly, elsewhere the commonest of those that do.

    Steps come from the kernels, which the groups of a model share; the scan of one group may show mostly noise. `also`
    names groups that were not scanned and follow the others.
    """
    clear = Counter(step.width for step in steps.values() if step.gain >= CLEAR_GAIN)
    commonest = max(clear, key=lambda width: (clear[width], width), default=None)
    found = {
        name: commonest if commonest is not None and step.gain < CLEAR_GAIN else step.width
        for name, step in steps.items()
    }
    usual = commonest or max(Counter(found.values()).items(), key=lambda item: (item[1], item[0]), default=(1, 0))[0]
    return dict.fromkeys(also, usual) | found


def candidate_widths(channels: int, *, step: int, min_keep: float) -> tuple[int, ...]:
    """`min_keep` of the channels, multiples of `step` above that, and all channels themselves, ascending.

    Of a very wide group only every second, fourth, eighth … multiple, so that measuring them does not take for ever:
    whatever else the kernels may like goes by powers of two, too.
    """
    least = least_width(channels, min_keep=min_keep)
    while channels - least > step * MOST_CANDIDATES:
        step *= 2
    return tuple(sorted({least, *range(-(-least // step) * step, channels, step), channels}))


def thinned(ladder: Sequence[int], cost: Cost, *, max_rungs: int) -> tuple[int, ...]:
    """At most `max_rungs` of a ladder, about equally far apart in time; the ends stay."""
    if len(ladder) <= max_rungs:
        return tuple(ladder)
    times = {width: cost(width) for width in ladder}
    low, high = times[ladder[0]], times[ladder[-1]]
    kept = {ladder[0], ladder[-1]}
    for index in range(1, max_rungs - 1):
        wanted = low + (high - low) * index / (max_rungs - 1)
        left = [width for width in ladder if width not in kept]
        kept.add(min(left, key=lambda width: abs(times[width] - wanted)))
    return tuple(sorted(kept))


def least_width(channels: int, *, min_keep: float) -> int:
    return max(1, round(min_keep * channels))

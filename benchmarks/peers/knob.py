"""Turning one knob until a network is as fast as another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NO_SLOWER = 1.01  # of the other's latency: about how far two measurements of one file lie apart
NEAR = 0.99  # no need to look for a knob that comes nearer
SCAN = 8  # coarse steps
REFINEMENTS = 5  # halvings of a coarse step


@dataclass(frozen=True)
class Tried:
    """`latency_ratio` to the file that must be matched; None: it could not be pruned so, and `error` says why."""

    knob: float
    latency_ratio: float | None
    error: str | None = None

    @property
    def is_too_slow(self) -> bool:
        return self.latency_ratio is not None and self.latency_ratio > NO_SLOWER

    @property
    def is_fast_enough(self) -> bool:
        return self.latency_ratio is not None and self.latency_ratio <= NO_SLOWER

    @property
    def is_near(self) -> bool:
        return self.latency_ratio is not None and NEAR <= self.latency_ratio <= NO_SLOWER


def tried_knobs(attempt: Callable[[float], Tried]) -> list[Tried]:
    """Everything that was tried to find the least knob, between 0 and 1, that is fast enough.

    Upwards in coarse steps, because far up a larger knob may be a slower network: Torch-Pruning leaves a group whole
    that would be rounded to nothing. Then the step is halved in which the network becomes fast enough, or the library
    can prune no further.
    """
    tried: list[Tried] = []
    for step in range(1, SCAN):
        tried.append(attempt(step / SCAN))
        if not tried[-1].is_too_slow:
            break
    if tried[-1].is_too_slow or tried[-1].is_near:
        return tried
    low, high = tried[-1].knob - 1 / SCAN, tried[-1].knob
    for _ in range(REFINEMENTS):
        found = attempt((low + high) / 2)
        tried.append(found)
        if found.is_near:
            break
        if found.is_too_slow:
            low = found.knob
        else:
            high = found.knob
    return tried


def least_fast_enough(tried: Sequence[Tried]) -> Tried | None:
    """The one that prunes least among those that are fast enough."""
    return min((found for found in tried if found.is_fast_enough), key=lambda found: found.knob, default=None)


def why_none(tried: Sequence[Tried]) -> str:
    """For a list in which nothing is fast enough."""
    ratios = [found.latency_ratio for found in tried if found.latency_ratio is not None]
    errors = [found.error for found in tried if found.error is not None]
    fastest = [f"its fastest takes {min(ratios):.2f} times our latency"] if ratios else []
    return "; ".join([*fastest, *errors[-1:]])

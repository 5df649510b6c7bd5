"""Turning one knob until a network is as fast as another."""

from collections.abc import Callable
from dataclasses import dataclass

NO_SLOWER = 1.01  # of the other's latency: about how far two measurements of one file lie apart
NEAR = 0.99  # no need to look for a knob that comes nearer
MOST = 0.98
STEPS = 8


@dataclass(frozen=True)
class Tried:
    """`latency_ratio` to the file that must be matched; None: it could not be pruned so, and `error` says why."""

    knob: float
    latency_ratio: float | None
    error: str | None = None

    @property
    def is_fast_enough(self) -> bool:
        return self.latency_ratio is not None and self.latency_ratio <= NO_SLOWER


def bisect(attempt: Callable[[float], Tried]) -> list[Tried]:
    """Everything that was tried to find the least knob that is fast enough.

    A larger knob must be faster or fail. A library fails where it cannot prune so much: the next is a smaller knob.
    """
    low, high = 0.0, MOST
    tried: list[Tried] = []
    for _ in range(STEPS):
        found = attempt((low + high) / 2)
        tried.append(found)
        if found.is_fast_enough or found.latency_ratio is None:
            high = found.knob
        else:
            low = found.knob
        if found.is_fast_enough and found.latency_ratio is not None and found.latency_ratio >= NEAR:
            break
    return tried


def least_fast_enough(tried: list[Tried]) -> Tried | None:
    """The one that prunes least among those that are fast enough."""
    return min((found for found in tried if found.is_fast_enough), key=lambda found: found.knob, default=None)


def why_none(tried: list[Tried]) -> str:
    """For a list in which nothing is fast enough."""
    ratios = [found.latency_ratio for found in tried if found.latency_ratio is not None]
    errors = [found.error for found in tried if found.error is not None]
    parts = [f"its fastest takes {min(ratios):.2f} times our latency"] if ratios else []
    return "; ".join([*parts, *errors[-1:]])

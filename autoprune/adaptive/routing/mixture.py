"""Which of several levels work best together: mixtures of levels, judged by the cascades they allow.

A level that is good alone may be of little use beside another one that is nearly as good and costs less. So levels are
chosen for what their mixture comes to, each at the cascade that suits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from autoprune.adaptive.routing.operating_point import cascades
from autoprune.adaptive.routing.routing import LevelAnswers
from autoprune.store.kept import Count, Finite, Milliseconds, closed

LEAST_LEVELS = 2


@closed
@dataclass(frozen=True)
class Mixture:
    """Some levels together, at their cheapest cascade that holds the worth that is asked for, if one does."""

    levels: tuple[Count, ...]  # places among the levels that were tried, the smallest first
    holds: bool
    worth: Finite  # `LevelAnswers.worth`, the mean over the images
    estimated_latency_ms: Milliseconds  # put together from the levels' latencies


def mixtures(answers: LevelAnswers, *, most_levels: int, max_drop: float) -> tuple[Mixture, ...]:
    """Every mixture of 2 to `most_levels` levels, the best first.

    Asked for is the worth of the best single level less `max_drop`. Those that hold it come first, the cheapest at the
    front; then those that come near it, the nearest at the front. Worth, not accuracy: levels differ in few images.
    """
    wanted = float(answers.worth.mean(1).max()) - max_drop
    sizes = range(LEAST_LEVELS, min(most_levels, answers.levels) + 1)
    found = [
        _mixture(answers, places, wanted) for size in sizes for places in combinations(range(answers.levels), size)
    ]
    return tuple(sorted(found, key=_order))


def _mixture(answers: LevelAnswers, places: Sequence[int], wanted: float) -> Mixture:
    figures = [point.figures for point in cascades(answers.of_levels(places))]
    holding = [found for found in figures if found.worth >= wanted - 1e-9]
    best = (
        min(holding, key=lambda found: (found.estimated_latency_ms, -found.worth))
        if holding
        else max(figures, key=lambda found: (found.worth, -found.estimated_latency_ms))
    )
    return Mixture(tuple(places), bool(holding), best.worth, best.estimated_latency_ms)


def _order(mixture: Mixture) -> tuple[bool, float, float, int]:
    """Of mixtures that come to the same the one with fewer levels is first."""
    by_cost, by_worth = mixture.estimated_latency_ms, -mixture.worth
    first, second = (by_cost, by_worth) if mixture.holds else (by_worth, by_cost)
    return (not mixture.holds, first, second, len(mixture.levels))

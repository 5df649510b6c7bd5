"""Routers at all the prices of time, and the one of them at which an input-adaptive model works."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from autoprune.adaptive.figures.schema import BudgetFigures, RouterName
from autoprune.adaptive.file.export import PricedRouter
from autoprune.adaptive.routing.routers import Cascade, LearnedRouter
from autoprune.adaptive.routing.routing import LevelAnswers, RoutedFigures, figures_of, follow, front_of
from autoprune.foundation.progress import say

PRICES = 240  # of time, at which the learned router is tried: as many as a cascade of two levels has thresholds
BUDGETS = 5  # at which the routers are compared
ROUNDING = 1e-6  # of a mean of float32
# Quantiles of a level's confidence that are tried as its threshold, by the number of thresholds: the combinations of
# more than two levels are many.
CASCADE_STEPS = {1: 240, 2: 24, 3: 9, 4: 5}


@dataclass(frozen=True)
class OperatingPoint:
    """A router and what it comes to on the images that it was chosen on."""

    router: PricedRouter
    figures: RoutedFigures


def cascades(answers: LevelAnswers) -> tuple[OperatingPoint, ...]:
    """Cascades over a grid of thresholds: quantiles of each level's confidence, and 0, at which no image goes on."""
    steps = CASCADE_STEPS[answers.levels - 1]
    grids = [
        np.unique([0.0, *np.quantile(answers.probabilities[level].max(1), np.linspace(0, 1, steps)), 1.01])
        for level in range(answers.levels - 1)
    ]
    routers = map(Cascade, itertools.product(*(grid.tolist() for grid in grids)))
    return tuple(OperatingPoint(router, figures_of(follow(router, answers), answers)) for router in routers)


def cascade_points(answers: LevelAnswers) -> list[OperatingPoint]:
    """The cascades that no other one beats in both worth and mean latency, the fastest first."""
    return front_of(cascades(answers), of=lambda point: (point.figures.estimated_latency_ms, point.figures.worth))


def operating_points(
    answers: LevelAnswers, router: LearnedRouter, decision_ms: Mapping[RouterName, float]
) -> tuple[OperatingPoint, ...]:
    """Every cascade that no other one beats, and the learned router at many prices of time, judged on `answers`.

    `decision_ms` is what one decision of each costs.
    """
    cascade, learned = (replace(answers, router_ms=decision_ms[name]) for name in ("cascade", "learned"))
    shares = [step / (PRICES - 1) for step in range(PRICES)]  # of the range of prices, finer where they are low
    priced = [router.at_price(router.max_price * share**2) for share in shares]
    return (
        *cascade_points(cascade),
        *(OperatingPoint(router, figures_of(follow(router, learned), learned)) for router in priced),
    )


def chosen_point(
    points: Sequence[OperatingPoint], answers: LevelAnswers, *, max_drop: float, original_ms: float
) -> OperatingPoint:
    """The fastest that is worth at most `max_drop` less than the original, on the search split, and is no slower.

    If none is, the one that is worth most of those that are no slower; of equals the fastest.
    """
    wanted = answers.original_worth - max_drop
    affordable = [point for point in points if point.figures.estimated_latency_ms <= original_ms]
    allowed = [point for point in affordable if point.figures.worth >= wanted - ROUNDING]
    if allowed:
        return min(allowed, key=lambda point: (point.figures.estimated_latency_ms, -point.figures.worth))
    saving = " of those that are no slower than the original" if affordable else ""
    say(f"no router loses as little as {100 * max_drop:g} points: taking the one that loses least{saving}")
    return min(affordable or points, key=lambda point: (-point.figures.worth, point.figures.estimated_latency_ms))


def at_budgets(
    points: Sequence[OperatingPoint], others: LevelAnswers, decision_ms: Mapping[RouterName, float]
) -> tuple[BudgetFigures, ...]:
    """For each of `BUDGETS` mean latencies, evenly between the cheapest point and the one worth most, both routers.

    A point is chosen by its figures on the images it was made on; `others` are answers to images that no router has
    seen. A router without a point within the budget is left out.
    """
    cheapest = min(point.figures.estimated_latency_ms for point in points)
    best = min(points, key=lambda point: (-point.figures.worth, point.figures.estimated_latency_ms))
    span = best.figures.estimated_latency_ms - cheapest
    found = []
    for number in range(1, BUDGETS + 1):
        budget_ms = cheapest + span * number / (BUDGETS + 1)
        for name in get_args(RouterName):
            affordable = (point for point in points if point.figures.estimated_latency_ms <= budget_ms)
            if own := [point for point in affordable if point.router.name == name]:
                point = min(own, key=lambda point: (-point.figures.worth, point.figures.estimated_latency_ms))
                costed = replace(others, router_ms=decision_ms[name])
                figures = figures_of(follow(point.router, costed), costed)
                found.append(
                    BudgetFigures(
                        budget_ms=budget_ms,
                        router=name,
                        test_accuracy=figures.accuracy,
                        estimated_latency_ms=figures.estimated_latency_ms,
                    )
                )
    return tuple(found)

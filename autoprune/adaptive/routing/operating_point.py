"""Routers at all the prices of time, and the one of them at which an input-adaptive model works."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from autoprune.adaptive.figures.schema import BudgetFigures, RouterName
from autoprune.adaptive.file.export import RouterNodes
from autoprune.adaptive.routing.graph import CascadeNodes, LearnedNodes
from autoprune.adaptive.routing.learner import LearnedRouter, RouterSettings, train_router
from autoprune.adaptive.routing.routing import (
    LevelAnswers,
    RoutedFigures,
    Router,
    by_confidence,
    cascade_points,
    figures_of,
    follow,
)
from autoprune.config import RunConfig
from autoprune.foundation.progress import bar, say
from autoprune.foundation.seeding import derive_seed

PRICES = 240  # of time, at which the learned router is tried: as many as a cascade of two levels has thresholds
BUDGETS = 5  # at which the routers are compared
ROUNDING = 1e-6  # of a mean of float32


@dataclass(frozen=True)
class OperatingPoint:
    """A router and what it comes to on the search split, on which it was chosen."""

    name: RouterName
    nodes: RouterNodes
    router: Router  # what the nodes decide
    figures: RoutedFigures


def learned_router(learnt: LevelAnswers, held_out: LevelAnswers, config: RunConfig) -> LearnedRouter:
    """Trained on `learnt`, shown as it goes; `held_out` chooses the state that is kept.

    `learnt` may be of images that levels were trained on: there are many more of those, and what the router gains by
    them is more than it loses by the levels' being surer of these.
    """
    with bar("router", config.adaptive.router_rounds) as progress:
        return train_router(
            learnt,
            held_out,
            seed=derive_seed(config.seed, "router"),
            settings=RouterSettings(rounds=config.adaptive.router_rounds),
            on_round=lambda _, found: progress.advance(1, f"return {found:.4f}"),
        )


def operating_points(
    answers: LevelAnswers, router: LearnedRouter, decision_ms: Mapping[RouterName, float]
) -> tuple[OperatingPoint, ...]:
    """Every cascade that no other one beats, and the learned router at many prices of time, judged on `answers`.

    `decision_ms` is what one decision of each costs.
    """
    cascade, learned = (replace(answers, router_ms=decision_ms[name]) for name in ("cascade", "learned"))
    points = [
        OperatingPoint("cascade", CascadeNodes(point.thresholds), by_confidence(point.thresholds), point.figures)
        for point in cascade_points(cascade)
    ]
    return (*points, *(_learned_point(router, price, learned) for price in prices(router)))


def stopping(router: LearnedRouter, *, levels: int) -> dict[RouterName, RouterNodes]:
    """Each router where it stops if it can: what it costs then is the decision."""
    return {"cascade": CascadeNodes((0.0,) * (levels - 1)), "learned": LearnedNodes(router, router.max_price)}


def prices(router: LearnedRouter) -> list[float]:
    """From none to all of the router's range, finer where they are low."""
    return [router.max_price * (step / (PRICES - 1)) ** 2 for step in range(PRICES)]


def chosen_point(
    points: Sequence[OperatingPoint], answers: LevelAnswers, *, max_drop: float, original_ms: float
) -> OperatingPoint:
    """The fastest that is worth at most `max_drop` less than the original, on the search split, and is no slower.

    If none is, the one that is worth most of those that are no slower; of equals the fastest.
    """
    wanted = _original_worth(answers) - max_drop
    affordable = [point for point in points if point.figures.estimated_latency_ms <= original_ms]
    allowed = [point for point in affordable if point.figures.worth >= wanted - ROUNDING]
    if allowed:
        return min(allowed, key=lambda point: (point.figures.estimated_latency_ms, -point.figures.worth))
    saving = " of those that are no slower than the original" if affordable else ""
    say(f"no router loses as little as {100 * max_drop:g} points: taking the one that loses least{saving}")
    return min(affordable or points, key=lambda point: (-point.figures.worth, point.figures.estimated_latency_ms))


def estimated_drop(point: OperatingPoint, answers: LevelAnswers) -> float:
    """By how much less `point` is worth than the original, on images whose `answers` it was judged on."""
    return _original_worth(answers) - point.figures.worth


def _original_worth(answers: LevelAnswers) -> float:
    assert answers.teacher is not None
    return float(answers.teacher.max(1).mean())


def _learned_point(router: LearnedRouter, price: float, answers: LevelAnswers) -> OperatingPoint:
    at_price = router.at_price(price)
    return OperatingPoint(
        "learned", LearnedNodes(router, price), at_price, figures_of(follow(at_price, answers), answers)
    )


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
            own = [point for point in points if point.name == name and point.figures.estimated_latency_ms <= budget_ms]
            if own:
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

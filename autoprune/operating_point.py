"""Routers at all the prices of time, and the one of them at which an input-adaptive model works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.adaptive_export import RouterNodes
from autoprune.config import RunConfig
from autoprune.policies.router import LearnedRouter, RouterSettings, train_router
from autoprune.policies.router_graph import CascadeNodes, LearnedNodes
from autoprune.progress import bar, say
from autoprune.routing import LevelAnswers, RoutedFigures, cascade_points, figures_of, follow
from autoprune.seeding import derive_seed

PRICES = 60  # of time, at which the learned router is tried


@dataclass(frozen=True)
class OperatingPoint:
    """A router and what it comes to on the search split, on which it was chosen."""

    name: Literal["cascade", "learned"]
    nodes: RouterNodes
    figures: RoutedFigures


def operating_points(answers: LevelAnswers, config: RunConfig) -> tuple[OperatingPoint, ...]:
    """Every cascade that no other one beats, and the learned router at many prices of time."""
    points = [
        OperatingPoint("cascade", CascadeNodes(point.thresholds), point.figures) for point in cascade_points(answers)
    ]
    with bar("router", config.adaptive.router_rounds) as progress:
        router = train_router(
            answers,
            seed=derive_seed(config.seed, "router"),
            settings=RouterSettings(rounds=config.adaptive.router_rounds),
            on_round=lambda _, found: progress.advance(1, f"return {found:.4f}"),
        )
    return (*points, *(_learned_point(router, price, answers) for price in prices(router)))


def prices(router: LearnedRouter) -> list[float]:
    """From none to all of the router's range, finer where they are low."""
    return [router.max_price * (step / (PRICES - 1)) ** 2 for step in range(PRICES)]


def chosen_point(points: Sequence[OperatingPoint], answers: LevelAnswers, *, max_drop: float) -> OperatingPoint:
    """The fastest that loses at most `max_drop` of the original's accuracy on the search split.

    If none holds that, the most accurate one; of equals the fastest.
    """
    assert answers.teacher is not None
    wanted = float((answers.teacher.argmax(1) == answers.labels).mean()) - max_drop
    allowed = [point for point in points if point.figures.accuracy >= wanted - 1e-9]
    if allowed:
        return min(allowed, key=lambda point: (point.figures.estimated_latency_ms, -point.figures.accuracy))
    say(f"no router holds {100 * wanted:.2f}% on the search split: taking the most accurate one")
    return min(points, key=lambda point: (-point.figures.accuracy, point.figures.estimated_latency_ms))


def _learned_point(router: LearnedRouter, price: float, answers: LevelAnswers) -> OperatingPoint:
    return OperatingPoint(
        "learned", LearnedNodes(router, price), figures_of(follow(router.at_price(price), answers), answers)
    )

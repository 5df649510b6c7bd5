"""Routers: which level answers an input, and what that costs. Pure functions over what every level answers to images.

An input runs the smallest level first. A router sees that answer and either stops with it or names the level to run
next; so on until it stops or the largest level has run. Everything that ran is paid for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Trust:
    """How much of a network's margin, its probability of its own class less that of the other one's, is believed where
    a level and the original answer differently."""

    original: float = 1.0
    level: float = 0.0


@dataclass(frozen=True)
class LevelAnswers:
    """What `levels` levels, the smallest first, answer to the same N images, and what one image costs."""

    probabilities: Array  # (levels, N, classes)
    labels: Integers  # (N,)
    teacher: Array  # (N, classes) probabilities of the original
    latency_ms: tuple[float, ...]  # of each level alone, of one image, measured
    router_ms: float = 0.0  # of one decision
    trust: Trust = Trust()

    def __post_init__(self) -> None:
        levels, images, classes = self.probabilities.shape
        if len(self.latency_ms) != levels or self.labels.shape != (images,):
            raise ValueError(
                f"{levels} levels and {images} images do not fit {len(self.latency_ms)} latencies and labels "
                f"{self.labels.shape}"
            )
        if self.teacher.shape != (images, classes):
            raise ValueError(f"the original's probabilities are {self.teacher.shape}, not {(images, classes)}")

    @property
    def levels(self) -> int:
        return len(self.latency_ms)

    @cached_property
    def right(self) -> Bools:
        """(levels, N): which images each level classifies right."""
        return np.asarray(self.probabilities.argmax(2) == self.labels)

    @property
    def original_right(self) -> Bools:
        """(N,): which images the original classifies right."""
        return np.asarray(self.teacher.argmax(1) == self.labels)

    @property
    def original_worth(self) -> float:
        """The worth of the original's own answers, the mean over the images."""
        return float(self.teacher.max(1).mean())

    @cached_property
    def worth(self) -> Array:
        """(levels, N): how good each answer is; what a router learns from, and what operating points are chosen by.

        The original's probability of its own class where the level names the same; where it names another one, less
        the original's margin and more the level's, each as far as it is to be trusted. With `Trust()` that is the
        original's probability of the class that the level names: the expectation of being right, where a label would
        say 0 or 1. Two levels differ in few images, so that labels of some thousand of them are mostly noise.
        """
        original, level = self.margins
        worth: Array = self.teacher.max(1) - self.trust.original * original + self.trust.level * level
        return worth

    @property
    def margins(self) -> tuple[Array, Array]:
        """(levels, N) each, of the original over the level's class and of the level over the original's, 0..1: both
        are 0 where they name the same class."""
        images = np.arange(len(self.labels))
        own, named = self.teacher.argmax(1), self.probabilities.argmax(2)
        original = self.teacher[images, own] - self.teacher[images, named]
        levels = np.arange(self.levels)[:, None]
        return original, self.probabilities[levels, images, named] - self.probabilities[levels, images, own]

    def of_levels(self, places: Sequence[int]) -> "LevelAnswers":
        """Those of some levels, by place, the smallest first."""
        return replace(
            self,
            probabilities=self.probabilities[list(places)],
            latency_ms=tuple(self.latency_ms[place] for place in places),
        )


def joined(parts: Sequence[LevelAnswers]) -> LevelAnswers:
    """The same levels' answers to several lots of images, as one; costs are those of the first."""
    return replace(
        parts[0],
        probabilities=np.concatenate([part.probabilities for part in parts], axis=1),
        labels=np.concatenate([part.labels for part in parts]),
        teacher=np.concatenate([part.teacher for part in parts]),
    )


@dataclass(frozen=True)
class Route:
    """What ran for each of N images."""

    ran: Bools  # (levels, N)
    final: Integers  # (N,) the level whose answer counts: the last one that ran

    def __post_init__(self) -> None:
        assert bool(self.ran[self.final, np.arange(len(self.final))].all())


@dataclass(frozen=True)
class RoutedFigures:
    """What a route comes to; the latency is put together from that of the levels: estimated, not measured."""

    accuracy: float
    worth: float  # `LevelAnswers.worth`, the mean over the images
    estimated_latency_ms: float
    level_share: tuple[float, ...]  # of the images, by the level that answers
    run_share: tuple[float, ...]  # of the images, by level: those that it ran for


Router = Callable[[int, Array], Integers]
"""(level that has just run, its probabilities (n, classes)) -> (n,) the level to run next; that level itself: stop."""


def follow(router: Router, answers: LevelAnswers) -> Route:
    """What runs for each image; a level that is not above the one that just ran stops, as does a run of the largest."""
    images = answers.probabilities.shape[1]
    ran = np.zeros((answers.levels, images), dtype=bool)
    final = np.zeros(images, dtype=np.int64)
    at = np.zeros(images, dtype=np.int64)  # the level each image runs next; -1: it has stopped
    for level in range(answers.levels):
        here = np.flatnonzero(at == level)
        ran[level, here], final[here] = True, level
        if level + 1 < answers.levels and len(here):
            asked = np.minimum(router(level, answers.probabilities[level, here]), answers.levels - 1)
            at[here] = np.where(asked > level, asked, -1)
    return Route(ran, final)


def figures_of(route: Route, answers: LevelAnswers) -> RoutedFigures:
    """Accuracy, mean latency and the share of each level. Each level that runs but the largest asks the router."""
    images = len(route.final)
    decided = route.ran[:-1].sum()
    latency_ms = (route.ran.sum(1) @ np.array(answers.latency_ms) + decided * answers.router_ms) / images
    shares = np.bincount(route.final, minlength=answers.levels) / images
    taken = (route.final, np.arange(images))
    accuracy, worth = float(answers.right[taken].mean()), float(answers.worth[taken].mean())
    return RoutedFigures(
        accuracy, worth, float(latency_ms), tuple(shares.tolist()), run_share=tuple(route.ran.mean(1).tolist())
    )


def oracle(answers: LevelAnswers) -> Route:
    """The cheapest route that answers right: no router can do better without knowing the label.

    Beside the smallest level, which always runs, the first level that is right runs; none where none is.
    """
    right = answers.right
    final = np.where(right.any(0), right.argmax(0), 0)
    ran = np.zeros_like(right)
    ran[0] = True
    ran[final, np.arange(len(final))] = True
    return Route(ran, final.astype(np.int64))


Point = TypeVar("Point")


def front_of(points: Sequence[Point], *, of: Callable[[Point], tuple[float, float]]) -> list[Point]:
    """Those that no other one beats in both the latency and the worth `of` it, the fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (of(point)[0], -of(point)[1])):
        if not front or of(point)[1] > of(front[-1])[1]:
            front.append(point)
    return front

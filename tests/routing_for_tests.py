"""Answers of three levels to a few images, small enough to work out routes in the head, and many by chance; routers
that look at nothing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.routing.routing import LevelAnswers, Router

LATENCY_MS = (1.0, 2.0, 4.0)


def judged_by_labels(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], latency_ms: tuple[float, ...], router_ms: float = 0.0
) -> LevelAnswers:
    """Answers whose worth is whether they are right: of an original that is sure of every label."""
    original = np.eye(probabilities.shape[2], dtype=np.float32)[labels]
    return LevelAnswers(probabilities, labels, original, latency_ms, router_ms)


def answers_by_hand(router_ms: float = 0.0) -> LevelAnswers:
    """Four images of class 0. The first level is sure and right of image 0, sure and wrong of 1, unsure of 2 and 3,
    where the second level gets 2 right and the third both."""
    certain, wrong, unsure = [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]
    right, barely = [0.8, 0.2], [0.6, 0.4]
    probabilities = np.array(
        [
            [certain, wrong, unsure, unsure],
            [certain, wrong, right, unsure],
            [certain, barely, right, right],
        ],
        dtype=np.float32,
    )
    return judged_by_labels(probabilities, np.zeros(4, dtype=np.int64), LATENCY_MS, router_ms)


def answers_by_chance(images: int, *, seed: int, classes: int = 4, levels: int = 3) -> LevelAnswers:
    """Each level is righter than the one before it, and sure where it is right."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=images)
    hardness = generator.uniform(0.0, 1.0, images)
    logits = []
    for level in range(levels):
        skill = (5.0 + 2.0 * level) * (1.0 - hardness)
        scores = generator.normal(0.0, 1.0, (images, classes))
        scores[np.arange(images), labels] += skill
        logits.append(scores)
    exponentials = np.exp(np.stack(logits))
    probabilities = (exponentials / exponentials.sum(2, keepdims=True)).astype(np.float32)
    return judged_by_labels(probabilities, labels, tuple(float(2**level) for level in range(levels)))


def always(level: int) -> Router:
    """Run the smallest level, then this one, whatever the input."""
    return lambda at, probabilities: np.full(len(probabilities), level if at < level else at)


def at_random(shares: Sequence[float], *, seed: int) -> Router:
    """Go one level up from each level with the chance given, whatever the input."""
    generator = np.random.default_rng(seed)
    return lambda at, probabilities: np.where(generator.random(len(probabilities)) < shares[at], at + 1, at)

"""What a decision of the routing environment does, to one image or to many at once: pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.routing.routing import LevelAnswers

Floats = NDArray[Any]  # of whatever precision


@dataclass(frozen=True)
class Routed:
    """Of n images that a level has answered, after one and the same action."""

    level: int  # that has run last
    rewards: Floats  # (n,)
    done: bool


class RouterDynamics:
    """The routing of `answers`: a level that runs is rewarded by how much better its answer is, less its time."""

    def __init__(self, answers: LevelAnswers) -> None:
        self.levels, self._worth = answers.levels, answers.worth
        # Of each level, its decision with it, as shares of the largest level's time.
        self._costs = (np.array(answers.latency_ms) + answers.router_ms) / answers.latency_ms[-1]

    def advance(self, level: int, action: int, images: NDArray[np.int64], prices: Floats) -> Routed:
        """Run level `action` on `images` (n,) at `prices` (n,) of time, or stop, if it is not above `level`."""
        goes_on = action > level
        after = action if goes_on else level
        won = self._worth[after, images] - self._worth[level, images]
        spent = prices * self._costs[after] * float(goes_on)
        return Routed(after, won - spent, not goes_on or after == self.levels - 1)

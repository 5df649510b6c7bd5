"""The routing environment: an image an episode; after each level that ran, stop with its answer or run a larger one."""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.routing.routing import LevelAnswers
from autoprune.envs.misuse import discrete_action, reset_needed
from autoprune.envs.router_observation import LARGEST_NUMBER, observation_size, observe_answer, price_of, share_of
from autoprune.foundation.bounds import real_number, whole_number

Array = NDArray[np.float32]
Floats = NDArray[Any]  # of whatever precision


class InputAdaptiveEnv(gymnasium.Env[Array, np.int64]):
    """Route the images of `answers`, drawn by chance, at a price of time drawn from 0 to `max_price`.

    The smallest level has run when an episode begins. Action: the level to run next; one that is not above the last one
    that ran stops, as does running the largest. To stop is worth 0. A level that runs is rewarded by how much better
    its answer is (`LevelAnswers.worth`; with labels for the original's answers 1 where it gets right, -1 where it gets
    wrong), less the price times its measured latency as a share of the largest level's. The sum is the final answer's
    worth less the price of time, but for what the smallest level gives anyway (potential-based shaping, Ng et al.
    1999).

    `reset` takes `price` and `image` as options. `info` at the end holds the level that answered and whether it is
    right.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it as a mutable class attribute)

    def __init__(self, answers: LevelAnswers, *, max_price: float = 1.0) -> None:
        if not 0 < max_price < math.inf:
            raise ValueError(f"max_price must be positive and finite, got {max_price}")
        self.answers, self.max_price = answers, max_price
        classes = answers.probabilities.shape[2]
        self.observation_space = gymnasium.spaces.Box(
            -LARGEST_NUMBER, LARGEST_NUMBER, (observation_size(classes, answers.levels),), np.float32
        )
        self.action_space = gymnasium.spaces.Discrete(answers.levels)
        self._image, self._level, self._price = 0, 0, 0.0
        self._started, self._done = False, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw an image and a price. Raises `InputError` for an option that is none of `answers` or no price."""
        super().reset(seed=seed)
        options = options or {}
        drawn_image = int(self.np_random.integers(len(self.answers.labels)))
        drawn_price = float(price_of(np.array(self.np_random.uniform(), dtype=np.float32), self.max_price))
        last_image = len(self.answers.labels) - 1
        image = whole_number("options: image", options.get("image", drawn_image), least=0, most=last_image)
        price = real_number("options: price", options.get("price", drawn_price), least=0.0, most=math.inf)
        self._image, self._price = image, price
        self._level, self._started, self._done = 0, True, False
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Stop, or run a larger level. Raises `ResetNeeded` outside of an episode, and `InvalidAction`."""
        if not self._started or self._done:
            raise reset_needed(started=self._started)
        asked = discrete_action(action, self.answers.levels)
        image, price = np.array([self._image]), np.array([self._price])
        routed = advance(self.answers, self._level, asked, image, price)
        self._level, self._done = routed.level, routed.done
        right = bool(self.answers.right[self._level, self._image])
        info: dict[str, Any] = {"level": self._level, "right": right} if routed.done else {}
        return self._observe(), float(routed.rewards[0]), routed.done, False, info

    def _observe(self) -> Array:
        probabilities = self.answers.probabilities[self._level, self._image][None]
        share = np.array([share_of(self._price, self.max_price)], dtype=np.float32)
        seen = observe_answer(self._level, probabilities, share, levels=self.answers.levels)
        return np.asarray(seen[0])


@dataclass(frozen=True)
class Routed:
    """Of n images that a level has answered, after one and the same action."""

    level: int  # that has run last
    rewards: Floats  # (n,)
    done: bool


def advance(answers: LevelAnswers, level: int, action: int, images: NDArray[np.int64], prices: Floats) -> Routed:
    """After `level`, run level `action` on `images` (n,) of `answers` at `prices` (n,) of time, or stop, if it is not
    above `level`.

    A level that runs is rewarded by how much better its answer is, less its time and that of its decision, as a share
    of the largest level's.
    """
    goes_on = action > level
    after = action if goes_on else level
    won = answers.worth[after, images] - answers.worth[level, images]
    cost = (answers.latency_ms[after] + answers.router_ms) / answers.latency_ms[-1]
    spent = prices.astype(np.float64) * cost * float(goes_on)
    return Routed(after, won - spent, not goes_on or after == answers.levels - 1)

"""Racing: how closely a candidate is looked at. One that falls behind the best at a coarse look is dropped there."""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from autoprune.space.decision import Policy
from autoprune.store.score import Score

# By look, so many of the best candidates a new one may fall behind before it is dropped. The first look is cheap and
# coarse; after the second only what may be the best is worth all images.
RIVALS = (8, 1)
# Standard errors that a candidate gets the benefit of. Two candidates find the same images hard: their difference has
# 0.5 to 0.9 of the standard error of one (measured), so that these are 1.7 to 3 of its own.
DOUBT = 1.5
NOT_SEEN = -1  # at no look


@dataclass(frozen=True)
class Bar:
    """What a candidate has to rival at one look to be looked at more closely: a good candidate, at the same look."""

    seen: float  # the rival's reward at that look
    reward: float  # its reward as its closest look tells it


Bars = Mapping[int, Bar]  # by look; a look without one drops nobody
NO_BARS: Bars = {}
NOTHING_RIVALS = Bar(seen=math.inf, reward=0.0)
# The first look is all. It tells how groups that are cut alone compare, in a quarter of the time.
FIRST_LOOK: Bars = {0: NOTHING_RIVALS}


def last_look(scores: Iterable[Score]) -> int:
    """The closest of some looks at a candidate; `NOT_SEEN` if there are none."""
    return max((score.look for score in scores), default=NOT_SEEN)


class Race:
    """The candidates of one search that were looked at more closely, by look."""

    def __init__(self) -> None:
        self._passed: tuple[dict[Policy, float], ...] = tuple({} for _ in RIVALS)

    def note(self, policy: Policy, reward: float, *, look: int) -> None:
        """A candidate whose closest look was number `look`."""
        for passed in self._passed[:look]:
            passed[policy] = reward

    def bars(self, reward_at: Callable[[Policy, int], float]) -> Bars:
        """After each look the last of as many rivals as count there; none while there are fewer. `reward_at` tells a
        policy's reward as one look at it told."""
        bars = {}
        for look, (count, passed) in enumerate(zip(RIVALS, self._passed, strict=True)):
            if len(passed) >= count:
                rival, reward = heapq.nlargest(count, passed.items(), key=lambda item: item[1])[-1]
                bars[look] = Bar(reward_at(rival, look), reward)
        return bars

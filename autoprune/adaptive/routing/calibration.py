"""What going on from a level is worth, and what delayed labels tell of how that changes.

A router stops where a level's answer looks sure enough. Where inputs drift two things can change: a level may be wrong
more often than its confidence says (Guo et al. 2017), so that it stops too soon; and larger levels may set fewer of its
errors right, or spoil more answers, so that it goes on in vain. Labels show both, against the search split.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.routing.routing import LevelAnswers, Route
from autoprune.foundation.bounds import shown

MEMORY = 1000  # labels of a level after which an older one counts 1/e
PRIOR = 300  # labels that what is known from the search split counts as
LARGEST_CHANGE = 16.0  # of what going on is worth
LEAST_SHARE = 1e-4  # a level that is never wrong is not believed to be
ROUNDING = 1e-6  # of a share that comes from float32 probabilities

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LevelCalibration:
    """Of a level, each a share of the images (0..1) that it answers or hands on; 0 where there are none."""

    error: float  # answered wrong
    doubt: float  # of those it answers: 1 less its largest probability, the mean: how many it says are wrong
    handed_error: float  # of those it hands on: it would have answered them wrong
    handed_gain: float  # right in the end less right at this level; negative where larger levels do harm


def calibrations(route: Route, answers: LevelAnswers) -> tuple[LevelCalibration, ...]:
    """Of each level, on images with labels."""
    right = answers.right
    in_the_end = right[route.final, np.arange(len(route.final))]
    found = []
    for level in range(answers.levels):
        own, handed = route.final == level, route.ran[level] & (route.final > level)
        doubts = 1.0 - answers.probabilities[level].max(1)
        found.append(
            LevelCalibration(
                error=_share(~right[level], own),
                doubt=_share(doubts, own),
                handed_error=_share(~right[level], handed),
                handed_gain=_share(in_the_end.astype(float) - right[level], handed),
            )
        )
    return tuple(found)


def _share(values: NDArray[np.generic], of: NDArray[np.bool_]) -> float:
    return float(values[of].astype(np.float64).mean()) if of.any() else 0.0


def as_text(found: Sequence[LevelCalibration]) -> str:
    """JSON, for the metadata of a file."""
    return json.dumps([astuple(one) for one in found])


def of_text(text: str) -> tuple[LevelCalibration, ...]:
    """Raises `ValueError` for a text that is not from `as_text`."""
    raw = json.loads(text)
    if not isinstance(raw, list):
        raise ValueError("not a list of levels")
    for one in raw:
        if not (isinstance(one, list) and [type(value) for value in one] == [float] * 4):
            raise ValueError(f"{shown(one)} are not the four shares of a level")
        if not (all(-ROUNDING <= share <= 1.0 + ROUNDING for share in one[:3]) and -1.0 <= one[3] <= 1.0):
            raise ValueError(f"{one} are not the four shares of a level: one is out of range")
    return tuple(LevelCalibration(*one) for one in raw)


class OnlineCalibration:
    """What going on is worth at each level, as labels that arrive one day tell it."""

    def __init__(self, expected: Sequence[LevelCalibration]) -> None:
        self._expected = np.array([astuple(one) for one in expected])  # (levels, 4), in the order of the fields
        self._sums = PRIOR * self._expected
        self._silent = np.zeros((len(self._expected), 4))  # labels of the level since the last one that told of a share

    @property
    def worth(self) -> Floats:
        """(levels,) times what it was on the search split, within `LARGEST_CHANGE` of 1.

        The more errors among answers for the doubt that there was, and the more of its errors larger levels set right,
        the more. A level without images on one side is judged by the other.
        """
        now, before = (_ratios(sums) for sums in (self._sums + PRIOR * LEAST_SHARE, self._expected + LEAST_SHARE))
        changes = np.divide(now, before, out=np.ones_like(now), where=self._expected[:, [1, 3]] > 0)
        return np.asarray(np.clip(changes.prod(1), 1.0 / LARGEST_CHANGE, LARGEST_CHANGE))

    def learn(self, answered: NDArray[np.int64], probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """From images (N,) with labels: `answered` (levels, N) is the class that each level gave, -1 where it did not
        run; `probabilities` (N, classes) are those of the answer that counts."""
        final = len(answered) - 1 - (answered[::-1] >= 0).argmax(0)
        right = answered == labels
        in_the_end = right[final, np.arange(len(labels))]
        doubts = 1.0 - probabilities.max(1)
        for level in range(len(answered)):
            own, handed = final == level, (answered[level] >= 0) & (final > level)
            told = np.array(
                [
                    (~right[level])[own].sum(),
                    doubts[own].sum(),
                    (~right[level])[handed].sum(),
                    (in_the_end.astype(float) - right[level])[handed].sum(),
                ]
            )
            counts = np.array([own.sum(), own.sum(), handed.sum(), handed.sum()])
            self._sums[level] = np.exp(-counts / MEMORY) * self._sums[level] + told
            # What nothing has told of for so long is as on the search split again: a level that hands no image on, as
            # that was worth nothing, would else never learn that it is again.
            self._silent[level] = np.where(counts > 0, 0, self._silent[level] + counts.max())
            forgotten = self._silent[level] > MEMORY
            self._sums[level, forgotten] = PRIOR * self._expected[level, forgotten]


def _ratios(shares: Floats) -> Floats:
    """(levels, 2): errors for the doubt there is, and errors set right, of the shares (levels, 4) or sums of them."""
    error, doubt, handed_error, handed_gain = shares.T
    return np.stack([error / doubt, np.maximum(handed_gain, 0.0) / handed_error], axis=1)

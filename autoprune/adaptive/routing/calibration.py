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
from autoprune.errors import shown

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
    probabilities = answers.probabilities[route.final, np.arange(len(route.final))]
    sums, counts = _told(answers.right, route, probabilities)
    return tuple(LevelCalibration(*shares) for shares in (sums / np.maximum(counts, 1)).tolist())


def _told(right: NDArray[np.bool_], route: Route, probabilities: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """(levels, 4) each: what images with labels come to of the shares of a `LevelCalibration`, and how many each is of.

    `right` (levels, N) is which images each level classifies right; `probabilities` (N, classes) are those of the
    answer that counts.
    """
    levels = np.arange(len(right))[:, None]
    own, handed = route.final == levels, route.ran & (route.final > levels)
    gain = right[route.final, np.arange(len(route.final))].astype(float) - right
    doubt = (1.0 - probabilities.max(1)).astype(float)
    sums = [own & ~right, own * doubt, handed & ~right, handed * gain]
    counts = [own, own, handed, handed]
    return np.stack([part.sum(1) for part in sums], 1).astype(float), np.stack([part.sum(1) for part in counts], 1)


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
        told, counts = _told(answered == labels, Route(answered >= 0, final), probabilities)
        self._sums = np.exp(-counts / MEMORY) * self._sums + told
        # What nothing has told of for so long is as on the search split again: a level that hands no image on, as that
        # was worth nothing, would else never learn that it is again.
        self._silent = np.where(counts > 0, 0, self._silent + counts.max(1, keepdims=True))
        self._sums = np.where(self._silent > MEMORY, PRIOR * self._expected, self._sums)


def _ratios(shares: Floats) -> Floats:
    """(levels, 2): errors for the doubt there is, and errors set right, of the shares (levels, 4) or sums of them."""
    error, doubt, handed_error, handed_gain = shares.T
    return np.stack([error / doubt, np.maximum(handed_gain, 0.0) / handed_error], axis=1)

"""How far a level's confidence can be believed, and what delayed labels tell of it.

A level that is right as often as its largest probability says is calibrated (Guo et al. 2017). Where inputs drift it
gets surer than it should be, and a router that goes by its answers stops too soon. Labels of images that it answered
show that: it is then wrong more often, for the doubt that it has, than it was on the search split.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.routing import LevelAnswers, Route

MEMORY = 1000  # labels of a level after which an older one counts 1/e
PRIOR = 300  # labels that what is known from the search split counts as
LARGEST_CHANGE = 16.0  # of what going on is worth
LEAST_DOUBT = 1e-4  # a level that is never wrong is not believed to be


@dataclass(frozen=True)
class LevelCalibration:
    """Of the images that a level answers: how many it gets wrong, and how many it says that it does."""

    error: float  # 0..1
    doubt: float  # 1 less its largest probability, the mean


def calibrations(route: Route, answers: LevelAnswers) -> tuple[LevelCalibration | None, ...]:
    """Of each level on the images that it answers; None if it answers none."""
    found: list[LevelCalibration | None] = []
    for level in range(answers.levels):
        own = route.final == level
        error = 1.0 - answers.right[level, own].mean() if own.any() else 0.0
        doubt = 1.0 - answers.probabilities[level, own].max(1).mean() if own.any() else 0.0
        found.append(LevelCalibration(float(error), float(doubt)) if own.any() else None)
    return tuple(found)


def as_text(found: Sequence[LevelCalibration | None]) -> str:
    """JSON, for the metadata of a file."""
    return json.dumps([None if one is None else [one.error, one.doubt] for one in found])


def of_text(text: str) -> tuple[LevelCalibration | None, ...]:
    """Raises `ValueError` for a text that is not from `as_text`."""
    raw = json.loads(text)
    if not isinstance(raw, list):
        raise ValueError("not a list of levels")
    found: list[LevelCalibration | None] = []
    for one in raw:
        if one is not None and not (isinstance(one, list) and [type(value) for value in one] == [float, float]):
            raise ValueError(f"{one!r} is no pair of error and doubt")
        found.append(None if one is None else LevelCalibration(*one))
    return tuple(found)


class OnlineCalibration:
    """How much surer than they should be levels have become, by labels that arrive one day.

    `overconfidence` is 1 for a level that is what it was on the search split, 2 for one that is wrong twice as often
    for the doubt it has: what it stands to gain by going on is then twice what the router believes.
    """

    def __init__(self, expected: Sequence[LevelCalibration | None]) -> None:
        self._expected = tuple(expected)
        self._errors = np.array([PRIOR * one.error if one else 0.0 for one in expected])
        self._doubts = np.array([PRIOR * one.doubt if one else 0.0 for one in expected])

    @property
    def overconfidence(self) -> NDArray[np.float64]:
        """(levels,) within `LARGEST_CHANGE` of 1."""
        floor = PRIOR * LEAST_DOUBT
        now = (self._errors + floor) / (self._doubts + floor)
        before = np.array(
            [(one.error + LEAST_DOUBT) / (one.doubt + LEAST_DOUBT) if one else 1.0 for one in self._expected]
        )
        return np.asarray(np.clip(now / before, 1.0 / LARGEST_CHANGE, LARGEST_CHANGE))

    def learn(self, levels: NDArray[np.int64], probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """From images (N,) that `levels` answered with probabilities (N, classes), and their labels, in any order."""
        for level, expected in enumerate(self._expected):
            own = levels == level
            if expected is None or not own.any():
                continue
            kept = np.exp(-own.sum() / MEMORY)
            self._errors[level] = kept * self._errors[level] + (probabilities[own].argmax(1) != labels[own]).sum()
            self._doubts[level] = kept * self._doubts[level] + (1.0 - probabilities[own].max(1)).sum()

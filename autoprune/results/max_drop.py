"""How the least cost at which a model loses no more than `target.max_drop` is closed in on: bisection, by trials.

A trial asks for a share of the original's cost, gets the best policy below it, and says whether the fine-tuned model
holds. Accuracy is taken to fall with the cost. It is measured on views of a few thousand images, so that the end of
the bracket is no sharper than that: what is certain is what each trial was measured to lose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from autoprune.results.run import DropTrial

NARROW = 1.05  # a bracket whose ends differ by no more than this factor is not worth another fine-tuning
ROUNDING = 1e-9  # of a share; one image of a million is a thousand times as much


def part_name(number: int) -> str:
    """Of the part of the run's trials that trial `number` (from 1) writes."""
    return f"trial {number}"


@dataclass(frozen=True)
class Drop:
    """The share of images that one model gets right less that of another, on the same images; its standard error."""

    share: float
    se: float

    def within(self, max_drop: float) -> bool:
        return self.share <= max_drop + ROUNDING


def paired_drop(original_right: Tensor, candidate_right: Tensor) -> Drop:
    """From which images, both (views, N) bool, the original and the candidate get right.

    Images are drawn from a population, views of one are not: what counts is each image's mean difference over its
    views. With one view, b lost and c won, the difference is (b - c) / N and its variance
    (b + c - (b - c)^2 / N) / N^2 (the numbers of McNemar 1947). Images on which both are right or both wrong add no
    noise, which is why the same ones are compared.
    """
    differences = (original_right.double() - candidate_right.double()).mean(0)
    return Drop(differences.mean().item(), differences.std(correction=0).item() / math.sqrt(len(differences)))


def bracket(trials: Sequence[DropTrial], *, floor: float) -> tuple[float, float]:
    """Between which shares of the original's cost the least one lies that holds, as far as `trials` tell.

    The lower end is the highest limit that failed, at first the `floor`; the upper end is the lowest cost that held, at
    first the original's own. The ends may cross: accuracy is noisy.
    """
    low = max([floor, *(trial.ratio for trial in trials if not trial.accepted)])
    high = min([1.0, *(trial.reached for trial in trials if trial.accepted)])
    return low, high


def next_ratio(trials: Sequence[DropTrial], *, floor: float, max_trials: int) -> float | None:
    """The limit of the next trial, strictly within the bracket; None if that was the last.

    It is the middle on a logarithmic scale, but no less than half of what held: where the floor is far below, what
    holds is hardly near it. The `floor` is the share of its cost to which the original can be cut at most, below 1.
    """
    low, high = bracket(trials, floor=floor)
    if trials and (len(trials) >= max_trials or high <= low * NARROW):
        return None
    return max(math.sqrt(low * high), high / 2)


def kept_trial(trials: Sequence[DropTrial]) -> int:
    """The place of the trial that is the result: of those that hold the cheapest, or the one that comes nearest to it.

    Of equals it is the first, which was the one to be fine-tuned.
    """
    accepted = [place for place, trial in enumerate(trials) if trial.accepted]
    if accepted:
        return min(accepted, key=lambda place: (trials[place].reached, trials[place].drop))
    return min(range(len(trials)), key=lambda place: (trials[place].drop, trials[place].reached))

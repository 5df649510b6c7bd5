"""The reward of a candidate: a pure function of its score and its cost."""

import math
from dataclasses import dataclass

from autoprune.config import RewardConfig


@dataclass(frozen=True)
class Score:
    """How a candidate does on the search split; `kl` is KL(original || candidate) in nats, a mean over images."""

    kl: float
    cross_entropy: float
    top1: float
    images: int


def reward(score: Score, *, cost: float, original_cost: float, config: RewardConfig) -> float:
    """The accuracy part, joined with the cost part as `config.form` says; higher is better.

    `cost` and `original_cost` are of the metric `config.cost`, in any one unit. The form "amc" is -error * log(cost)
    (He et al. 2018, equation 4) with the cost in units of a thousandth of the original's, so that the logarithm stays
    positive and the reward has no unit.
    """
    if config.form == "amc":
        return -(1.0 - score.top1) * math.log(max(1000.0 * cost / original_cost, 1.0))
    accuracy_part = {"kl": -score.kl, "cross_entropy": -score.cross_entropy, "top1": score.top1}[config.accuracy]
    if config.form == "constrained":
        return accuracy_part
    return accuracy_part - config.cost_weight * cost / original_cost

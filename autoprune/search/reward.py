"""The reward of a candidate: a pure function of its score and its cost, in one of several forms or a user's own."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

from autoprune.config import Metric, RewardConfig
from autoprune.foundation.errors import InputError, shown
from autoprune.foundation.factories import check_call, load_factory
from autoprune.store.score import Score

# Of a score, and of the cost as a share of the original's; pure, and no lower where a score is better.
RewardForm = Callable[[Score, float], float]
FIELD = "search.reward.form"


@dataclass(frozen=True)
class Reward:
    """What a candidate is worth: `form` of its score and of its cost in `metric`, as a share of the original's."""

    form: RewardForm
    metric: Metric

    def __call__(self, score: Score, *, cost: float, original_cost: float) -> float:
        """Higher is better; the costs are in any one unit. Raises `InputError` for what is no finite number."""
        found = self.form(score, cost / original_cost)
        if not isinstance(found, numbers.Real) or not math.isfinite(found):
            raise InputError(f"{FIELD}: gave {shown(found)} for {score}; a reward is a finite number")
        return float(found)


def make_reward(config: RewardConfig) -> Reward:
    """The reward that a configuration asks for; `config.form` may be a user's own `path/file.py:function`.

    Raises `InputError` for a file that does not give a function.
    """
    accuracy = ACCURACIES[config.accuracy]

    def constrained(score: Score, cost_ratio: float) -> float:
        return accuracy(score)

    def weighted(score: Score, cost_ratio: float) -> float:
        return accuracy(score) - config.cost_weight * cost_ratio

    forms: dict[str, RewardForm] = {"constrained": constrained, "weighted": weighted, "amc": amc}
    form = forms.get(config.form)
    if form is None:
        form = load_factory(config.form, field=FIELD)
        check_call(form, Score, 1.0, field=f"{FIELD}={config.form}")
    return Reward(form, config.cost)


def amc(score: Score, cost_ratio: float) -> float:
    """-error * log(cost) (He et al. 2018, equation 4), the cost in units of a thousandth of the original's, so that the
    logarithm stays positive and the reward has no unit."""
    return -(1.0 - score.top1) * math.log(max(1000.0 * cost_ratio, 1.0))


ACCURACIES: dict[str, Callable[[Score], float]] = {
    "kl": lambda score: -score.kl,
    "cross_entropy": lambda score: -score.cross_entropy,
    "top1": lambda score: score.top1,
}

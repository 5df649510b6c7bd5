"""The reward of a candidate: a pure function of its score and its cost, in one of several forms or a user's own."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

from autoprune.config import CostName, RewardConfig
from autoprune.errors import InputError, shown
from autoprune.foundation.factories import check_call, load_factory
from autoprune.store.score import Score

# Of a score, and of the cost as a share of the original's; pure, and no lower where a score is better.
RewardForm = Callable[[Score, float], float]
FIELD = "search.reward.form"


@dataclass(frozen=True)
class Reward:
    """What a candidate is worth: `form` of its score and of its cost in `metric`, as a share of the original's."""

    form: RewardForm
    metric: CostName

    def __call__(self, score: Score, *, cost: float, original_cost: float) -> float:
        """Higher is better; the costs are in any one unit. Raises `InputError` for what is no finite number."""
        found = self.form(score, cost / original_cost)
        if not isinstance(found, numbers.Real) or not math.isfinite(found):
            raise InputError(f"{FIELD}: gave {shown(found)} for {score}; a reward is a finite number")
        return float(found)


@dataclass(frozen=True)
class Weighted:
    """A metric, less so much of the cost."""

    metric: str
    cost_weight: float

    def __call__(self, score: Score, cost_ratio: float) -> float:
        return merit(score, self.metric) - self.cost_weight * cost_ratio


def make_reward(config: RewardConfig) -> Reward:
    """The reward that a configuration asks for; `config.form` may be a user's own `path/file.py:function`.

    Raises `InputError` for a file that does not give a function.
    """
    forms: dict[str, RewardForm] = {
        "constrained": Weighted(config.accuracy, 0.0),
        "weighted": Weighted(config.accuracy, config.cost_weight),
        "amc": amc,
    }
    form = forms.get(config.form)
    if form is None:
        form = load_factory(config.form, field=FIELD)
        check_call(form, Score, 1.0, field=f"{FIELD}={config.form}")
    return Reward(form, config.cost)


def amc(score: Score, cost_ratio: float) -> float:
    """-error * log(cost) (He et al. 2018, equation 4), the cost in units of a thousandth of the original's, so that the
    logarithm stays positive and the reward has no unit."""
    name, metric = score.main
    if not metric.is_share:
        raise InputError(
            f"{FIELD}: amc is for a share of right answers, the task's {name} is none; choose another form"
        )
    error = 1.0 - metric.value if metric.higher_is_better else metric.value
    return -error * math.log(max(1000.0 * cost_ratio, 1.0))


def merit(score: Score, name: str) -> float:
    """A metric by name, with the sign that makes higher values better. Raises `InputError` for one that the task has
    not."""
    if name not in score.metrics:
        raise InputError(f"search.reward.accuracy: the task has no metric {name}; it has {', '.join(score.metrics)}")
    return score.metrics[name].merit

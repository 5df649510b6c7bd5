"""A reward form: right answers, less what the cost is above a goal, as TuNAS has it (Bender et al. 2020, equation 2).

`search.reward: {form: examples/plugins/soft_target.py:soft_target, cost: macs}`
"""

from autoprune.store.score import Score

GOAL, WEIGHT = 0.4, 0.5  # of the original's cost; for each share above or below it


def soft_target(score: Score, cost_ratio: float) -> float:
    return score.top1 - WEIGHT * abs(cost_ratio / GOAL - 1.0)

"""A knapsack of options: the policy that loses least under the limits, by exchanges of options until none gains.

HALP (Shen et al. 2022) fills a knapsack with neurons under a table of measured latencies; here the items are the
options of the decisions and the costs those that the problem predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.search.problem import PredictedProblem, meets

Options = NDArray[np.int64]  # one option of each decision

COUPLED = 1e-6  # of the original's cost: two decisions whose cuts save less than this more or less together are apart
LEEWAY = 2e-3  # of a limit: by so much the sums may be too high where the prediction is no sum of pairs
LEAST_GAIN = 1e-9  # of the loss: smaller gains are rounding


@dataclass(frozen=True)
class PairwiseCosts:
    """Costs as a sum over decisions and pairs of decisions, which is exact where no layer depends on more than two
    decisions.

    o options in all. m metrics, those of the limits.
    """

    decision: NDArray[np.int64]  # (o,) index of the option's decision
    option: NDArray[np.int64]  # (o,)
    base: NDArray[np.float64]  # (m,) the cost of the options around which it was measured
    alone: NDArray[np.float64]  # (m, o) what an option adds to it
    together: NDArray[np.float64]  # (m, o, o) what two options of different decisions add beyond that; symmetric

    def of(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """The costs (m,) of the options `chosen` (decisions,), one of each decision."""
        pairs = self.together[:, chosen[:, None], chosen]
        return np.asarray(self.base + self.alone[:, chosen].sum(1) + pairs.sum((1, 2)) / 2.0)

    def after_exchange(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """The costs (m, o, o) with two options put in place of those of their decisions."""
        old = chosen[self.decision]  # (o,) the option that each one would replace
        added = self.alone + self.together[:, :, chosen].sum(2)
        change = added - added[:, old]  # (m, o) of one exchange
        both = self.together - self.together[:, :, old] - self.together[:, old, :] + self.together[:, old][:, :, old]
        return np.asarray(self.of(chosen)[:, None, None] + change[:, :, None] + change[:, None, :] + both)


def measure_pairwise(problem: PredictedProblem, around: Sequence[int]) -> PairwiseCosts:
    """Predict what each option, and each two options of decisions that are coupled, change of the cost of `around`.

    Whether two decisions are coupled is seen from their options farthest from `around`; the options of others need no
    pairs.
    """
    decisions = problem.decisions
    metrics = [limit.metric for limit in problem.limits]
    sizes = [len(decision.ladder) for decision in decisions]
    first = np.cumsum([0, *sizes[:-1]])  # option of each decision's option 0

    def cost(changed: dict[int, int]) -> NDArray[np.float64]:
        options = [changed.get(index, option) for index, option in enumerate(around)]
        predicted = problem.predict(tuple(options))
        return np.array([predicted.of(metric) for metric in metrics])

    base = cost({})
    alone = np.zeros((len(metrics), sum(sizes)))
    together = np.zeros((len(metrics), sum(sizes), sum(sizes)))
    for i, size in enumerate(sizes):
        for option in range(size):
            alone[:, first[i] + option] = cost({i: option}) - base
    scale = np.array([problem.original_cost.of(metric) for metric in metrics])
    farthest = [0 if 2 * option >= size - 1 else size - 1 for option, size in zip(around, sizes, strict=True)]

    def interaction(i: int, a: int, j: int, b: int) -> NDArray[np.float64]:
        return np.asarray(cost({i: a, j: b}) - base - alone[:, first[i] + a] - alone[:, first[j] + b])

    for i in range(len(decisions)):
        for j in range(i):
            if (np.abs(interaction(i, farthest[i], j, farthest[j])) <= COUPLED * scale).all():
                continue
            for a in range(sizes[i]):
                for b in range(sizes[j]):
                    both = interaction(i, a, j, b)
                    together[:, first[i] + a, first[j] + b] = together[:, first[j] + b, first[i] + a] = both
    group_of = np.repeat(np.arange(len(decisions)), sizes)
    option_of = np.concatenate([np.arange(size) for size in sizes])
    return PairwiseCosts(group_of, option_of, base, alone, together)


def exchange(
    problem: PredictedProblem, costs: PairwiseCosts, options: Sequence[int], losses: Sequence[Sequence[float]]
) -> list[int]:
    """Exchange the options of one, two or three decisions at a time for some that lose less in sum, until there are
    none.

    `options` must meet the limits, and so do those returned: `costs` only say which exchanges are worth a prediction.
    """
    loss = np.concatenate([np.asarray(ladder, dtype=np.float64) for ladder in losses])  # (o,)
    least = LEAST_GAIN * float(loss.max())
    chosen = np.flatnonzero(costs.option == np.asarray(options)[costs.decision])  # (decisions,) options
    while True:
        better = _exchanged_pair(problem, costs, chosen, loss, least)
        if better is None:
            better = _exchanged_triple(problem, costs, chosen, loss, least)
        if better is None:
            return [int(option) for option in costs.option[chosen]]
        chosen = better


def _exchanged_triple(
    problem: PredictedProblem, costs: PairwiseCosts, chosen: Options, loss: NDArray[np.float64], least: float
) -> Options | None:
    """The first exchange of a pair that gains, with a third decision put at another option before."""
    for option in np.flatnonzero(chosen[costs.decision] != np.arange(len(loss))):
        forced = chosen.copy()
        forced[costs.decision[option]] = option
        lost = float((loss[forced] - loss[chosen]).sum())
        if (better := _exchanged_pair(problem, costs, forced, loss, least + lost)) is not None:
            return better
    return None


def _exchanged_pair(
    problem: PredictedProblem, costs: PairwiseCosts, chosen: Options, loss: NDArray[np.float64], least: float
) -> Options | None:
    """The exchange of one or two options of `chosen` that meets the limits and gains most, if that is above `least`."""
    bounds = np.array([limit.max_value for limit in problem.limits])
    gain = loss[chosen][costs.decision] - loss  # (o,)
    gains = gain[:, None] + gain[None, :]
    # Each pair once. One of its options may be the present one: then a single option is exchanged.
    wanted = (costs.decision[:, None] > costs.decision[None, :]) & (gains > least)
    if not wanted.any():
        return None
    fits = (costs.after_exchange(chosen) <= (1.0 + LEEWAY) * bounds[:, None, None]).all(0)
    first, second = np.nonzero(wanted & fits)
    for place in np.argsort(-gains[first, second], kind="stable"):
        exchanged = chosen.copy()
        for option in (first[place], second[place]):
            exchanged[costs.decision[option]] = option
        policy = tuple(costs.option[exchanged].tolist())
        if meets(problem.predict(policy), problem.limits):
            return exchanged
    return None

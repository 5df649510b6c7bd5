"""Policies from predictions and sensitivities alone: they cost no evaluation and warm-start the agents."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from autoprune.envs.action import nearest_option
from autoprune.envs.observation import tightest_limit
from autoprune.foundation.seeding import rng
from autoprune.policies.knapsack import PairwiseCosts, exchange, measure_pairwise
from autoprune.search.problem import PredictedProblem, meets
from autoprune.space.decision import Decision, Policy, floor_policy, full_policy

Losses = Sequence[Sequence[float]]
"""What is lost at each option of each decision, in nats."""

Shape = Callable[[Decision], Sequence[float]]
"""How much of a decision each of its options removes, 0..1."""

EXPONENTS = (1.0, 1.5, 2.0, 3.0)
ADAPTED_EXPONENT = 2.0
EXPONENT_RANGE = (0.7, 3.0)
SENSITIVITY_SPREAD = 1.0  # standard deviation of the logarithm of the factors: 2.7 times up or down
MIN_SENSITIVITY = 1e-6  # nats; measured on finite data, a sensitivity can come out as 0 or just below


def cut_share(decision: Decision) -> tuple[float, ...]:
    """The share of the decision's channels that each option removes."""
    return tuple(1.0 - channels / decision.channels for channels in decision.ladder)


def lost_importance(decision: Decision) -> tuple[float, ...]:
    """The share of the decision's importance that each option removes."""
    return decision.lost_importance


SHAPES: tuple[Shape, ...] = (cut_share, lost_importance)


def demonstrations(problem: PredictedProblem) -> tuple[Policy, ...]:
    """A few distinct policies that meet every limit, so that they leave most of a small budget.

    What is known from elsewhere comes first, brought under these limits. Then at most ten others: the largest of one
    threshold on importance and of one keep ratio, and all that the knapsack searcher evaluates, so that an agent which
    starts from them is never worse than it.
    """
    policies = (
        *(adapted(problem, policy) for policy in problem.known),
        largest_feasible(problem, magnitude_policies(problem)),
        largest_feasible(problem, uniform_policies(problem)),
        *knapsack_policies(problem),
    )
    return tuple(dict.fromkeys(policies))


def adapted(problem: PredictedProblem, policy: Policy) -> Policy:
    """`policy`, cut further until every limit is met, then filled up to the limits."""
    losses = modelled_losses(problem.decisions, exponent=ADAPTED_EXPONENT)
    return tuple(fill(problem, cut(problem, policy, losses), losses))


def largest_feasible(problem: PredictedProblem, policies: Iterable[Policy]) -> Policy:
    """The first that meets every limit of policies that go from full to floor."""
    return next(policy for policy in policies if _meets(problem, policy))


def varied_policies(problem: PredictedProblem, count: int, *, seed: int) -> tuple[Policy, ...]:
    """At most `count` policies close under the limits: greedy ones, for sensitivities that chance has varied.

    Every second one takes all decisions for equally sensitive before chance varies them, or decisions whose sensitivity
    is overrated (as that of a residual trunk cut alone) would never be narrow.
    """
    chance = rng(seed, "varied policies")
    found: dict[Policy, None] = {}
    for number in range(2 * count):
        if len(found) == count:
            break
        factors = np.exp(chance.normal(0.0, SENSITIVITY_SPREAD, len(problem.decisions)))
        decisions = []
        for decision, factor in zip(problem.decisions, factors, strict=True):
            measured = max(decision.sensitivity, MIN_SENSITIVITY)
            scale = float(factor) / (measured if number % 2 else 1.0)
            decisions.append(replace(decision, sensitivity=scale * measured, branch_loss=scale * decision.branch_loss))
        losses = modelled_losses(decisions, exponent=float(chance.uniform(*EXPONENT_RANGE)))
        found[tuple(fill(problem, cut(problem, full_policy(problem.decisions), losses), losses))] = None
    return tuple(found)


def uniform_policies(problem: PredictedProblem) -> tuple[Policy, ...]:
    """Every policy that one keep ratio for all decisions, snapped to the nearest options, can give; from full to
    floor."""
    shares = [[channels / decision.channels for channels in decision.ladder] for decision in problem.decisions]
    # The nearest option of a decision changes half-way between two shares: one ratio from each interval gives all
    # policies.
    changes = sorted({(low + high) / 2 for ladder in shares for low, high in itertools.pairwise(ladder)}, reverse=True)
    ratios = [(high + low) / 2 for high, low in itertools.pairwise([1.0, *changes, 0.0])]
    policies = (tuple([nearest_option(ratio, decision) for decision in problem.decisions]) for ratio in ratios)
    return tuple(dict.fromkeys(policies))


def magnitude_policies(problem: PredictedProblem) -> tuple[Policy, ...]:
    """Every policy that one threshold on the normalised importance of channels can give; from full to floor.

    As Torch-Pruning's global pruning, at the options: a decision goes down while the channels between two options,
    which go together, are no more important in the mean than the threshold.
    """
    means = []  # importance of the channels that each option removes and the next wider one keeps
    for decision in problem.decisions:
        steps = itertools.pairwise(zip(decision.ladder, decision.lost_importance, strict=True))
        lost = [(below - above) * decision.channels / (wide - narrow) for (narrow, below), (wide, above) in steps]
        means.append([*lost, -math.inf])
    return threshold_policies(problem.decisions, means)


def threshold_policies(decisions: Sequence[Decision], prices: Sequence[Sequence[float]]) -> tuple[Policy, ...]:
    """Every policy that one threshold for all decisions can give; from full to floor.

    A decision goes down while the price of its next option is at most the threshold.
    """
    # The highest price on the way from full: what is asked of an option is that it can be reached.
    reached = [list(itertools.accumulate(reversed(ladder), max)) for ladder in prices]
    thresholds = sorted({price for ladder in reached for price in ladder})
    policies = (tuple([sum(price > threshold for price in ladder) for ladder in reached]) for threshold in thresholds)
    return tuple(dict.fromkeys(policies))


def knapsack_policies(
    problem: PredictedProblem, *, shapes: Sequence[Shape] = SHAPES, exponents: Sequence[float] = EXPONENTS
) -> Iterator[Policy]:
    """For each shape and exponent of the modelled losses, the policy that loses least in sum under the limits.

    The losses are modelled, the costs predicted: none of it takes an evaluation.
    """
    decisions = problem.decisions
    uniform = largest_feasible(problem, uniform_policies(problem))
    costs = measure_pairwise(problem, uniform)
    for shape, exponent in itertools.product(shapes, exponents):
        losses = modelled_losses(decisions, exponent=exponent, shape=shape)
        yield tuple(least_loss(problem, costs, losses, uniform))


def least_loss(problem: PredictedProblem, costs: PairwiseCosts, losses: Losses, uniform: Sequence[int]) -> list[int]:
    """The options with the lowest sum of `losses` to which exchanges lead.

    One start may end where no exchange gains though other options lose less; three starts hardly ever do: greed from
    full and from the floor, and `uniform`, any options that meet the limits.
    """
    full, floor = full_policy(problem.decisions), floor_policy(problem.decisions)
    starts = (fill(problem, cut(problem, full, losses), losses), fill(problem, floor, losses), uniform)
    ends = [exchange(problem, costs, start, losses) for start in starts]
    return min(ends, key=lambda options: sum(ladder[option] for ladder, option in zip(losses, options, strict=True)))


def modelled_losses(decisions: Sequence[Decision], *, exponent: float, shape: Shape = cut_share) -> Losses:
    """s * (shape / shape at the middle option) ** exponent for each option; s is the sensitivity, measured there.

    What is lost with a branch that is gone is measured too. An exponent of 1 makes it cheapest to cut few decisions
    deep, a larger one spreads the cuts.
    """
    losses = []
    for decision in decisions:
        cuts = shape(decision)
        middle_cut = cuts[decision.middle_option] or 1.0  # a ladder of one option has no cut
        sensitivity = max(decision.sensitivity, MIN_SENSITIVITY)
        modelled = [sensitivity * (cut / middle_cut) ** exponent for cut in cuts]
        if decision.may_go:  # measured, and never less than that of a narrow branch
            modelled[0] = max(decision.branch_loss, *modelled[1:2])
        losses.append(modelled)
    return losses


def cut(problem: PredictedProblem, options: Sequence[int], losses: Losses) -> list[int]:
    """Lower one decision at a time, the one that loses least per cost saved, until every limit is met.

    A step goes down to the next option that saves cost (latency is no monotone function of the width).
    """
    lowered = list(options)
    while not _meets(problem, tuple(lowered)):
        cost = problem.predict(tuple(lowered))
        metric = tightest_limit(problem, cost).metric
        choices: list[tuple[bool, float, int, int]] = []  # (saves nothing, price, decision, option)
        for index, decision_losses in enumerate(losses):
            for option in range(lowered[index] - 1, -1, -1):
                candidate = (*lowered[:index], option, *lowered[index + 1 :])
                saved = cost.of(metric) - problem.predict(candidate).of(metric)
                lost = decision_losses[option] - decision_losses[lowered[index]]
                choices.append((saved <= 0.0, lost / saved if saved > 0.0 else lost, index, option))
                if saved > 0.0:
                    break
        *_, index, option = min(choices)
        lowered[index] = option
    return lowered


def fill(
    problem: PredictedProblem, options: Sequence[int], losses: Losses, *, ceiling: Sequence[int] | None = None
) -> list[int]:
    """Raise one decision at a time, the one that wins back most, while the limits leave room; none above `ceiling`."""
    decisions, raised = problem.decisions, list(options)
    highest = full_policy(decisions) if ceiling is None else ceiling
    while True:
        choices: list[tuple[float, int, int]] = []  # (won back, decision, option)
        for index in range(len(decisions)):
            for option in range(raised[index] + 1, highest[index] + 1):
                candidate = (*raised[:index], option, *raised[index + 1 :])
                if _meets(problem, candidate):
                    choices.append((losses[index][raised[index]] - losses[index][option], index, option))
        if not choices:
            return raised
        _, index, option = max(choices)
        raised[index] = option


def nested(problem: PredictedProblem, policy: Policy, within: Policy) -> Policy:
    """`policy`, no decision wider than in `within`; what that saves goes to decisions that may be wider, up to the
    limits."""
    decisions, ceiling = problem.decisions, within
    narrowed = [min(pair) for pair in zip(policy, ceiling, strict=True)]
    losses = modelled_losses(decisions, exponent=ADAPTED_EXPONENT)
    return tuple(fill(problem, narrowed, losses, ceiling=ceiling))


def _meets(problem: PredictedProblem, policy: Policy) -> bool:
    return meets(problem.predict(policy), problem.limits)


HEURISTICS: Mapping[str, Callable[[PredictedProblem], Iterable[Policy]]] = {
    "uniform": uniform_policies,
    "global_magnitude": magnitude_policies,
    "knapsack": knapsack_policies,
}

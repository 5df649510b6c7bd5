"""Policies from predictions and sensitivities alone: they cost no evaluation and warm-start the agents."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from autoprune.envs.action import nearest_rung, policy_of_rungs, rungs_of
from autoprune.envs.observation import tightest_limit
from autoprune.foundation.seeding import rng
from autoprune.policies.knapsack import PairwiseCosts, exchange, measure_pairwise
from autoprune.search.problem import PredictedProblem, SearchGroup, meets
from autoprune.space.policy import PruningPolicy

Losses = Sequence[Sequence[float]]
"""What is lost at each rung of each group, in nats."""

Shape = Callable[[SearchGroup], Sequence[float]]
"""How much of a group each of its rungs removes, 0..1."""

EXPONENTS = (1.0, 1.5, 2.0, 3.0)
ADAPTED_EXPONENT = 2.0
EXPONENT_RANGE = (0.7, 3.0)
SENSITIVITY_SPREAD = 1.0  # standard deviation of the logarithm of the factors: 2.7 times up or down
MIN_SENSITIVITY = 1e-6  # nats; measured on finite data, a sensitivity can come out as 0 or just below


def cut_share(group: SearchGroup) -> tuple[float, ...]:
    """The share of the group's channels that each rung removes."""
    return tuple(1.0 - channels / group.channels for channels in group.ladder)


def lost_importance(group: SearchGroup) -> tuple[float, ...]:
    """The share of the group's importance that each rung removes."""
    return group.lost_importance


SHAPES: tuple[Shape, ...] = (cut_share, lost_importance)


def demonstrations(problem: PredictedProblem) -> tuple[PruningPolicy, ...]:
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


def adapted(problem: PredictedProblem, policy: PruningPolicy) -> PruningPolicy:
    """`policy` on the nearest rungs, cut further until every limit is met, then filled up to the limits."""
    channels = policy.as_dict()
    losses = modelled_losses(problem.groups, exponent=ADAPTED_EXPONENT)
    rungs = [nearest_rung(channels[group.name] / group.channels, group) for group in problem.groups]
    return policy_of_rungs(problem.groups, fill(problem, cut(problem, rungs, losses), losses))


def largest_feasible(problem: PredictedProblem, policies: Iterable[PruningPolicy]) -> PruningPolicy:
    """The first that meets every limit of policies that go from full to floor."""
    return next(policy for policy in policies if _meets(problem, policy))


def varied_policies(problem: PredictedProblem, count: int, *, seed: int) -> tuple[PruningPolicy, ...]:
    """At most `count` policies close under the limits: greedy ones, for sensitivities that chance has varied.

    Every second one takes all groups for equally sensitive before chance varies them, or groups whose sensitivity is
    overrated (as that of a residual trunk cut alone) would never be narrow.
    """
    chance = rng(seed, "varied policies")
    found: dict[PruningPolicy, None] = {}
    for number in range(2 * count):
        if len(found) == count:
            break
        factors = np.exp(chance.normal(0.0, SENSITIVITY_SPREAD, len(problem.groups)))
        groups = []
        for group, factor in zip(problem.groups, factors, strict=True):
            measured = max(group.sensitivity, MIN_SENSITIVITY)
            scale = float(factor) / (measured if number % 2 else 1.0)
            groups.append(replace(group, sensitivity=scale * measured, branch_loss=scale * group.branch_loss))
        losses = modelled_losses(groups, exponent=float(chance.uniform(*EXPONENT_RANGE)))
        full = [len(group.ladder) - 1 for group in problem.groups]
        found[policy_of_rungs(problem.groups, fill(problem, cut(problem, full, losses), losses))] = None
    return tuple(found)


def uniform_policies(problem: PredictedProblem) -> tuple[PruningPolicy, ...]:
    """Every policy that one keep ratio for all groups, snapped to the nearest rungs, can give; from full to floor."""
    shares = [[channels / group.channels for channels in group.ladder] for group in problem.groups]
    # The nearest rung of a group changes half-way between two shares: one ratio from each interval gives all policies.
    changes = sorted({(low + high) / 2 for ladder in shares for low, high in itertools.pairwise(ladder)}, reverse=True)
    ratios = [(high + low) / 2 for high, low in itertools.pairwise([1.0, *changes, 0.0])]
    policies = (
        policy_of_rungs(problem.groups, [nearest_rung(ratio, group) for group in problem.groups]) for ratio in ratios
    )
    return tuple(dict.fromkeys(policies))


def magnitude_policies(problem: PredictedProblem) -> tuple[PruningPolicy, ...]:
    """Every policy that one threshold on the normalised importance of channels can give; from full to floor.

    As Torch-Pruning's global pruning, at the rungs: a group goes down while the channels between two rungs, which go
    together, are no more important in the mean than the threshold.
    """
    means = []  # importance of the channels that each rung removes and the next wider one keeps
    for group in problem.groups:
        steps = itertools.pairwise(zip(group.ladder, group.lost_importance, strict=True))
        lost = [(below - above) * group.channels / (wide - narrow) for (narrow, below), (wide, above) in steps]
        means.append([*lost, -math.inf])
    return threshold_policies(problem.groups, means)


def threshold_policies(groups: Sequence[SearchGroup], prices: Sequence[Sequence[float]]) -> tuple[PruningPolicy, ...]:
    """Every policy that one threshold for all groups can give; from full to floor.

    A group goes down while the price of its next rung is at most the threshold.
    """
    # The highest price on the way from full: what is asked of a rung is that it can be reached.
    reached = [list(itertools.accumulate(reversed(ladder), max)) for ladder in prices]
    thresholds = sorted({price for ladder in reached for price in ladder})
    policies = (
        policy_of_rungs(groups, [sum(price > threshold for price in ladder) for ladder in reached])
        for threshold in thresholds
    )
    return tuple(dict.fromkeys(policies))


def knapsack_policies(
    problem: PredictedProblem, *, shapes: Sequence[Shape] = SHAPES, exponents: Sequence[float] = EXPONENTS
) -> Iterator[PruningPolicy]:
    """For each shape and exponent of the modelled losses, the policy that loses least in sum under the limits.

    The losses are modelled, the costs predicted: none of it takes an evaluation.
    """
    groups = problem.groups
    uniform = rungs_of(groups, largest_feasible(problem, uniform_policies(problem)))
    costs = measure_pairwise(problem, uniform)
    for shape, exponent in itertools.product(shapes, exponents):
        losses = modelled_losses(groups, exponent=exponent, shape=shape)
        yield policy_of_rungs(groups, least_loss(problem, costs, losses, uniform))


def least_loss(problem: PredictedProblem, costs: PairwiseCosts, losses: Losses, uniform: Sequence[int]) -> list[int]:
    """The rungs with the lowest sum of `losses` to which exchanges lead.

    One start may end where no exchange gains though other rungs lose less; three starts hardly ever do: greed from full
    and from the floor, and `uniform`, any rungs that meet the limits.
    """
    full, floor = [len(group.ladder) - 1 for group in problem.groups], [0] * len(problem.groups)
    starts = (fill(problem, cut(problem, full, losses), losses), fill(problem, floor, losses), uniform)
    ends = [exchange(problem, costs, start, losses) for start in starts]
    return min(ends, key=lambda rungs: sum(ladder[rung] for ladder, rung in zip(losses, rungs, strict=True)))


def modelled_losses(groups: Sequence[SearchGroup], *, exponent: float, shape: Shape = cut_share) -> Losses:
    """s * (shape / shape at the middle rung) ** exponent for each rung; s is the sensitivity, measured there.

    What is lost with a branch that is gone is measured too. An exponent of 1 makes it cheapest to cut few groups deep,
    a larger one spreads the cuts.
    """
    losses = []
    for group in groups:
        cuts = shape(group)
        middle_cut = cuts[group.middle_rung] or 1.0  # a ladder of one rung has no cut
        sensitivity = max(group.sensitivity, MIN_SENSITIVITY)
        modelled = [sensitivity * (cut / middle_cut) ** exponent for cut in cuts]
        if group.may_go:  # measured, and never less than that of a narrow branch
            modelled[0] = max(group.branch_loss, *modelled[1:2])
        losses.append(modelled)
    return losses


def cut(problem: PredictedProblem, rungs: Sequence[int], losses: Losses) -> list[int]:
    """Lower one group at a time, the one that loses least per cost saved, until every limit is met.

    A step goes down to the next rung that saves cost (latency is no monotone function of the width).
    """
    groups, lowered = problem.groups, list(rungs)
    while not _meets(problem, policy_of_rungs(groups, lowered)):
        cost = problem.predict(policy_of_rungs(groups, lowered))
        metric = tightest_limit(problem, cost).metric
        choices: list[tuple[bool, float, int, int]] = []  # (saves nothing, price, group, rung)
        for index, group_losses in enumerate(losses):
            for rung in range(lowered[index] - 1, -1, -1):
                candidate = policy_of_rungs(groups, [*lowered[:index], rung, *lowered[index + 1 :]])
                saved = cost.of(metric) - problem.predict(candidate).of(metric)
                lost = group_losses[rung] - group_losses[lowered[index]]
                choices.append((saved <= 0.0, lost / saved if saved > 0.0 else lost, index, rung))
                if saved > 0.0:
                    break
        *_, index, rung = min(choices)
        lowered[index] = rung
    return lowered


def fill(
    problem: PredictedProblem, rungs: Sequence[int], losses: Losses, *, ceiling: Sequence[int] | None = None
) -> list[int]:
    """Raise one group at a time, the one that wins back most, while the limits leave room; none above `ceiling`."""
    groups, raised = problem.groups, list(rungs)
    highest = [len(group.ladder) - 1 for group in groups] if ceiling is None else ceiling
    while True:
        choices: list[tuple[float, int, int]] = []  # (won back, group, rung)
        for index in range(len(groups)):
            for rung in range(raised[index] + 1, highest[index] + 1):
                candidate = policy_of_rungs(groups, [*raised[:index], rung, *raised[index + 1 :]])
                if _meets(problem, candidate):
                    choices.append((losses[index][raised[index]] - losses[index][rung], index, rung))
        if not choices:
            return raised
        _, index, rung = max(choices)
        raised[index] = rung


def nested(problem: PredictedProblem, policy: PruningPolicy, within: PruningPolicy) -> PruningPolicy:
    """`policy`, no group wider than in `within`; what that saves goes to groups that may be wider, up to the limits."""
    groups, ceiling = problem.groups, rungs_of(problem.groups, within)
    narrowed = [min(pair) for pair in zip(rungs_of(groups, policy), ceiling, strict=True)]
    losses = modelled_losses(groups, exponent=ADAPTED_EXPONENT)
    return policy_of_rungs(groups, fill(problem, narrowed, losses, ceiling=ceiling))


def _meets(problem: PredictedProblem, policy: PruningPolicy) -> bool:
    return meets(problem.predict(policy), problem.limits)

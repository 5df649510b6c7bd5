"""Policies from predictions and sensitivities alone: they cost no evaluation and warm-start the agents."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoprune.envs.action import nearest_rung, policy_of_rungs
from autoprune.envs.observation import tightest_limit
from autoprune.policy import PruningPolicy
from autoprune.problem import PruningProblem, SearchGroup, meets
from autoprune.seeding import rng

Losses = Sequence[Sequence[float]]
"""What is lost at each rung of each group, in nats."""

EXPONENTS = (1.0, 1.5, 2.0, 3.0)
EXPONENT_RANGE = (0.7, 3.0)
SENSITIVITY_SPREAD = 1.0  # standard deviation of the logarithm of the factors: 2.7 times up or down
MIN_SENSITIVITY = 1e-6  # nats; measured on finite data, a sensitivity can come out as 0 or just below


def demonstrations(problem: PruningProblem) -> tuple[PruningPolicy, ...]:
    """Distinct policies that meet every limit: the largest uniform one, and a greedy one for each of `EXPONENTS`."""
    uniform = next(policy for policy in uniform_policies(problem) if _meets(problem, policy))
    policies = [uniform, *(greedy_policy(problem, exponent=exponent) for exponent in EXPONENTS)]
    return tuple(dict.fromkeys(policies))


def varied_policies(problem: PruningProblem, count: int, *, seed: int) -> tuple[PruningPolicy, ...]:
    """At most `count` policies close under the limits: greedy ones, for sensitivities that chance has varied."""
    chance = rng(seed, "varied policies")
    found: dict[PruningPolicy, None] = {}
    for _ in range(2 * count):
        if len(found) == count:
            break
        factors = np.exp(chance.normal(0.0, SENSITIVITY_SPREAD, len(problem.groups)))
        groups = [
            replace(group, sensitivity=max(group.sensitivity, MIN_SENSITIVITY) * float(factor))
            for group, factor in zip(problem.groups, factors, strict=True)
        ]
        losses = modelled_losses(groups, exponent=float(chance.uniform(*EXPONENT_RANGE)))
        full = [len(group.ladder) - 1 for group in problem.groups]
        found[policy_of_rungs(problem.groups, fill(problem, cut(problem, full, losses), losses))] = None
    return tuple(found)


def uniform_policies(problem: PruningProblem) -> tuple[PruningPolicy, ...]:
    """Every policy that one keep ratio for all groups, snapped to the nearest rungs, can give; from full to floor."""
    shares = [[channels / group.channels for channels in group.ladder] for group in problem.groups]
    # The nearest rung of a group changes half-way between two shares: one ratio from each interval gives all policies.
    changes = sorted({(low + high) / 2 for ladder in shares for low, high in itertools.pairwise(ladder)}, reverse=True)
    ratios = [(high + low) / 2 for high, low in itertools.pairwise([1.0, *changes, 0.0])]
    policies = (
        policy_of_rungs(problem.groups, [nearest_rung(ratio, group) for group in problem.groups]) for ratio in ratios
    )
    return tuple(dict.fromkeys(policies))


def greedy_policy(problem: PruningProblem, *, exponent: float) -> PruningPolicy:
    """A knapsack by greed: from full, cut what loses least per cost saved until every limit is met.

    `exponent` says how a group's loss grows with its cut (`modelled_losses`): 1 cuts few groups deep, a larger one
    spreads the cuts.
    """
    losses = modelled_losses(problem.groups, exponent=exponent)
    full = [len(group.ladder) - 1 for group in problem.groups]
    return policy_of_rungs(problem.groups, fill(problem, cut(problem, full, losses), losses))


def modelled_losses(groups: Sequence[SearchGroup], *, exponent: float) -> Losses:
    """s * ((1 - r) / (1 - r_mid)) ** exponent for each rung's keep ratio r.

    s is the sensitivity, measured at r_mid, the middle rung.
    """
    losses = []
    for group in groups:
        cuts = [1.0 - channels / group.channels for channels in group.ladder]
        middle_cut = cuts[group.middle_rung] or 1.0  # a ladder of one rung has no cut
        sensitivity = max(group.sensitivity, MIN_SENSITIVITY)
        losses.append([sensitivity * (cut / middle_cut) ** exponent for cut in cuts])
    return losses


def cut(problem: PruningProblem, rungs: Sequence[int], losses: Losses) -> list[int]:
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


def fill(problem: PruningProblem, rungs: Sequence[int], losses: Losses) -> list[int]:
    """Raise one group at a time, the one that wins back most, while the limits leave room."""
    groups, raised = problem.groups, list(rungs)
    while True:
        choices: list[tuple[float, int, int]] = []  # (won back, group, rung)
        for index in range(len(groups)):
            for rung in range(raised[index] + 1, len(groups[index].ladder)):
                candidate = policy_of_rungs(groups, [*raised[:index], rung, *raised[index + 1 :]])
                if _meets(problem, candidate):
                    choices.append((losses[index][raised[index]] - losses[index][rung], index, rung))
        if not choices:
            return raised
        _, index, rung = max(choices)
        raised[index] = rung


def _meets(problem: PruningProblem, policy: PruningPolicy) -> bool:
    return meets(problem.predict(policy), problem.limits)

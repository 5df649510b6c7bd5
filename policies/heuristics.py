"""Policies from predictions and sensitivities alone: they cost no evaluation and warm-start the agents."""

import itertools

from autoprune.envs.action import nearest_rung, policy_of_rungs
from autoprune.policy import PruningPolicy
from autoprune.problem import PruningProblem, SearchGroup, meets
from autoprune.envs.observation import tightest_limit

EXPONENTS = (1.0, 1.5, 2.0, 3.0)
MIN_SENSITIVITY = 1e-6  # nats; measured on finite data, a sensitivity can come out as 0 or just below


def demonstrations(problem: PruningProblem) -> tuple[PruningPolicy, ...]:
    """Distinct policies that meet every limit: the largest uniform one, and a greedy one for each of `EXPONENTS`."""
    uniform = next(policy for policy in uniform_policies(problem) if _meets(problem, policy))
    policies = [uniform, *(greedy_policy(problem, exponent=exponent) for exponent in EXPONENTS)]
    return tuple(dict.fromkeys(policies))


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
    """A knapsack by greed: from full, lower the rung that loses least per cost saved until every limit is met.

    The loss of a group at keep ratio r is modelled as s * ((1 - r) / (1 - r_mid)) ** exponent, where s is the
    sensitivity that was measured at r_mid, the middle rung: 1 cuts few groups deep, a larger exponent spreads the
    cuts. What the last cut saved too much is then given back to the groups that lost most.
    """
    groups = problem.groups
    rungs = [len(group.ladder) - 1 for group in groups]
    while not _meets(problem, policy_of_rungs(groups, rungs)):
        rungs = _cheapest_cut(problem, rungs, exponent)
    while (raised := _best_raise(problem, rungs, exponent)) is not None:
        rungs = raised
    return policy_of_rungs(groups, rungs)


def modelled_loss(group: SearchGroup, rung: int, exponent: float) -> float:
    """The loss of `group` at `rung` in nats, as `greedy_policy` models it."""
    middle_cut = 1.0 - group.ladder[len(group.ladder) // 2] / group.channels
    cut = 1.0 - group.ladder[rung] / group.channels
    if cut == 0.0:
        return 0.0
    # A ladder of two rungs has its middle at full width, where the sensitivity says nothing of the cut.
    relative = cut / middle_cut if middle_cut > 0.0 else 1.0
    return max(group.sensitivity, MIN_SENSITIVITY) * relative**exponent


def _cheapest_cut(problem: PruningProblem, rungs: list[int], exponent: float) -> list[int]:
    """Lower one group to its next rung that saves cost; if none saves any, lower the one that loses least."""
    groups = problem.groups
    cost = problem.predict(policy_of_rungs(groups, rungs))
    metric = tightest_limit(problem, cost).metric
    choices: list[tuple[bool, float, list[int]]] = []  # (saves nothing, price, rungs)
    for index, group in enumerate(groups):
        now = modelled_loss(group, rungs[index], exponent)
        for rung in range(rungs[index] - 1, -1, -1):
            lowered = [*rungs[:index], rung, *rungs[index + 1 :]]
            saved = cost.of(metric) - problem.predict(policy_of_rungs(groups, lowered)).of(metric)
            lost = modelled_loss(group, rung, exponent) - now
            choices.append((saved <= 0.0, lost / saved if saved > 0.0 else lost, lowered))
            if saved > 0.0:
                break
    return min(choices)[2]


def _best_raise(problem: PruningProblem, rungs: list[int], exponent: float) -> list[int] | None:
    """Raise one group to a higher rung within the limits, the one that wins back most; None if none fits."""
    groups = problem.groups
    choices: list[tuple[float, list[int]]] = []
    for index, group in enumerate(groups):
        for rung in range(rungs[index] + 1, len(group.ladder)):
            raised = [*rungs[:index], rung, *rungs[index + 1 :]]
            if _meets(problem, policy_of_rungs(groups, raised)):
                won = modelled_loss(group, rungs[index], exponent) - modelled_loss(group, rung, exponent)
                choices.append((won, raised))
    return max(choices)[1] if choices else None


def _meets(problem: PruningProblem, policy: PruningPolicy) -> bool:
    return meets(problem.predict(policy), problem.limits)

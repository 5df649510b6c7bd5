"""Exploration: roll-outs near the best known ones, of which the critic picks one that is worth an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from autoprune.envs.action import action_of, option_of
from autoprune.envs.observation import tightest_limit
from autoprune.envs.rollout import Act, RollOut, actions_of, roll_out
from autoprune.policies.heuristics import EXPONENTS, Losses, modelled_losses
from autoprune.policies.settings import Amount, Count, Noise, Share
from autoprune.search.problem import PredictedProblem, meets
from autoprune.space.decision import Decision, full_policy


@dataclass(frozen=True)
class Disturbance:
    """How policies are changed, and brought back under the limits."""

    changed_groups: Annotated[float, Field(ge=1, le=1e6)] = 2.5  # that get noise in an episode, on average
    fill: Share = 0.7  # how often what a proposal leaves under the limits is used up
    doubt: Amount = 0.7  # how far sensitivities are mistrusted: standard deviation of the noise on their logarithm


@dataclass(frozen=True)
class Exploration(Disturbance):
    """How far and how much to look around; the noise falls linearly from start to end over the budget."""

    proposals: Count = 32  # roll-outs per round
    episodes: Count = 4  # of them that are evaluated before the agent learns
    noise_start: Noise = 0.6  # standard deviation of the truncated normal noise on an action
    noise_end: Noise = 0.3
    toggle: Share = 0.3  # how often a proposal takes a branch away or brings one back, and changes nothing else
    greed: Share = 0.9  # how often the critic picks; otherwise the pick is random


def act_with(actor: nn.Module) -> Act:
    """The deterministic actor as the environment takes it."""

    def act(step: int, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            actions = actor(torch.from_numpy(observations))
        return np.asarray(actions.clamp(-1.0, 1.0).flatten(), dtype=np.float32)

    return act


def propose(
    problem: PredictedProblem,
    bases: Sequence[Sequence[int]],
    settings: Exploration,
    *,
    noise: float,
    rng: np.random.Generator,
) -> tuple[RollOut, ...]:
    """Roll-outs near `bases` (options of each decision): noise on a few decisions, paid for by others, played from the
    start.

    Noise on few decisions keeps what is good and shows which change did it; noise on all decisions at once, as in AMC,
    nearly always hurts when there are a hundred episodes and not a thousand. Clipping alone would let the last
    decisions pay for every wider one before them; here those pay that seem to lose least, by sensitivities with noise
    on them too.
    """
    decisions = problem.decisions
    savings = lone_savings(problem)
    moved = []
    for _ in range(settings.proposals):
        base = bases[int(rng.integers(len(bases)))]
        options, changed = vary(decisions, base, settings, noise=noise, rng=rng)
        options = settle(problem, options, settings, savings, keep=changed, rng=rng)
        moved.append(actions_of(problem, options))
    actions = np.stack(moved)  # (proposals, n)
    return roll_out(problem, lambda step, _: actions[:, step], count=len(actions))


def settle(
    problem: PredictedProblem,
    options: Sequence[int],
    settings: Disturbance,
    savings: Sequence[Sequence[float]],
    *,
    keep: frozenset[int],
    rng: np.random.Generator,
) -> list[int]:
    """Bring options under the limits, and often close to them, at the expense of decisions that are not in `keep`.

    Those pay that seem to lose least, by modelled losses that chance has varied.
    """
    doubt = rng.lognormal(0.0, settings.doubt, len(problem.decisions))
    exponent = float(rng.uniform(min(EXPONENTS), max(EXPONENTS)))
    losses = [
        [loss * factor for loss in ladder]
        for ladder, factor in zip(modelled_losses(problem.decisions, exponent=exponent), doubt, strict=True)
    ]
    paid = pay(problem, options, losses, savings, keep=keep)
    return refill(problem, paid, losses, keep=keep) if rng.random() < settings.fill else paid


def vary(
    decisions: Sequence[Decision], base: Sequence[int], settings: Exploration, *, noise: float, rng: np.random.Generator
) -> tuple[list[int], frozenset[int]]:
    """Noise on a few decisions, or one branch that goes or comes back; the options, and the decisions that changed.

    Which branches are gone decides how good the best widths of the rest can be, and noise on the width of a branch
    seldom takes it away.
    """
    branches = [index for index, decision in enumerate(decisions) if decision.may_go]
    if branches and rng.random() < settings.toggle:
        index = int(rng.choice(branches))
        options = list(base)
        options[index] = max(decisions[index].middle_option, 1) if base[index] == 0 else 0
        return options, frozenset([index])
    return disturb(decisions, base, settings.changed_groups, noise=noise, rng=rng)


def disturb(
    decisions: Sequence[Decision], base: Sequence[int], changes: float, *, noise: float, rng: np.random.Generator
) -> tuple[list[int], frozenset[int]]:
    """Truncated normal noise on the actions of about `changes` decisions; the options, and the decisions that
    changed."""
    count = min(1 + rng.poisson(changes - 1.0), len(decisions))
    changed = frozenset(int(index) for index in rng.choice(len(decisions), size=count, replace=False))
    options = list(base)
    for index in sorted(changed):
        decision = decisions[index]
        options[index] = option_of(truncated_normal(action_of(base[index], decision), noise, rng), decision)
        if options[index] == base[index]:  # too little to reach another option: take a neighbour
            options[index] = min(max(base[index] + int(rng.choice([-1, 1])), 0), len(decision.ladder) - 1)
    return options, changed


def lone_savings(problem: PredictedProblem) -> list[list[float]]:
    """What each option of each decision saves of the cost when the decision is cut alone; never less than a wider
    option."""
    decisions = problem.decisions
    full = full_policy(decisions)
    original = problem.original_cost
    metric = tightest_limit(problem, original).metric
    savings = []
    for index, decision in enumerate(decisions):
        cuts = [(*full[:index], option, *full[index + 1 :]) for option in range(len(decision.ladder))]
        alone = [original.of(metric) - problem.predict(policy).of(metric) for policy in cuts]
        savings.append([max(alone[option:]) for option in range(len(alone))])
    return savings


def pay(
    problem: PredictedProblem,
    options: Sequence[int],
    losses: Losses,
    savings: Sequence[Sequence[float]],
    *,
    keep: frozenset[int],
) -> list[int]:
    """Lower the decision that loses least per cost saved until every limit is met; those in `keep` (indices) last.

    Like `heuristics.cut`, with one prediction a step: the savings are those of decisions cut alone.
    """
    paid = list(options)
    while not meets(problem.predict(tuple(paid)), problem.limits):
        prices: list[tuple[bool, float, int, int]] = []  # (kept, price, decision, option)
        for index, now in enumerate(paid):
            for option in range(now - 1, -1, -1):
                saved = savings[index][option] - savings[index][now]
                if saved > 0.0 or option == 0:
                    price = (losses[index][option] - losses[index][now]) / max(saved, 1e-12)
                    prices.append((index in keep, price, index, option))
                    break
        *_, index, option = min(prices)
        paid[index] = option
    return paid


def refill(problem: PredictedProblem, options: Sequence[int], losses: Losses, *, keep: frozenset[int]) -> list[int]:
    """Raise decisions, those that lost most first, as far as the limits leave room; never those in `keep`."""
    filled = list(options)
    for index in sorted(set(range(len(filled))) - keep, key=lambda index: -losses[index][filled[index]]):
        for option in range(filled[index] + 1, len(problem.decisions[index].ladder)):
            raised = [*filled[:index], option, *filled[index + 1 :]]
            if not meets(problem.predict(tuple(raised)), problem.limits):
                break
            filled = raised
    return filled


def truncated_normal(mean: float, std: float, rng: np.random.Generator) -> float:
    """Normal around `mean`, drawn again while outside [-1, 1] (AMC's exploration noise)."""
    while abs(drawn := float(rng.normal(mean, std))) > 1.0:
        pass
    return drawn


def utilities_of(rewards: Sequence[float]) -> NDArray[np.float32]:
    """Rewards as centred ranks in [-1, 1], equal ones equal; (episodes,).

    A reward in nats spans orders of magnitude between a ruined network and a good one; ranks keep the critic's eye on
    the good ones (fitness shaping, Wierstra et al. 2014) and play the part of AMC's moving baseline.
    """
    values = np.asarray(rewards)
    beaten, beaten_by = (values[:, None] > values).sum(1), (values[:, None] < values).sum(1)
    return np.asarray((beaten - beaten_by) / max(len(values) - 1, 1), dtype=np.float32)

"""A small search problem with a known optimum: it tests searchers and tries out the pipeline without a model."""

import itertools

from autoprune.config import RewardConfig
from autoprune.search.problem import Limit, Outcome, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.space.decision import Decision
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import DIVERGENCE, Metric, Score
from autoprune.store.trials import TrialStore

CHANNELS = (16, 32, 32, 64)
SPATIAL = (32, 16, 16, 8)
RUNGS = 5  # keeping 2/8, 3/8, 4/8, 6/8 and all of the channels
SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)
FRAGILITY = (0.10, 0.50, 0.15, 0.30)  # KL, in nats, for cutting a group by all its channels
CONCENTRATION = (3.0, 1.5, 2.5, 2.0)  # of a group's importance in few channels: share cut to this power is lost
CLASH = 1.5  # KL, in nats, per share cut of the first group times share cut of the third
WHOLE = (1.0,) * len(CHANNELS)  # the shares of the original
LATENCY_RATIO = 0.45  # the limit, of the original's latency


def toy_problem(store: TrialStore | None = None, reward_config: RewardConfig | None = None) -> SearchProblem:
    """Four groups of five rungs, 625 policies; analytic score and cost; latency limited to 45% of the original.

    The first and third group each look cheap to cut and are ruinous to cut together, so that neither one keep ratio
    for all groups nor sensitivities or importance of single groups find the optimum.
    """
    original = toy_cost(WHOLE)
    return SearchProblem(
        tuple(_decision(index) for index in range(len(CHANNELS))),
        (Limit("latency", LATENCY_RATIO * original.predicted_latency_ms),),
        predict=lambda policy: toy_cost(_shares(policy)),
        looks=lambda policy: [toy_score(_shares(policy))],
        reward=make_reward(reward_config or RewardConfig()),
        fingerprint="toy-1",
        store=store,
    )


def toy_optimum() -> Outcome:
    """The best feasible policy, by enumeration; it is the only one with its reward."""
    problem = toy_problem()
    policies = itertools.product(*(range(len(decision.ladder)) for decision in problem.decisions))
    return max(map(problem.evaluate, filter(problem.is_feasible, policies)), key=lambda outcome: outcome.reward)


def toy_cost(shares: tuple[float, ...]) -> PredictedCost:
    """A chain of 3x3 convolutions: each one's MACs go with the product of the widths before and after it."""
    widths = [channels * share for channels, share in zip(CHANNELS, shares, strict=True)]
    weights = [9.0 * before * after for before, after in itertools.pairwise([3.0, *widths])]
    macs = [weight * spatial**2 for weight, spatial in zip(weights, SPATIAL, strict=True)]
    latency_ms = sum(0.002 + layer / 1e8 for layer in macs)  # a fixed part per layer, then 100 MACs per ns
    return PredictedCost(latency_ms, latency_ms * 5.0, round(sum(macs)), round(sum(weights)))


def toy_score(shares: tuple[float, ...]) -> Score:
    """KL that grows with the square of each group's cut, and with cuts of the first and third group together."""
    cuts = [1.0 - share for share in shares]
    kl = sum(fragility * cut**2 for fragility, cut in zip(FRAGILITY, cuts, strict=True)) + CLASH * cuts[0] * cuts[2]
    metrics = {DIVERGENCE: Metric(kl, higher_is_better=False), "top1": Metric(1.0 / (1.0 + 0.1 + kl), is_share=True)}
    return Score(metrics, images=1)


def _decision(index: int) -> Decision:
    original = toy_cost(WHOLE)
    middle = tuple(SHARES[RUNGS // 2] if other == index else 1.0 for other in range(len(CHANNELS)))
    halved = toy_cost(middle)
    return Decision(
        name=f"conv{index + 1}",
        kind="conv",
        ladder=tuple(round(CHANNELS[index] * share) for share in SHARES),
        channels_in=CHANNELS[index - 1] if index else 3,
        stride=1 if index == 0 or SPATIAL[index] == SPATIAL[index - 1] else 2,
        kernel=3,
        spatial=SPATIAL[index],
        macs_share=2.0 * (1.0 - halved.macs / original.macs),
        latency_share=2.0 * (1.0 - halved.predicted_latency_ms / original.predicted_latency_ms),
        sensitivity=toy_score(middle).divergence,
        lost_importance=tuple((1.0 - share) ** CONCENTRATION[index] for share in SHARES),
    )


def _shares(policy: PruningPolicy) -> tuple[float, ...]:
    return tuple(kept / channels for (_, kept), channels in zip(policy.channels, CHANNELS, strict=True))

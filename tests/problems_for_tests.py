"""Two groups of five policies in all, with costs and scores that are worked out in the head."""

from collections.abc import Iterator

import torch
from judging_for_tests import scored

from autoprune.config import RewardConfig
from autoprune.policies.table import searcher_maker
from autoprune.search.executors import Execute, inline
from autoprune.search.loop import run_search
from autoprune.search.problem import Limit, Looks, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.space.decision import Decision, Policy, numbered
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore


def group(name: str, *ladder: int) -> Decision:
    lost = tuple(1.0 - width / ladder[-1] for width in ladder)
    return Decision(name, "conv", ladder, 3, 1, 3, 8, 0.5, 0.5, sensitivity=0.1, lost_importance=lost)


GROUPS = (group("a", 1, 2, 4), group("b", 2, 6))


def predict(policy: PruningPolicy) -> PredictedCost:
    """10 µs, 2 mJ, 100 MACs and 3 parameters for each channel; 10 channels in the original."""
    kept = sum(policy.as_dict().values())
    return PredictedCost(0.01 * kept, 2.0 * kept, 100 * kept, 3 * kept)


def ends(made: SearchProblem) -> tuple[PruningPolicy, PruningPolicy]:
    """The smallest and the whole network."""
    return made.pruning_of(made.floor_policy), made.pruning_of(made.full_policy)


class CountingScorer:
    """KL is a tenth for each channel removed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, policy: PruningPolicy) -> Iterator[Score]:
        self.asked.append(policy.key)
        removed = 10 - sum(policy.as_dict().values())
        yield scored(kl=0.1 * removed, cross_entropy=0.2, top1=0.9, images=50)


def problem(
    looks: Looks,
    *limits: Limit,
    store: TrialStore | None = None,
    fingerprint: str = "f",
    reward_config: RewardConfig | None = None,
) -> SearchProblem:
    return SearchProblem(
        GROUPS,
        limits,
        predict=predict,
        looks=looks,
        reward=make_reward(reward_config or RewardConfig()),
        fingerprint=fingerprint,
        store=store,
    )


def pruning(a: int, b: int) -> PruningPolicy:
    """That keeps so many channels."""
    return PruningPolicy.of({"a": a, "b": b})


def policy(a: int, b: int) -> Policy:
    """The numbers of the options that do."""
    return numbered(GROUPS, pruning(a, b))


class ThreeLooks:
    """As `CountingScorer`, but found in three looks.

    The first errs by `off` and lies 0.05 below the truth for everyone, as other images do; it says that it may err by
    0.02. The second says that it may err by 0.01.
    """

    def __init__(self, off: float = 0.0) -> None:
        self.off = off
        self.asked: list[tuple[str, int]] = []

    def __call__(self, policy: PruningPolicy) -> Iterator[Score]:
        kl = 0.1 * (10 - sum(policy.as_dict().values()))
        self.asked.append((policy.key, 0))
        yield scored(max(kl - 0.05 + self.off, 0.0), 0.2, 0.9, images=9, kl_se=0.02, complete=False)
        self.asked.append((policy.key, 1))
        yield scored(kl, 0.2, 0.9, images=5, kl_se=0.01, look=1, complete=False)
        self.asked.append((policy.key, 2))
        yield scored(kl, 0.2, 0.9, images=50, kl_se=0.001, look=2)


def check_finds_the_same(problem: SearchProblem, *executors: Execute) -> None:
    """A search of `problem` by these finds what one in this process does, of one thread as each of theirs: sums of
    several round otherwise."""

    def found_by(execute: Execute) -> list[tuple[Policy, float, int]]:
        unknown = problem.knowing(problem.decisions)  # of which no score is remembered
        result = run_search(searcher_maker("evolution"), unknown, max_evaluations=12, seed=3, execute=execute)
        return [(outcome.policy, outcome.reward, outcome.score.look) for outcome in result.outcomes]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = found_by(inline)
    finally:
        torch.set_num_threads(threads)
    assert len(here) >= 12
    for execute in executors:
        assert found_by(execute) == here

"""The search problem: the same for every agent, tuner and baseline, so that they compare fairly."""

import copy
import heapq
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from autoprune.config import Metric, RewardConfig
from autoprune.errors import TargetError
from autoprune.policy import PruningPolicy
from autoprune.reward import Score, reward
from autoprune.trials import TrialStore


@dataclass(frozen=True)
class SearchGroup:
    """What a searcher knows of a prunable group. Shares are of the whole original model, 0..1."""

    name: str
    kind: str  # "conv", "depthwise" or "linear": the layer that makes the channels
    ladder: tuple[int, ...]  # widths worth trying, ascending; the last one keeps all channels
    channels_in: int
    stride: int
    kernel: int
    spatial: int  # height of the layer's output
    macs_share: float
    latency_share: float
    sensitivity: float  # KL to the original, in nats, with this group alone at its `middle_rung`
    lost_importance: tuple[float, ...]  # per rung, share of the group's importance that its cut removes; 0 at the last

    @property
    def channels(self) -> int:
        return self.ladder[-1]

    @property
    def middle_rung(self) -> int:
        """The rung at which the sensitivity is measured; the lower one of two, so a cut where there is one."""
        return (len(self.ladder) - 1) // 2


@dataclass(frozen=True)
class PredictedCost:
    """What a candidate is predicted to cost before it is exported."""

    predicted_latency_ms: float
    estimated_energy_mj: float
    macs: int
    params: int

    def of(self, metric: Metric) -> float:
        return float(
            {
                "latency": self.predicted_latency_ms,
                "energy": self.estimated_energy_mj,
                "macs": self.macs,
                "params": self.params,
            }[metric]
        )


@dataclass(frozen=True)
class Limit:
    """A target in absolute terms: the cost of `metric` must not be above `max_value` (ms, mJ or a count)."""

    metric: Metric
    max_value: float


@dataclass(frozen=True)
class Outcome:
    """An evaluated candidate."""

    policy: PruningPolicy
    score: Score
    cost: PredictedCost
    reward: float


Looks = Callable[[PruningPolicy], Iterable[Score]]
"""Yields scores of more and more images, the last one `complete`; each is worked out when it is asked for."""

CONTENDERS = 8  # so many of the best candidates of a search are scored completely
DOUBT = 2.5  # standard errors that a candidate gets the benefit of


class PruningProblem(Protocol):
    """What an environment needs of a problem; `SearchProblem` and `SearchSession` both give it."""

    @property
    def groups(self) -> tuple[SearchGroup, ...]: ...
    @property
    def limits(self) -> tuple[Limit, ...]: ...
    @property
    def known(self) -> tuple[PruningPolicy, ...]: ...
    @property
    def original_cost(self) -> PredictedCost: ...
    def predict(self, policy: PruningPolicy) -> PredictedCost: ...
    def evaluate(self, policy: PruningPolicy) -> Outcome: ...


class SearchProblem:
    """Groups, limits, costs and scores; evaluated policies are remembered in `store` if there is one.

    `known` are policies that did well elsewhere, such as under other limits; a search may start from them.

    Raises `TargetError`, naming the floor, if even the smallest policy breaks a limit.
    """

    def __init__(
        self,
        groups: tuple[SearchGroup, ...],
        limits: tuple[Limit, ...],
        *,
        predict: Callable[[PruningPolicy], PredictedCost],
        looks: Looks,
        reward_config: RewardConfig,
        fingerprint: str,
        store: TrialStore | None = None,
        known: tuple[PruningPolicy, ...] = (),
    ) -> None:
        self.groups, self.limits, self.fingerprint, self.store = groups, limits, fingerprint, store
        self.known = known
        self._predict, self._looks, self._reward_config = predict, looks, reward_config
        self._costs: dict[PruningPolicy, PredictedCost] = {}
        self._scores: dict[str, tuple[Score, ...]] = {}  # of a policy, by number of images
        self.original_cost = self.predict(self.full_policy)
        self._check_floor()

    @property
    def full_policy(self) -> PruningPolicy:
        return PruningPolicy.of({group.name: group.ladder[-1] for group in self.groups})

    @property
    def floor_policy(self) -> PruningPolicy:
        return PruningPolicy.of({group.name: group.ladder[0] for group in self.groups})

    def predict(self, policy: PruningPolicy) -> PredictedCost:
        if policy not in self._costs:
            self._costs[policy] = self._predict(policy)
        return self._costs[policy]

    def is_feasible(self, policy: PruningPolicy) -> bool:
        return meets(self.predict(policy), self.limits)

    def scored_by(self, looks: Looks, *, groups: tuple[SearchGroup, ...], fingerprint: str) -> "SearchProblem":
        """The same limits, costs and store with other scores."""
        other = self._without_scores()
        other._looks, other.groups, other.fingerprint = looks, groups, fingerprint
        return other

    def stored_in(self, store: TrialStore) -> "SearchProblem":
        """The same problem with nothing remembered but what is in `store`."""
        other = self._without_scores()
        other.store = store
        return other

    def within(
        self, limits: tuple[Limit, ...], *, store: TrialStore, known: tuple[PruningPolicy, ...]
    ) -> "SearchProblem":
        """The same costs and scores, those remembered too, under other limits; noted in `store` from now on.

        Raises `TargetError`, naming the floor, if even the smallest policy breaks a limit.
        """
        other = copy.copy(self)
        other.limits, other.store, other.known = limits, store, known
        other._check_floor()
        return other

    def evaluate(self, policy: PruningPolicy, *, worth: float = -math.inf) -> Outcome:
        """Score `policy`, from memory if it was evaluated before; a new score is stored before this returns.

        No further images are spent on a policy once its reward, `DOUBT` standard errors better than found so far, is
        below `worth`. The outcome is the same whether scores are remembered or not.
        """
        known = self._scores.get(policy.key, ())
        if not known and self.store is not None:
            known = self._scores[policy.key] = self.store.scores(self.fingerprint, policy.key)
        for score in known:
            if self._is_settled(policy, score, worth):
                return self._outcome(policy, score)
        started = time.perf_counter()
        fresh: list[Score] = []
        for score in self._looks(policy):
            if known and score.images <= known[-1].images:
                continue
            fresh.append(score)
            if self._is_settled(policy, score, worth):
                break
        if self.store is not None:
            self.store.add_trial(self.fingerprint, policy.key, fresh, wall_s=time.perf_counter() - started)
        self._scores[policy.key] = (*known, *fresh)
        return self._outcome(policy, fresh[-1])

    def _check_floor(self) -> None:
        floor_cost = self.predict(self.floor_policy)
        for limit in self.limits:
            if not meets(floor_cost, (limit,)):
                raise TargetError(_below_floor(limit, floor_cost.of(limit.metric), self.original_cost.of(limit.metric)))

    def _is_settled(self, policy: PruningPolicy, score: Score, worth: float) -> bool:
        return score.complete or self._reward(policy, score.at_best(DOUBT)) < worth

    def _outcome(self, policy: PruningPolicy, score: Score) -> Outcome:
        return Outcome(policy, score, self.predict(policy), self._reward(policy, score))

    def _without_scores(self) -> "SearchProblem":
        other = copy.copy(self)
        other._scores = {}
        return other

    def _reward(self, policy: PruningPolicy, score: Score) -> float:
        metric = self._reward_config.cost
        cost, original_cost = self.predict(policy).of(metric), self.original_cost.of(metric)
        return reward(score, cost=cost, original_cost=original_cost, config=self._reward_config)


def meets(cost: PredictedCost, limits: tuple[Limit, ...]) -> bool:
    return all(cost.of(limit.metric) <= limit.max_value * (1 + 1e-9) for limit in limits)


def _below_floor(limit: Limit, floor: float, original: float) -> str:
    return (
        f"target: {limit.metric} <= {limit.max_value:.4g} ({limit.max_value / original:.3f} of the original) is below "
        f"the floor {floor:.4g} ({floor / original:.3f}); raise the target or lower search.min_keep"
    )


def policy_of(groups: tuple[SearchGroup, ...], channels: Mapping[str, int]) -> PruningPolicy:
    """A policy in the problem's order of groups, so that equal policies have equal keys."""
    return PruningPolicy.of({group.name: channels[group.name] for group in groups})


class BudgetSpent(Exception):
    """A search asked for a new evaluation after its last one."""


class SearchSession:
    """One search on a problem: counts evaluations, notes each episode, remembers the best.

    `max_evaluations` bounds the distinct policies asked for in this session; a repeated policy costs nothing, but
    `max_episodes` (default 4x) ends a search that has nothing new to ask. Whether a score came from the store does not
    matter to the count, so a resumed search goes the same way as one that was never stopped.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        searcher: str,
        seed: int,
        max_evaluations: int,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.problem, self.searcher, self.seed = problem, searcher, seed
        self.max_evaluations, self.max_episodes = max_evaluations, 4 * max_evaluations
        self.outcomes: list[Outcome] = []  # one per episode
        self._seen: set[str] = set()
        self._complete: dict[PruningPolicy, float] = {}  # rewards of candidates that were scored completely
        self._on_outcome = on_outcome

    @property
    def groups(self) -> tuple[SearchGroup, ...]:
        return self.problem.groups

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.problem.limits

    @property
    def known(self) -> tuple[PruningPolicy, ...]:
        return self.problem.known

    @property
    def original_cost(self) -> PredictedCost:
        return self.problem.original_cost

    @property
    def evaluations(self) -> int:
        return len(self._seen)

    @property
    def spent(self) -> bool:
        return self.evaluations >= self.max_evaluations or len(self.outcomes) >= self.max_episodes

    @property
    def best(self) -> Outcome:
        """The outcome with the highest reward, the earliest of equals."""
        return max(self.outcomes, key=lambda outcome: outcome.reward)

    def predict(self, policy: PruningPolicy) -> PredictedCost:
        return self.problem.predict(policy)

    def probe(self, policy: PruningPolicy) -> Outcome:
        """Evaluate within the budget to learn from it: a probe may break limits and is never the best.

        It counts as an evaluation, but is no episode: neither in `outcomes` nor told to `on_outcome`.
        """
        return self._evaluated(policy, worth=-math.inf)

    def evaluate(self, policy: PruningPolicy) -> Outcome:
        """Evaluate a candidate within the budget; raises `BudgetSpent` when it is used up."""
        outcome = self._evaluated(policy, worth=self._worth)
        if outcome.score.complete:
            self._complete[policy] = outcome.reward
        self.outcomes.append(outcome)
        if self.problem.store is not None:
            self.problem.store.add_episode(
                self.problem.fingerprint,
                policy.key,
                images=outcome.score.images,
                searcher=self.searcher,
                seed=self.seed,
                episode=len(self.outcomes),
                reward=outcome.reward,
                predicted_latency_ms=outcome.cost.predicted_latency_ms,
                estimated_energy_mj=outcome.cost.estimated_energy_mj,
                macs=outcome.cost.macs,
                params=outcome.cost.params,
            )
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    @property
    def _worth(self) -> float:
        """The least reward that makes a candidate one of the best so far."""
        best = heapq.nlargest(CONTENDERS, self._complete.values())
        return best[-1] if len(best) == CONTENDERS else -math.inf

    def _evaluated(self, policy: PruningPolicy, *, worth: float) -> Outcome:
        is_new = policy.key not in self._seen
        if (is_new and self.evaluations >= self.max_evaluations) or len(self.outcomes) >= self.max_episodes:
            raise BudgetSpent
        outcome = self.problem.evaluate(policy, worth=worth)
        self._seen.add(policy.key)
        return outcome

"""The search problem: the same for every agent, tuner and baseline, so that they compare fairly."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoprune.config import Metric
from autoprune.foundation.errors import InputError, TargetError
from autoprune.search.racing import DOUBT, NO_BARS, NOTHING_RIVALS, Bars
from autoprune.search.reward import Reward
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore


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
    sensitivity: float  # KL to the original, in nats, with this group alone at its `middle_rung`, at the first look
    lost_importance: tuple[float, ...]  # per rung, share of the group's importance that its cut removes; 0 at the last
    branch_loss: float = 0.0  # the same with this branch alone gone, if it may go

    @property
    def channels(self) -> int:
        return self.ladder[-1]

    @property
    def may_go(self) -> bool:
        """Whether its branch may go whole: the lowest rung keeps no channel then."""
        return self.ladder[0] == 0

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
    """An evaluated candidate. `reward` is comparable between candidates, however closely they were looked at."""

    policy: PruningPolicy
    score: Score
    cost: PredictedCost
    reward: float


Looks = Callable[[PruningPolicy], Iterable[Score]]
"""Yields scores of closer and closer looks, the last one `complete`; each is worked out when it is asked for."""

NOT_SEEN = -1  # at no look


@dataclass(frozen=True)
class Looked:
    """What a worker found out about a policy."""

    policy: PruningPolicy
    scores: list[Score]  # by look, those after what was known
    wall_s: float


LookAhead = Callable[[Mapping[PruningPolicy, int], Bars], Iterable[Looked]]
"""Looks at policies after the look that each was seen at (-1: none), several at a time, in whatever order."""


class PredictedProblem(Protocol):
    """What can be known of a problem without evaluating a policy: all that a searcher needs of it."""

    @property
    def groups(self) -> tuple[SearchGroup, ...]: ...
    @property
    def limits(self) -> tuple[Limit, ...]: ...
    @property
    def known(self) -> tuple[PruningPolicy, ...]: ...
    @property
    def original_cost(self) -> PredictedCost: ...
    def predict(self, policy: PruningPolicy) -> PredictedCost: ...


class PruningProblem(PredictedProblem, Protocol):
    """What an environment needs of a problem, which ends its episodes with an evaluation."""

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
        reward: Reward,
        fingerprint: str,
        store: TrialStore | None = None,
        known: tuple[PruningPolicy, ...] = (),
    ) -> None:
        self.groups, self.limits, self.fingerprint, self.store = groups, limits, fingerprint, store
        self.known = known
        self._predict, self._looks, self._reward_of = predict, looks, reward
        self._costs: dict[PruningPolicy, PredictedCost] = {}
        self._scores: dict[str, tuple[Score, ...]] = {}  # of a policy, by look
        self._look_ahead: LookAhead | None = None
        self.workers = 1  # so many of the policies that are expected are scored at a time
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

    def looked_at_by(self, look_ahead: LookAhead, workers: int) -> "SearchProblem":
        """The same problem, all that is remembered too; `look_ahead` scores what it is told to expect."""
        other = copy.copy(self)
        other._look_ahead, other.workers = look_ahead, workers
        return other

    def expect(self, policies: Iterable[PruningPolicy], *, bars: Bars = NO_BARS) -> None:
        """A hint that these are evaluated next: if there are workers, what is unknown is scored and stored now, side by
        side. What is evaluated comes out the same."""
        if self._look_ahead is None:
            return
        known = {policy: self._known_scores(policy) for policy in policies}
        asked = {
            policy: scores[-1].look if scores else NOT_SEEN
            for policy, scores in known.items()
            if not any(self._is_settled(policy, score, bars) for score in scores)
        }
        for looked in self._look_ahead(asked, bars):
            self._remember(looked.policy, known[looked.policy], looked.scores, wall_s=looked.wall_s)

    def evaluate(self, policy: PruningPolicy, *, bars: Bars = NO_BARS) -> Outcome:
        """Score `policy`, from memory if it was evaluated before; a new score is stored before this returns.

        After a look that has a bar the candidate is dropped if its reward there, even `DOUBT` standard errors better,
        is below the bar's. Its reward is then taken to be as far from the rival's as it was at that look, where both
        saw the same images. The outcome is the same whether scores are remembered or not.
        """
        known = self._known_scores(policy)
        for score in known:
            if self._is_settled(policy, score, bars):
                return self._outcome(policy, score, bars)
        started = time.perf_counter()
        fresh = self.look(policy, known[-1].look if known else NOT_SEEN, bars)
        self._remember(policy, known, fresh, wall_s=time.perf_counter() - started)
        return self._outcome(policy, fresh[-1], bars)

    def look(self, policy: PruningPolicy, seen: int, bars: Bars) -> list[Score]:
        """The scores of looks after number `seen`, up to the first that settles it; nothing is remembered."""
        fresh: list[Score] = []
        for score in self._looks(policy):
            if score.look <= seen:
                continue
            fresh.append(score)
            if self._is_settled(policy, score, bars):
                break
        return fresh

    def reward_at(self, policy: PruningPolicy, look: int) -> float:
        """The reward of a policy as one look at it tells; `LookupError` if there was no such look."""
        for score in self._known_scores(policy):
            if score.look == look:
                return self._reward(policy, score)
        raise LookupError(f"{policy.key} was not evaluated at look {look}")

    def _check_floor(self) -> None:
        floor_cost = self.predict(self.floor_policy)
        for limit in self.limits:
            if not meets(floor_cost, (limit,)):
                raise TargetError(_below_floor(limit, floor_cost.of(limit.metric), self.original_cost.of(limit.metric)))

    def _known_scores(self, policy: PruningPolicy) -> tuple[Score, ...]:
        known = self._scores.get(policy.key, ())
        if not known and self.store is not None:
            known = self._scores[policy.key] = self.store.scores(self.fingerprint, policy.key)
        return known

    def _remember(
        self, policy: PruningPolicy, known: tuple[Score, ...], fresh: Sequence[Score], *, wall_s: float
    ) -> None:
        if self.store is not None:
            self.store.add_trial(self.fingerprint, policy.key, fresh, wall_s=wall_s)
        self._scores[policy.key] = (*known, *fresh)

    def _is_settled(self, policy: PruningPolicy, score: Score, bars: Bars) -> bool:
        bar = bars.get(score.look)
        if score.complete or bar is None:
            return score.complete
        return bar == NOTHING_RIVALS or self._reward_at_best(policy, score) < bar.seen

    def _reward_at_best(self, policy: PruningPolicy, score: Score) -> float:
        """With the benefit of the doubt. Raises `InputError` for a reward that falls where a score is better: who is
        behind cannot be told then."""
        best, found = self._reward(policy, score.at_best(DOUBT)), self._reward(policy, score)
        if best < found:
            raise InputError(
                f"search.reward.form: rewards {best:.6g} for {score.at_best(DOUBT)} and {found:.6g} for {score}, which "
                "is worse: candidates cannot be dropped at a coarse look by that; set search.racing to false"
            )
        return best

    def _outcome(self, policy: PruningPolicy, score: Score, bars: Bars) -> Outcome:
        found = self._reward(policy, score)
        bar = bars.get(score.look)
        if not score.complete and bar is not None and bar != NOTHING_RIVALS:
            found = bar.reward + (found - bar.seen)
        return Outcome(policy, score, self.predict(policy), found)

    def _without_scores(self) -> "SearchProblem":
        other = copy.copy(self)
        other._scores, other._look_ahead, other.workers = {}, None, 1
        return other

    def _reward(self, policy: PruningPolicy, score: Score) -> float:
        metric = self._reward_of.metric
        return self._reward_of(score, cost=self.predict(policy).of(metric), original_cost=self.original_cost.of(metric))


def meets(cost: PredictedCost, limits: tuple[Limit, ...]) -> bool:
    return all(cost.of(limit.metric) <= limit.max_value * (1 + 1e-9) for limit in limits)


def limit_ratios(problem: PredictedProblem) -> dict[str, float]:
    """The tightest limit of each metric as a share of the original's cost."""
    original = problem.original_cost
    loosest_first = sorted(problem.limits, key=lambda limit: -limit.max_value)
    return {limit.metric: limit.max_value / original.of(limit.metric) for limit in loosest_first}


def _below_floor(limit: Limit, floor: float, original: float) -> str:
    return (
        f"target: {limit.metric} <= {limit.max_value:.4g} ({limit.max_value / original:.3f} of the original) is below "
        f"the floor {floor:.4g} ({floor / original:.3f}); raise the target or lower search.min_keep"
    )


def policy_of(groups: tuple[SearchGroup, ...], channels: Mapping[str, int]) -> PruningPolicy:
    """A policy in the problem's order of groups, so that equal policies have equal keys."""
    return PruningPolicy.of({group.name: channels[group.name] for group in groups})

"""The search problem: the same for every agent, tuner and baseline, so that they compare fairly."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from autoprune.config import CostName
from autoprune.errors import InputError, TargetError
from autoprune.search.racing import DOUBT, NO_BARS, NOTHING_RIVALS, Bars, last_look
from autoprune.search.reward import Reward
from autoprune.space.decision import (
    Decision,
    Policy,
    described,
    floor_policy,
    full_policy,
    including,
    narrowest,
    nearest,
    numbered,
)
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.store.trials import Episode, TrialStore


@dataclass(frozen=True)
class PredictedCost:
    """What a candidate is predicted to cost before it is exported."""

    predicted_latency_ms: float
    estimated_energy_mj: float
    macs: int
    params: int

    def of(self, metric: CostName) -> float:
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

    metric: CostName
    max_value: float


@dataclass(frozen=True)
class Outcome:
    """An evaluated candidate. `reward` is comparable between candidates, however closely they were looked at."""

    policy: Policy
    pruning: PruningPolicy  # what it says of the network
    score: Score
    cost: PredictedCost
    reward: float


Looks = Callable[[PruningPolicy], Iterable[Score]]
"""Yields scores of closer and closer looks, the last one `complete`; each is worked out when it is asked for."""

KNOWN_POLICIES = 6  # from elsewhere, at most, that a search starts from


@dataclass(frozen=True)
class Looked:
    """What looks at a policy found."""

    policy: Policy
    scores: Sequence[Score]  # by look
    wall_s: float  # all of them together


class Executor(Protocol):
    """Looks at policies of a problem, `workers` at a time."""

    @property
    def workers(self) -> int: ...
    def look(self, asked: Mapping[Policy, int], bars: Bars) -> Iterable[Looked]:
        """Each policy, in whatever order, by what `SearchProblem.look` finds after the look that it was seen at (-1:
        none)."""


class PredictedProblem(Protocol):
    """What can be known of a problem without evaluating a policy: all that a searcher needs of it."""

    @property
    def decisions(self) -> tuple[Decision, ...]: ...
    @property
    def limits(self) -> tuple[Limit, ...]: ...
    @property
    def known(self) -> tuple[Policy, ...]: ...
    @property
    def original_cost(self) -> PredictedCost: ...
    def predict(self, policy: Policy) -> PredictedCost: ...


class PruningProblem(PredictedProblem, Protocol):
    """What an environment needs of a problem, which ends its episodes with an evaluation."""

    def evaluate(self, policy: Policy) -> Outcome: ...


class SearchProblem:
    """Decisions, limits, costs and scores; evaluated policies are remembered in `store` if there is one.

    Whoever searches knows a policy by the numbers of its options; what it says of the network, `pruning_of` tells. It
    is remembered by that: ladders depend on the device, and another run may have others.

    `known` are policies that did well elsewhere, such as under other limits; a search may start from those options that
    come nearest to them.

    Raises `TargetError`, naming the floor, if even the smallest policy breaks a limit.
    """

    def __init__(
        self,
        decisions: tuple[Decision, ...],
        limits: tuple[Limit, ...],
        *,
        predict: Callable[[PruningPolicy], PredictedCost],
        looks: Looks,
        reward: Reward,
        fingerprint: str,
        store: TrialStore | None = None,
        known: tuple[PruningPolicy, ...] = (),
    ) -> None:
        self.decisions, self.limits, self.fingerprint, self.store = decisions, limits, fingerprint, store
        self.known = tuple(nearest(decisions, pruning) for pruning in known)
        self._predict, self._looks, self._reward_of = predict, looks, reward
        self._costs: dict[PruningPolicy, PredictedCost] = {}
        self._described: dict[Policy, PruningPolicy] = {}
        self._scores: dict[str, tuple[Score, ...]] = {}  # of what a policy says of the network, by look
        self._executor: Executor | None = None
        self.original_cost = self.predict(self.full_policy)
        self._check_floor()

    @property
    def full_policy(self) -> Policy:
        return full_policy(self.decisions)

    @property
    def floor_policy(self) -> Policy:
        return floor_policy(self.decisions)

    def pruning_of(self, policy: Policy) -> PruningPolicy:
        if policy not in self._described:
            self._described[policy] = described(self.decisions, policy)
        return self._described[policy]

    def policy_of(self, pruning: PruningPolicy) -> Policy:
        """Raises `ValueError` for a width that is no option."""
        return numbered(self.decisions, pruning)

    def predict(self, policy: Policy) -> PredictedCost:
        return self.cost_of(self.pruning_of(policy))

    def cost_of(self, pruning: PruningPolicy) -> PredictedCost:
        """Of any widths, whether they are options or not."""
        if pruning not in self._costs:
            self._costs[pruning] = self._predict(pruning)
        return self._costs[pruning]

    def including(self, pruning: PruningPolicy) -> "SearchProblem":
        """The same problem, all that is remembered too, with the widths of `pruning` among the options."""
        other = copy.copy(self)
        other.decisions, other._described = including(self.decisions, pruning), {}
        other.known = tuple(nearest(other.decisions, self.pruning_of(policy)) for policy in self.known)
        return other

    def is_feasible(self, policy: Policy) -> bool:
        return meets(self.predict(policy), self.limits)

    def knowing(self, decisions: tuple[Decision, ...]) -> "SearchProblem":
        """The same problem, with more known of its decisions; their options are the same. No score is remembered."""
        other = self._without_scores()
        other.decisions = decisions
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
        other.limits, other.store = limits, store
        other.known = tuple(nearest(self.decisions, pruning) for pruning in known)
        other._check_floor()
        return other

    def looked_at_by(self, executor: Executor) -> "SearchProblem":
        """The same problem, all that is remembered too; `executor` scores what it is told to expect."""
        other = copy.copy(self)
        other._executor = executor
        return other

    @property
    def workers(self) -> int:
        """So many of the policies that are expected are scored at a time."""
        return 1 if self._executor is None else self._executor.workers

    def expect(self, policies: Iterable[Policy], *, bars: Bars = NO_BARS) -> None:
        """A hint that these are evaluated next: if there are workers, what is unknown is scored and stored now, side by
        side. What is evaluated comes out the same."""
        if self._executor is None:
            return
        # What is known is read once: another thread may remember more between two readings.
        known = {policy: self.known_scores(policy) for policy in policies}
        asked = {
            policy: last_look(scores) for policy, scores in known.items() if self.settled(policy, scores, bars) is None
        }
        for looked in self._executor.look(asked, bars):
            self.remember(looked)

    def evaluate(self, policy: Policy, *, bars: Bars = NO_BARS) -> Outcome:
        """Score `policy`, from memory if it was evaluated before; a new score is stored before this returns.

        After a look that has a bar the candidate is dropped if its reward there, even `DOUBT` standard errors better,
        is below the bar's. Its reward is then taken to be as far from the rival's as it was at that look, where both
        saw the same images. The outcome is the same whether scores are remembered or not.
        """
        known = self.known_scores(policy)
        score = self.settled(policy, known, bars)
        if score is None:
            looked = self.look(policy, last_look(known), bars)
            self.remember(looked)
            score = looked.scores[-1]
        return self.outcome_of(policy, score, bars)

    def look(self, policy: Policy, seen: int, bars: Bars) -> Looked:
        """What looks after number `seen` find, up to the first that settles it; nothing is remembered."""
        started = time.perf_counter()
        fresh: list[Score] = []
        for score in self.looks_after(policy, seen):
            fresh.append(score)
            if self.is_settled(policy, score, bars):
                break
        return Looked(policy, fresh, time.perf_counter() - started)

    def looks_after(self, policy: Policy, seen: int) -> Iterator[Score]:
        """The scores of all looks after number `seen`; each is worked out when it is asked for."""
        return (score for score in self._looks(self.pruning_of(policy)) if score.look > seen)

    def reward_at(self, policy: Policy, look: int) -> float:
        """The reward of a policy as one look at it tells; `LookupError` if there was no such look."""
        for score in self.known_scores(policy):
            if score.look == look:
                return self._reward(policy, score)
        raise LookupError(f"{self.pruning_of(policy).key} was not evaluated at look {look}")

    def _check_floor(self) -> None:
        floor_cost = self.predict(self.floor_policy)
        for limit in self.limits:
            if not meets(floor_cost, (limit,)):
                floor, original = floor_cost.of(limit.metric), self.original_cost.of(limit.metric)
                helps = meets(self.cost_of(narrowest(self.decisions)), (limit,))
                raise TargetError(
                    f"target: {limit.metric} <= {limit.max_value:.4g} ({limit.max_value / original:.3f} of the "
                    f"original) is below the floor {floor:.4g} ({floor / original:.3f}); raise the target"
                    + (" or lower search.min_keep" if helps else "")
                )

    def known_scores(self, policy: Policy) -> tuple[Score, ...]:
        """What is remembered of a policy, by look."""
        key = self.pruning_of(policy).key
        known = self._scores.get(key, ())
        if not known and self.store is not None and (stored := self.store.scores(self.fingerprint, key)):
            known = self._scores.setdefault(key, stored)  # another thread may remember more by now
        return known

    def settled(self, policy: Policy, scores: Iterable[Score], bars: Bars) -> Score | None:
        """The first of the scores of a policy that settles it."""
        return next((score for score in scores if self.is_settled(policy, score, bars)), None)

    def remember(self, looked: Looked) -> None:
        """Scores of closer looks than are known; they are in the store before this returns."""
        key, seen = self.pruning_of(looked.policy).key, last_look(self.known_scores(looked.policy))
        fresh = [score for score in looked.scores if score.look > seen]
        if fresh and self.store is not None:
            self.store.add_trial(self.fingerprint, key, fresh, wall_s=looked.wall_s)
        self._scores[key] = (*self._scores.get(key, ()), *fresh)

    def note_episode(self, searcher: str, seed: int, number: int, outcome: Outcome) -> None:
        """Episode `number` of a search, counted from 1, came to this: it is in the store, if there is one."""
        if self.store is not None:
            episode = Episode(searcher, seed, number, outcome.reward, **asdict(outcome.cost))
            self.store.add_episode(self.fingerprint, outcome.pruning.key, episode, look=outcome.score.look)

    def is_settled(self, policy: Policy, score: Score, bars: Bars) -> bool:
        """Whether nothing after this look can tell more of a candidate than that it is complete, or behind."""
        bar = bars.get(score.look)
        if score.complete or bar is None:
            return score.complete
        return bar == NOTHING_RIVALS or self._reward_at_best(policy, score) < bar.seen

    def _reward_at_best(self, policy: Policy, score: Score) -> float:
        """With the benefit of the doubt. Raises `InputError` for a reward that falls where a score is better: who is
        behind cannot be told then."""
        best, found = self._reward(policy, score.at_best(DOUBT)), self._reward(policy, score)
        if best < found:
            raise InputError(
                f"search.reward.form: rewards {best:.6g} for {score.at_best(DOUBT)} and {found:.6g} for {score}, which "
                "is worse: candidates cannot be dropped at a coarse look by that; set search.racing to false"
            )
        return best

    def outcome_of(self, policy: Policy, score: Score, bars: Bars = NO_BARS) -> Outcome:
        """What a candidate comes to that was looked at as closely as `score`."""
        found = self._reward(policy, score)
        bar = bars.get(score.look)
        if not score.complete and bar is not None and bar != NOTHING_RIVALS:
            found = bar.reward + (found - bar.seen)
        return Outcome(policy, self.pruning_of(policy), score, self.predict(policy), found)

    def _without_scores(self) -> "SearchProblem":
        other = copy.copy(self)
        other._scores, other._executor = {}, None
        return other

    def _reward(self, policy: Policy, score: Score) -> float:
        metric = self._reward_of.metric
        return self._reward_of(score, cost=self.predict(policy).of(metric), original_cost=self.original_cost.of(metric))


def meets(cost: PredictedCost, limits: tuple[Limit, ...]) -> bool:
    return all(cost.of(limit.metric) <= limit.max_value * (1 + 1e-9) for limit in limits)


def limit_ratios(problem: PredictedProblem) -> dict[str, float]:
    """The tightest limit of each metric as a share of the original's cost."""
    original = problem.original_cost
    loosest_first = sorted(problem.limits, key=lambda limit: -limit.max_value)
    return {limit.metric: limit.max_value / original.of(limit.metric) for limit in loosest_first}

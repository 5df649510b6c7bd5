"""A search under way: what it has asked for, what it may still ask, and how closely a candidate is looked at."""

import heapq
import itertools
from collections.abc import Callable, Iterable

from autoprune.policy import PruningPolicy
from autoprune.search.problem import FIRST_LOOK, Bar, Limit, Outcome, PredictedCost, SearchGroup, SearchProblem
from autoprune.search.trials import Episode

# By look, so many of the best candidates a new one may fall behind before it is dropped. The first look is cheap and
# coarse; after the second only what may be the best is worth all images.
RIVALS = (8, 1)
AHEAD = 2  # policies expected for each worker: some take longer than others


class BudgetSpent(Exception):
    """A search asked for a new evaluation after its last one."""


class SearchSession:
    """One search on a problem: counts evaluations, notes each episode, remembers the best.

    `max_evaluations` bounds the distinct policies asked for in this session; a repeated policy costs nothing, but
    `max_episodes` (default 4x) ends a search that has nothing new to ask. Whether a score came from the store does not
    matter to the count, so a resumed search goes the same way as one that was never stopped. With `races`, candidates
    that fall behind are dropped after a coarse look; without, each is scored on all images.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        searcher: str,
        seed: int,
        max_evaluations: int,
        on_outcome: Callable[[Outcome], None] | None = None,
        races: bool = True,
    ) -> None:
        self.problem, self.searcher, self.seed = problem, searcher, seed
        self.max_evaluations, self.max_episodes = max_evaluations, 4 * max_evaluations
        self.outcomes: list[Outcome] = []  # one per episode
        self._seen: set[str] = set()
        self._candidates: dict[PruningPolicy, Outcome] = {}
        # Rewards of the candidates that were looked at more closely after each look.
        self._passed: tuple[dict[PruningPolicy, float], ...] = tuple({} for _ in RIVALS)
        self._on_outcome, self._races = on_outcome, races

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

    def expect(self, policies: Iterable[PruningPolicy], *, as_probes: bool = False) -> None:
        """A hint that these are evaluated next, in this order, or probed; where the problem has workers they are scored
        now, side by side. Nothing is counted, and outcomes are the same as without."""
        new = [policy for policy in dict.fromkeys(policies) if policy.key not in self._seen]
        left = self.max_evaluations - self.evaluations
        self.problem.expect(new[:left], bars=FIRST_LOOK if as_probes else self._bars())

    def probe(self, policy: PruningPolicy) -> Outcome:
        """A first look within the budget, to learn from it: a probe may break limits and is never the best.

        It counts as an evaluation, but is no episode: neither in `outcomes` nor told to `on_outcome`.
        """
        self._spend(policy)
        return self.problem.evaluate(policy, bars=FIRST_LOOK)

    def evaluate(self, policy: PruningPolicy) -> Outcome:
        """Evaluate a candidate within the budget; raises `BudgetSpent` when it is used up.

        One that was evaluated before keeps its outcome, however high the bars are by now.
        """
        self._spend(policy)
        if policy not in self._candidates:
            self._candidates[policy] = self.problem.evaluate(policy, bars=self._bars())
        outcome = self._candidates[policy]
        for passed in self._passed[: outcome.score.look]:
            passed[policy] = outcome.reward
        self.outcomes.append(outcome)
        if self.problem.store is not None:
            cost = outcome.cost
            episode = Episode(
                self.searcher,
                self.seed,
                len(self.outcomes),
                outcome.reward,
                predicted_latency_ms=cost.predicted_latency_ms,
                estimated_energy_mj=cost.estimated_energy_mj,
                macs=cost.macs,
                params=cost.params,
            )
            self.problem.store.add_episode(self.problem.fingerprint, policy.key, episode, look=outcome.score.look)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    def evaluate_each(self, policies: Iterable[PruningPolicy]) -> None:
        """Evaluate policies that depend on no outcome, in order, until there are no more or the session is spent."""
        waiting = iter(policies)
        while not self.spent and (taken := list(itertools.islice(waiting, AHEAD * self.problem.workers))):
            self.expect(taken)
            for policy in taken:
                if not self.spent:
                    self.evaluate(policy)

    def _bars(self) -> dict[int, Bar]:
        """After each look the last of as many rivals as count there; none while there are fewer."""
        bars: dict[int, Bar] = {}
        if not self._races:
            return bars
        for look, (count, passed) in enumerate(zip(RIVALS, self._passed, strict=True)):
            if len(passed) >= count:
                rival, reward = heapq.nlargest(count, passed.items(), key=lambda item: item[1])[-1]
                bars[look] = Bar(self.problem.reward_at(rival, look), reward)
        return bars

    def _spend(self, policy: PruningPolicy) -> None:
        is_new = policy.key not in self._seen
        if (is_new and self.evaluations >= self.max_evaluations) or len(self.outcomes) >= self.max_episodes:
            raise BudgetSpent
        self._seen.add(policy.key)

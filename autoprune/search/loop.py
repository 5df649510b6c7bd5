"""The loop that drives every searcher: it alone knows the budget, the race, the workers, the store and progress."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from autoprune.errors import InputError, shown
from autoprune.search.executors import Execute, inline
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.search.racing import FIRST_LOOK, NO_BARS, Bars, Race
from autoprune.search.searcher import FIELD, Ask, Brief, MakeSearcher, check_kept, fault_of
from autoprune.space.decision import Policy

AHEAD = 2  # policies scored ahead for each worker: some take longer than others


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    searcher: str
    seed: int
    best: Outcome  # the highest reward, the earliest of equals
    outcomes: tuple[Outcome, ...]  # one per episode, in order
    evaluations: int  # distinct policies evaluated
    wall_s: float
    agent: nn.Module | None  # what the searcher learnt, if it learns an agent


def run_search(
    make: MakeSearcher,
    problem: SearchProblem,
    *,
    max_evaluations: int,
    seed: int,
    execute: Execute = inline,
    on_outcome: Callable[[Outcome], None] | None = None,
    races: bool = True,
    as_given: bool = False,
) -> SearchResult:
    """Evaluate at most `max_evaluations` (> 0) distinct policies; `on_outcome` is called after each episode.

    Candidates that the searcher asks for together are scored as `execute` has it. Without `races` each is scored on
    all images, however poor it looks. A policy that is repeated costs nothing, but a search that has nothing new to ask
    ends. Whether a score came from the store does not matter to the count, so a resumed search goes the same way as
    one that was never stopped.

    Raises `InputError` for a searcher that cannot be gone on with (`search.searcher.check_kept`), or that asks for what
    it may not (`fault_of`); policies `as_given` may be beyond the limits.
    """
    started = time.perf_counter()
    searcher = make(brief := Brief(problem, seed, max_evaluations))
    check_kept(searcher)
    with execute(problem) as shared:
        search = _Search(shared, brief, searcher.name, races=races, on_outcome=on_outcome)
        while not search.spent:
            asked = searcher.ask()
            if (fault := fault_of(asked, problem, as_given=as_given)) is not None:
                raise InputError(f"{FIELD}: {searcher.name}: {fault}")
            if not asked.policies:
                break
            searcher.tell(search.outcomes_of(asked))
    if not search.episodes:
        raise InputError(f"{FIELD}: {searcher.name}: asked for no candidate")
    if not isinstance(agent := searcher.trained(), nn.Module | None):
        raise InputError(f"{FIELD}: {searcher.name}: trained: must give a torch module or None, got {shown(agent)}")
    return SearchResult(
        searcher=searcher.name,
        seed=seed,
        best=max(search.episodes, key=lambda outcome: outcome.reward),
        outcomes=tuple(search.episodes),
        evaluations=len(search.seen),
        wall_s=time.perf_counter() - started,
        agent=agent,
    )


class _Search:
    """A search under way: what was evaluated, and what may still be."""

    def __init__(
        self,
        problem: SearchProblem,
        brief: Brief,
        searcher: str,
        *,
        races: bool,
        on_outcome: Callable[[Outcome], None] | None,
    ) -> None:
        self.episodes: list[Outcome] = []
        self.seen: set[Policy] = set()  # candidates and probes
        self._probes = 0  # repeated ones too
        self._problem, self._brief, self._searcher, self._on_outcome = problem, brief, searcher, on_outcome
        self._candidates: dict[Policy, Outcome] = {}
        self._race = Race() if races else None

    @property
    def spent(self) -> bool:
        brief = self._brief
        return len(self.seen) >= brief.max_evaluations or len(self.episodes) + self._probes >= brief.max_episodes

    def outcomes_of(self, asked: Ask) -> list[Outcome]:
        """Those of the policies that the budget has room for, in order; a few at a time are scored ahead."""
        found: list[Outcome] = []
        ahead = AHEAD * self._problem.workers
        for first in range(0, len(asked.policies), ahead):
            together = asked.policies[first : first + ahead]
            self._expect(together, FIRST_LOOK if asked.are_probes else self._bars())
            for policy in together:
                if self.spent:
                    return found
                found.append(self._probe(policy) if asked.are_probes else self._episode(policy))
        return found

    def _expect(self, policies: Sequence[Policy], bars: Bars) -> None:
        """Score what is new side by side, where there are workers, and within the budget."""
        left = self._brief.max_evaluations - len(self.seen)
        new = [policy for policy in dict.fromkeys(policies) if policy not in self.seen]
        self._problem.expect(new[:left], bars=bars)

    def _probe(self, policy: Policy) -> Outcome:
        self.seen.add(policy)
        self._probes += 1
        return self._problem.evaluate(policy, bars=FIRST_LOOK)

    def _episode(self, policy: Policy) -> Outcome:
        """A candidate; one that was evaluated before keeps its outcome, however high the bars are by now."""
        self.seen.add(policy)
        if policy not in self._candidates:
            self._candidates[policy] = self._problem.evaluate(policy, bars=self._bars())
        outcome = self._candidates[policy]
        if self._race is not None:
            self._race.note(policy, outcome.reward, look=outcome.score.look)
        self.episodes.append(outcome)
        self._problem.note_episode(self._searcher, self._brief.seed, len(self.episodes), outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    def _bars(self) -> Bars:
        return NO_BARS if self._race is None else self._race.bars(self._problem.reward_at)

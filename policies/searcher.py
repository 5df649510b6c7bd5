"""What every searcher has in common: one method, the same problem, the same budget, the same result."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autoprune.policies.trained import TrainedActor
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.search.session import SearchSession
from autoprune.search.workers import side_by_side


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    searcher: str
    seed: int
    best: Outcome  # the highest reward, the earliest of equals
    outcomes: tuple[Outcome, ...]  # one per episode, in order
    evaluations: int  # distinct policies evaluated
    wall_s: float
    agent: TrainedActor | None  # None for searchers that learn nothing


class Searcher(Protocol):
    """Looks for the policy with the highest reward."""

    @property
    def name(self) -> str: ...

    def explore(self, session: SearchSession) -> TrainedActor | None:
        """Evaluate policies of `session.problem` until the session is spent, or there is no other to evaluate; all
        chance comes from `session.seed`. The agent, if it learned one."""
        ...


def run_search(
    searcher: Searcher,
    problem: SearchProblem,
    *,
    max_evaluations: int,
    seed: int,
    workers: int = 1,
    on_outcome: Callable[[Outcome], None] | None = None,
    races: bool = True,
) -> SearchResult:
    """Evaluate at most `max_evaluations` (> 0) distinct policies; `on_outcome` is called after each episode.

    Candidates that the searcher asks for together are scored in `workers` processes. Without `races` each is scored on
    all images, however poor it looks.
    """
    started = time.perf_counter()
    with side_by_side(problem, workers) as shared:
        session = SearchSession(
            shared,
            searcher=searcher.name,
            seed=seed,
            max_evaluations=max_evaluations,
            on_outcome=on_outcome,
            races=races,
        )
        agent = searcher.explore(session)
    return SearchResult(
        searcher=searcher.name,
        seed=seed,
        best=session.best,
        outcomes=tuple(session.outcomes),
        evaluations=session.evaluations,
        wall_s=time.perf_counter() - started,
        agent=agent,
    )

"""Baselines: the least that an agent has to beat."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from autoprune import seeding
from autoprune.envs.rollout import roll_out
from autoprune.policies.searcher import SearchResult
from autoprune.policy import PruningPolicy
from autoprune.problem import Outcome, PruningProblem, SearchProblem
from autoprune.session import SearchSession


@dataclass(frozen=True)
class ListSearcher:
    """Evaluates the distinct feasible ones of the policies that a heuristic names, in its order."""

    name: str
    policies: Callable[[PruningProblem], Iterable[PruningPolicy]]

    def search(
        self,
        problem: SearchProblem,
        *,
        max_evaluations: int,
        seed: int,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> SearchResult:
        started = time.perf_counter()
        session = SearchSession(
            problem, searcher=self.name, seed=seed, max_evaluations=max_evaluations, on_outcome=on_outcome
        )
        tried: set[PruningPolicy] = set()
        for policy in filter(problem.is_feasible, self.policies(problem)):
            if session.spent:
                break
            if policy not in tried:
                tried.add(policy)
                session.evaluate(policy)
        return finish(session, started=started)


@dataclass(frozen=True)
class RandomSearcher:
    """Actions drawn evenly from [-1, 1], snapped and clipped as the agents' are."""

    name: str = "random"

    def search(
        self,
        problem: SearchProblem,
        *,
        max_evaluations: int,
        seed: int,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> SearchResult:
        started = time.perf_counter()
        rng = seeding.rng(seed, "random search")
        session = SearchSession(
            problem, searcher=self.name, seed=seed, max_evaluations=max_evaluations, on_outcome=on_outcome
        )
        while not session.spent:
            (rolled,) = roll_out(problem, lambda _, seen: rng.uniform(-1.0, 1.0, len(seen)).astype(np.float32))
            session.evaluate(rolled.policy)
        return finish(session, started=started)


def finish(session: SearchSession, *, started: float) -> SearchResult:
    """The result of a search that learnt nothing."""
    return SearchResult(
        searcher=session.searcher,
        seed=session.seed,
        best=session.best,
        outcomes=tuple(session.outcomes),
        evaluations=session.evaluations,
        wall_s=time.perf_counter() - started,
        agent=None,
    )

"""Baselines: the least that an agent has to beat."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune import seeding
from autoprune.envs.rollout import roll_out
from autoprune.policy import PruningPolicy
from autoprune.search.problem import PruningProblem, SearchProblem
from autoprune.search.session import SearchSession


@dataclass(frozen=True)
class ListSearcher:
    """Evaluates the distinct feasible ones of the policies that a heuristic names, in its order."""

    name: str
    policies: Callable[[PruningProblem], Iterable[PruningPolicy]]

    def explore(self, session: SearchSession) -> None:
        session.evaluate_each(self._distinct(session.problem))

    def _distinct(self, problem: SearchProblem) -> Iterator[PruningPolicy]:
        given: set[PruningPolicy] = set()
        for policy in filter(problem.is_feasible, self.policies(problem)):
            if policy not in given:
                given.add(policy)
                yield policy


@dataclass(frozen=True)
class RandomSearcher:
    """Actions drawn evenly from [-1, 1], snapped and clipped as the agents' are."""

    name: str = "random"

    def explore(self, session: SearchSession) -> None:
        rng = seeding.rng(session.seed, "random search")

        def drawn() -> Iterator[PruningPolicy]:
            while True:
                (rolled,) = roll_out(
                    session.problem, lambda _, seen: rng.uniform(-1.0, 1.0, len(seen)).astype(np.float32)
                )
                yield rolled.policy

        session.evaluate_each(drawn())

"""Baselines: the least that an agent has to beat."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from autoprune import seeding
from autoprune.envs.rollout import roll_out
from autoprune.policy import PruningPolicy
from autoprune.search.problem import PruningProblem
from autoprune.search.session import SearchSession


@dataclass(frozen=True)
class ListSearcher:
    """Evaluates the distinct feasible ones of the policies that a heuristic names, in its order."""

    name: str
    policies: Callable[[PruningProblem], Iterable[PruningPolicy]]

    def explore(self, session: SearchSession) -> None:
        tried: set[PruningPolicy] = set()
        for policy in filter(session.problem.is_feasible, self.policies(session.problem)):
            if session.spent:
                break
            if policy not in tried:
                tried.add(policy)
                session.evaluate(policy)


@dataclass(frozen=True)
class RandomSearcher:
    """Actions drawn evenly from [-1, 1], snapped and clipped as the agents' are."""

    name: str = "random"

    def explore(self, session: SearchSession) -> None:
        rng = seeding.rng(session.seed, "random search")
        while not session.spent:
            (rolled,) = roll_out(session.problem, lambda _, seen: rng.uniform(-1.0, 1.0, len(seen)).astype(np.float32))
            session.evaluate(rolled.policy)

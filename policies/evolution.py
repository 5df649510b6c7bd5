"""Evolution: policies that do well have offspring, and the oldest die."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune import seeding
from autoprune.envs.action import policy_of_rungs, rungs_of
from autoprune.policies.exploration import Exploration, disturb, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.search.problem import SearchProblem
from autoprune.search.session import SearchSession

REDRAWS = 20  # offspring drawn, each wilder, to find one that was not evaluated before


@dataclass(frozen=True)
class EvolutionSearcher:
    """Regularised evolution (Real et al. 2019, algorithm 1) over policies that meet the limits.

    The first population are the heuristics' policies and random ones. Then the best of a few drawn from the population
    has a child, which joins it while the oldest leaves. A child is its parent with noise on a few groups, or a mixture
    of two parents, and is brought back under the limits as the agents' proposals are.
    """

    name: str = "evolution"
    population: int = 24
    offspring: int = 4  # bred before any of them is evaluated
    drawn: int = 8  # from the population, of which the best is a parent
    crossover: float = 0.3  # how often a child has two parents
    noise: float = 0.5  # standard deviation of the truncated normal noise on an action
    exploration: Exploration = field(default_factory=Exploration)

    def explore(self, session: SearchSession) -> None:
        problem, rng = session.problem, seeding.rng(session.seed, "evolution")
        savings = lone_savings(problem)
        planned = [list(rungs_of(problem.groups, policy)) for policy in demonstrations(problem)]
        known = {tuple(rungs) for rungs in planned}
        alive: deque[tuple[float, list[int]]] = deque(maxlen=self.population)  # (reward, rungs), the oldest first
        while not session.spent:
            young = planned or [self._new(problem, alive, known, savings, rng) for _ in range(self.offspring)]
            session.expect(policy_of_rungs(problem.groups, rungs) for rungs in young)
            for rungs in young:
                if session.spent:
                    break
                alive.append((session.evaluate(policy_of_rungs(problem.groups, rungs)).reward, rungs))
            planned = []

    def _new(
        self,
        problem: SearchProblem,
        alive: Sequence[tuple[float, list[int]]],
        known: set[tuple[int, ...]],
        savings: Sequence[Sequence[float]],
        rng: np.random.Generator,
    ) -> list[int]:
        """Rungs that are not `known`, if chance finds any, and are so from now on; random ones until the population is
        full."""
        for redraw in range(REDRAWS):
            keep: frozenset[int] = frozenset()
            if len(known) < self.population:
                rungs = [int(rng.integers(len(group.ladder))) for group in problem.groups]
            elif rng.random() < self.crossover:
                rungs = mixed(self._parent(alive, rng), self._parent(alive, rng), rng)
            else:
                noise = self.noise * (1.0 + redraw)
                rungs, keep = disturb(
                    problem.groups, self._parent(alive, rng), self.exploration.changed_groups, noise=noise, rng=rng
                )
            child = settle(problem, rungs, self.exploration, savings, keep=keep, rng=rng)
            if tuple(child) not in known:
                break
        known.add(tuple(child))
        return child

    def _parent(self, alive: Sequence[tuple[float, list[int]]], rng: np.random.Generator) -> list[int]:
        """The best of a few (tournament selection)."""
        drawn = rng.choice(len(alive), size=min(self.drawn, len(alive)), replace=False)
        return max((alive[int(index)] for index in drawn), key=lambda member: member[0])[1]


def mixed(first: Sequence[int], second: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Each group's rung from either parent (uniform crossover)."""
    return [one if rng.random() < 0.5 else other for one, other in zip(first, second, strict=True)]

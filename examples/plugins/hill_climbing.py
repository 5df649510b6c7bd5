"""A searcher: from the best policy so far to its neighbours, one group a rung wider or narrower at a time.

`search.agent: examples/plugins/hill_climbing.py:HillClimbing`, `search.settings: {steps: 2}`.
"""

from collections.abc import Sequence

from autoprune.envs.action import policy_of_rungs, rungs_of
from autoprune.policies.heuristics import largest_feasible, uniform_policies
from autoprune.search.problem import Outcome, meets
from autoprune.search.searcher import Ask, Brief, SearcherState


class HillClimbing:
    name = "hill_climbing"

    def __init__(self, brief: Brief, *, steps: int = 1) -> None:
        self._problem, self._steps = brief.problem, steps
        self._best: tuple[float, list[int]] | None = None  # reward, rungs
        self._tried: list[list[int]] = []

    def ask(self) -> Ask:
        problem = self._problem
        if self._best is None:
            start = largest_feasible(problem, uniform_policies(problem))
            candidates = [list(rungs_of(problem.groups, start))]
        else:
            candidates = self._neighbours(self._best[1])
        new = [rungs for rungs in candidates if rungs not in self._tried]
        self._tried += new
        return Ask(tuple(policy_of_rungs(problem.groups, rungs) for rungs in new))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if self._best is None or outcome.reward > self._best[0]:
                self._best = (outcome.reward, list(rungs_of(self._problem.groups, outcome.policy)))

    def state(self) -> SearcherState:
        return SearcherState({"best": self._best, "tried": list(self._tried)})

    def restore(self, state: SearcherState) -> None:
        best = state.facts["best"]
        self._best = None if best is None else (best[0], best[1])
        self._tried = list(state.facts["tried"])

    def trained(self) -> None:
        return None

    def _neighbours(self, rungs: list[int]) -> list[list[int]]:
        found = []
        for index, group in enumerate(self._problem.groups):
            for moved in (rungs[index] + self._steps, rungs[index] - self._steps):
                near = [*rungs[:index], moved, *rungs[index + 1 :]]
                if 0 <= moved < len(group.ladder):
                    policy = policy_of_rungs(self._problem.groups, near)
                    if meets(self._problem.predict(policy), self._problem.limits):
                        found.append(near)
        return found

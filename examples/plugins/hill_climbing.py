"""A searcher: from the best policy so far to its neighbours, one decision an option wider or narrower at a time.

`search.agent: examples/plugins/hill_climbing.py:HillClimbing`, `search.settings: {steps: 2}`.
"""

from collections.abc import Sequence

from autoprune.policies.heuristics import largest_feasible, uniform_policies
from autoprune.search.problem import Outcome, meets
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.space.decision import Policy


class HillClimbing:
    name = "hill_climbing"

    def __init__(self, brief: Brief, *, steps: int = 1) -> None:
        self._problem, self._steps = brief.problem, steps
        self._best: tuple[float, Policy] | None = None  # reward, policy
        self._tried: list[Policy] = []

    def ask(self) -> Ask:
        if self._best is None:
            candidates = [largest_feasible(self._problem, uniform_policies(self._problem))]
        else:
            candidates = self._neighbours(self._best[1])
        new = [policy for policy in candidates if policy not in self._tried]
        self._tried += new
        return Ask(tuple(new))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if self._best is None or outcome.reward > self._best[0]:
                self._best = (outcome.reward, outcome.policy)

    def state(self) -> SearcherState:
        return SearcherState({"best": self._best, "tried": list(self._tried)})

    def restore(self, state: SearcherState) -> None:
        best = state.facts["best"]
        self._best = None if best is None else (best[0], tuple(best[1]))
        self._tried = [tuple(policy) for policy in state.facts["tried"]]

    def trained(self) -> None:
        return None

    def _neighbours(self, policy: Policy) -> list[Policy]:
        found = []
        for index, decision in enumerate(self._problem.decisions):
            for moved in (policy[index] + self._steps, policy[index] - self._steps):
                near = (*policy[:index], moved, *policy[index + 1 :])
                if 0 <= moved < len(decision.ladder) and meets(self._problem.predict(near), self._problem.limits):
                    found.append(near)
        return found

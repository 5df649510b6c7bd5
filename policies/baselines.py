"""Baselines: the least that an agent has to beat."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from autoprune.envs.rollout import roll_out
from autoprune.foundation import seeding
from autoprune.search.problem import Outcome, PredictedProblem, meets
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.space.decision import Policy

TOGETHER = 16  # policies that depend on no outcome: so many are asked for at a time


class ListSearcher:
    """Asks for given policies, in their order."""

    def __init__(self, brief: Brief, *, name: str, policies: Iterable[Policy]) -> None:
        self.name, self._given = name, 0
        self._policies = iter(policies)

    def ask(self) -> Ask:
        policies = tuple(itertools.islice(self._policies, TOGETHER))
        self._given += len(policies)
        return Ask(policies)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing that it would learn from."""

    def state(self) -> SearcherState:
        return SearcherState({"given": self._given})

    def restore(self, state: SearcherState) -> None:
        self._given = len(list(itertools.islice(self._policies, state.facts["given"])))

    def trained(self) -> None:
        return None


class RandomSearcher:
    """Actions drawn evenly from [-1, 1], snapped and clipped as the agents' are."""

    name = "random"

    def __init__(self, brief: Brief) -> None:
        self._problem, self._rng = brief.problem, seeding.rng(brief.seed, "random search")

    def ask(self) -> Ask:
        return Ask(tuple(self._drawn() for _ in range(TOGETHER)))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing that it would learn from."""

    def state(self) -> SearcherState:
        return SearcherState({"rng": self._rng.bit_generator.state})

    def restore(self, state: SearcherState) -> None:
        self._rng.bit_generator.state = state.facts["rng"]

    def trained(self) -> None:
        return None

    def _drawn(self) -> Policy:
        (rolled,) = roll_out(self._problem, lambda _, seen: self._rng.uniform(-1.0, 1.0, len(seen)).astype(np.float32))
        return rolled.policy


def distinct(problem: PredictedProblem, policies: Iterable[Policy]) -> Iterator[Policy]:
    """Those of `policies` that meet every limit, each once."""
    given: set[Policy] = set()
    for policy in policies:
        if policy not in given and meets(problem.predict(policy), problem.limits):
            given.add(policy)
            yield policy

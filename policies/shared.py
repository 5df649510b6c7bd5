"""One search by several workers: each asks a sampler that knows what all of them have found."""

import time
from collections.abc import Sequence

from autoprune.foundation.progress import say
from autoprune.policies.tuners import OptunaSearcher
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, MakeSearcher, SearcherState
from autoprune.space.decision import Policy
from autoprune.studies.study import NOTES, Study

POLL_S = 1.0  # while others are at the last candidates


class SharedSearcher:
    """Asks for what is finished in the study, which costs nothing, and then for one candidate that no one else is at.

    What a dead worker left goes first. When all that the budget has room for is claimed, it waits for the others: they
    may die, and all workers are to end with the same candidates.
    """

    def __init__(self, brief: Brief, *, inner: OptunaSearcher, study: Study) -> None:
        self.name, self._brief, self._inner, self._study = inner.name, brief, inner, study
        self._told: set[Policy] = set()
        self._mine: Policy | None = None

    def ask(self) -> Ask:
        study, budget, waits = self._study, self._brief.max_evaluations, False
        while True:
            study.look()
            if fresh := tuple(policy for policy in study.finished if policy not in self._told):
                return Ask(fresh)
            taken = {*study.finished, *study.running}
            if len(taken) < budget and (found := self._next(taken)) is not None:
                policy, notes = found
                if study.claim(policy, notes, max_evaluations=budget):
                    self._mine = policy
                    return Ask((policy,))
                continue
            if not study.running:
                return Ask(())
            if not waits:
                say(f"waiting for {len(study.running)} candidates that other workers are at")
            waits = True
            time.sleep(POLL_S)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.policy == self._mine:
                self._study.finish(outcome, self._inner.values(outcome))
                self._mine = None
            self._told.add(outcome.policy)
            trial = self._study.finished[outcome.policy]
            self._inner.observe(outcome.policy, trial.values, trial.user_attrs.get(NOTES, {}))

    def state(self) -> SearcherState:
        return SearcherState(None)  # all is in the study

    def restore(self, state: SearcherState) -> None:
        """Nothing that the study does not tell."""

    def trained(self) -> None:
        return None

    def _next(self, taken: set[Policy]) -> tuple[Policy, dict[str, object]] | None:
        for policy, notes in self._study.lost.items():
            return policy, dict(notes)
        suggestion = self._inner.suggest(taken)
        return None if suggestion is None else (suggestion.policy, dict(suggestion.notes))


def shared(make: MakeSearcher, study: Study) -> MakeSearcher:
    """What makes a searcher that shares its study; `make` makes one of Optuna's."""

    def made(brief: Brief) -> SharedSearcher:
        inner = make(brief)
        assert isinstance(inner, OptunaSearcher)
        return SharedSearcher(brief, inner=inner, study=study)

    return made

"""One search by several workers: each asks a sampler that knows what all of them have found."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.foundation.progress import say
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.policies.exploration import Disturbance, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import read_settings
from autoprune.policies.tuners import DIRECTIONS, SAMPLERS, Nsga2, Tpe
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, MakeSearcher, SearcherState
from autoprune.space.decision import Policy
from autoprune.studies.storage import require_optuna
from autoprune.studies.study import NOTES, Study, distributions, named

POLL_S = 1.0  # while others are at the last candidates
REDRAWS = 16  # of a suggestion that was evaluated before: so many of the sampler, and then by chance


@dataclass(frozen=True)
class Suggestion:
    """A policy, and what a sampler has to be told of it beside what it came to: what it had suggested, before that was
    brought under the limits, and its own notes (NSGA-II: the generation)."""

    policy: Policy
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a sampler has to know of a policy that was evaluated."""

    values: list[float]
    notes: Mapping[str, Any]  # of its suggestion


class SharedSampler:
    """What a sampler of Optuna's suggests, by what all workers were told.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are; the sampler is told of that. What a sampler suggests depends on the seed and on what
    it was told alone, so that whoever is told the same goes on in the same way.
    """

    def __init__(self, brief: Brief, settings: Tpe | Nsga2, *, name: str) -> None:
        self._optuna = require_optuna(f"search.agent: {name}")
        self.name, self._settings, self._goals = name, settings, settings.goals(brief.problem)
        self._problem, self._seed = brief.problem, brief.seed
        self._study: Any = None  # of what was told, and nothing else; made when it is needed
        self._planned = demonstrations(self._problem)
        self._savings = lone_savings(self._problem)
        self._told: dict[Policy, Told] = {}

    def suggest(self, taken: Collection[Policy]) -> Suggestion | None:
        """A policy that is not `taken`; None if none was found."""
        for policy in self._planned:
            if policy not in taken:
                return self._drawn(0, len(taken), planned=policy)
        found, repeated = None, False
        for draw in range(2 * REDRAWS):
            drawn = self._drawn(draw, len(taken))
            if drawn.policy not in taken:
                found = drawn
                break
            if drawn.policy in self._told:  # another suggestion that leads there; the next draw goes by that
                self._add(drawn.policy, Told(self._told[drawn.policy].values, drawn.notes))
                repeated = True
        if repeated:
            self._study = None
        return found

    def observe(self, policy: Policy, values: Sequence[float], notes: Mapping[str, Any]) -> None:
        """Let the sampler know what a policy came to, whoever suggested it."""
        self._told[policy] = told = Told(list(values), notes)
        if self._study is not None:
            self._add(policy, told)

    def values(self, outcome: Outcome) -> list[float]:
        return [goal(outcome) for goal in self._goals]

    def _add(self, policy: Policy, told: Told) -> None:
        trial = self._optuna.trial.create_trial(
            params=named(self._problem, told.notes.get("suggested", policy)),
            distributions=distributions(self._problem),
            values=told.values,
            system_attrs=told.notes.get("system", {}),
        )
        self._study.add_trial(trial)

    def _drawn(self, draw: int, taken: int, planned: Policy | None = None) -> Suggestion:
        """The sampler's suggestion number `draw` after so many policies; the later ones are random."""
        purpose = f"{self.name} {taken} {draw}"
        kind = self._settings.sampler if draw < REDRAWS else self._optuna.samplers.RandomSampler
        if self._study is None:
            self._study = self._optuna.create_study(directions=list(DIRECTIONS[self.name]))
            for policy, told in self._told.items():
                self._add(policy, told)
        self._study.sampler = kind(derive_seed(self._seed, purpose))
        if planned is not None:
            self._study.enqueue_trial(named(self._problem, planned))
        trial = self._study.ask(distributions(self._problem))
        # What is evaluated is another policy, and becomes a trial of its own.
        left = self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        options = [trial.params[decision.name] for decision in self._problem.decisions]
        notes = {"suggested": options, "system": left.system_attrs}
        if planned is not None:
            return Suggestion(planned, notes)
        chance = rng(self._seed, f"{purpose} repairs")
        settled = settle(self._problem, options, Disturbance(), self._savings, keep=frozenset(), rng=chance)
        return Suggestion(tuple(settled), notes)


class SharedSearcher:
    """Asks for what is finished in the study, which costs nothing, and then for one candidate that no one else is at.

    What a dead worker left goes first. When all that the budget has room for is claimed, it waits for the others: they
    may die, and all workers are to end with the same candidates.
    """

    def __init__(self, brief: Brief, *, inner: SharedSampler, study: Study) -> None:
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
                if study.claim(found.policy, found.notes, max_evaluations=budget):
                    self._mine = found.policy
                    return Ask((found.policy,))
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

    def _next(self, taken: set[Policy]) -> Suggestion | None:
        for policy, notes in self._study.lost.items():
            return Suggestion(policy, notes)
        return self._inner.suggest(taken)


def shared(name: str, settings: Mapping[str, Any], study: Study) -> MakeSearcher:
    """What makes a searcher that shares its study; `name` is one of those that Optuna's samplers make."""
    read = read_settings(SAMPLERS[name], settings, field="search.settings")
    return lambda brief: SharedSearcher(brief, inner=SharedSampler(brief, read, name=name), study=study)

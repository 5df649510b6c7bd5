"""Optuna's samplers as searchers: an option for each decision, suggested by what earlier suggestions were told."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from autoprune.envs.observation import tightest_limit
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.policies.exploration import Disturbance, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import Count
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.space.decision import Policy
from autoprune.studies.storage import require_optuna
from autoprune.studies.study import distributions, named

DIRECTIONS = {"tpe": ("maximize",), "nsga2": ("maximize", "minimize")}  # of all that need Optuna
REDRAWS = 16  # of a suggestion that was evaluated before: so many of the sampler, and then by chance
Goals = Mapping[str, Callable[[Outcome], float]]
"""A value of an outcome by the direction in which it should go."""


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


class OptunaSearcher:
    """Asks for what a sampler suggests, one policy at a time.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are; the sampler is told of that. None is asked for twice. What a sampler suggests depends
    on the seed and on what it was told alone, so that whoever is told the same goes on in the same way.
    """

    def __init__(self, brief: Brief, *, name: str, sampler: Callable[[int], Any], goals: Goals) -> None:
        self._optuna = require_optuna(f"search.agent: {name}")
        self.name, self.goals, self._problem, self._seed, self._sampler = (
            name,
            goals,
            brief.problem,
            brief.seed,
            sampler,
        )
        self._study: Any = None  # of what was told, and nothing else; made when it is needed
        self._planned = demonstrations(self._problem)
        self._savings = lone_savings(self._problem)
        self._asked: Suggestion | None = None  # not told yet
        self._told: dict[Policy, Told] = {}

    def ask(self) -> Ask:
        self._asked = self.suggest(self._told)
        return Ask(() if self._asked is None else (self._asked.policy,))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.observe(outcome.policy, self.values(outcome), self._asked.notes if self._asked else {})
        self._asked = None

    def state(self) -> SearcherState:
        told = [[policy, each.values, each.notes] for policy, each in self._told.items()]
        return SearcherState({"told": told, "asked": self._asked and [self._asked.policy, self._asked.notes]})

    def restore(self, state: SearcherState) -> None:
        for policy, values, notes in state.facts["told"]:
            self.observe(tuple(policy), values, notes)
        if (asked := state.facts["asked"]) is not None:
            self._asked = Suggestion(tuple(asked[0]), asked[1])

    def trained(self) -> None:
        return None

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
        return [goal(outcome) for goal in self.goals.values()]

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
        kind = self._sampler if draw < REDRAWS else self._optuna.samplers.RandomSampler
        if self._study is None:
            self._study = self._optuna.create_study(directions=list(self.goals))
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


@dataclass(frozen=True)
class Tpe:
    """Settings of tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), all decisions in one."""

    startup: Count = 15  # suggestions before the densities are used; the heuristics' are the first


@dataclass(frozen=True)
class Nsga2:
    """Settings of NSGA-II (Deb et al. 2002)."""

    population: Annotated[int, Field(ge=2, le=10_000)] = 16


def tpe(brief: Brief, settings: Tpe) -> OptunaSearcher:
    samplers = require_optuna("search.agent: tpe").samplers

    def sampler(seed: int) -> Any:
        return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=settings.startup)

    return OptunaSearcher(brief, name="tpe", sampler=sampler, goals={"maximize": lambda outcome: outcome.reward})


def nsga2(brief: Brief, settings: Nsga2) -> OptunaSearcher:
    """With two goals: a high reward, and a low cost of what the tightest limit limits."""
    samplers = require_optuna("search.agent: nsga2").samplers

    def sampler(seed: int) -> Any:
        return samplers.NSGAIISampler(seed=seed, population_size=settings.population)

    metric = tightest_limit(brief.problem, brief.problem.original_cost).metric
    goals: Goals = {"maximize": lambda outcome: outcome.reward, "minimize": lambda outcome: outcome.cost.of(metric)}
    return OptunaSearcher(brief, name="nsga2", sampler=sampler, goals=goals)

"""Optuna's samplers as searchers: an option for each decision, suggested by what earlier suggestions were told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from autoprune.envs.observation import tightest_limit
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.policies.exploration import Disturbance, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import Count
from autoprune.search.problem import Outcome, PredictedProblem
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.studies.storage import require_optuna
from autoprune.studies.study import distributions, named

Goals = tuple[Callable[[Outcome], float], ...]
"""What of an outcome a sampler goes by."""


@dataclass(frozen=True)
class Tpe:
    """Settings of tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), all decisions in one."""

    startup: Count = 15  # suggestions before the densities are used; the heuristics' are the first

    def sampler(self, seed: int) -> Any:
        samplers = require_optuna("search.agent: tpe").samplers
        return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=self.startup)

    def goals(self, problem: PredictedProblem) -> Goals:
        return (lambda outcome: outcome.reward,)


@dataclass(frozen=True)
class Nsga2:
    """Settings of NSGA-II (Deb et al. 2002), with two goals: a high reward, and a low cost of what the tightest limit
    limits."""

    population: Annotated[int, Field(ge=2, le=10_000)] = 16

    def sampler(self, seed: int) -> Any:
        samplers = require_optuna("search.agent: nsga2").samplers
        return samplers.NSGAIISampler(seed=seed, population_size=self.population)

    def goals(self, problem: PredictedProblem) -> Goals:
        metric = tightest_limit(problem, problem.original_cost).metric
        return (lambda outcome: outcome.reward, lambda outcome: outcome.cost.of(metric))


SAMPLERS: Mapping[str, type[Tpe | Nsga2]] = {"tpe": Tpe, "nsga2": Nsga2}
DIRECTIONS = {"tpe": ("maximize",), "nsga2": ("maximize", "minimize")}  # in which the goals should go


class OptunaSearcher:
    """Asks for what a sampler suggests, one policy at a time.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are, and is told the values of that: the sampler learns where its suggestions lead.
    Samplers do not show their state: it is what they were told, from which a new one becomes the same.
    """

    def __init__(self, brief: Brief, settings: Tpe | Nsga2, *, name: str) -> None:
        optuna = require_optuna(f"search.agent: {name}")
        self.name, self._problem, self._goals = name, brief.problem, settings.goals(brief.problem)
        sampler = settings.sampler(derive_seed(brief.seed, name))
        self._study = optuna.create_study(sampler=sampler, directions=list(DIRECTIONS[name]))
        self._ladders = distributions(self._problem)
        self._planned = demonstrations(self._problem)
        for policy in self._planned:
            self._study.enqueue_trial(named(self._problem, policy))
        self._savings, self._chance = lone_savings(self._problem), rng(brief.seed, f"{name} repairs")
        self._trial: Any = None  # asked for, not told yet
        self._told: list[list[float]] = []

    def ask(self) -> Ask:
        self._trial = self._study.ask(self._ladders)
        options = [self._trial.params[decision.name] for decision in self._problem.decisions]
        if self._trial.number >= len(self._planned):
            options = settle(self._problem, options, Disturbance(), self._savings, keep=frozenset(), rng=self._chance)
        return Ask((tuple(options),))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._tell([goal(outcome) for goal in self._goals])

    def state(self) -> SearcherState:
        return SearcherState({"told": list(self._told), "has_asked": self._trial is not None})

    def restore(self, state: SearcherState) -> None:
        for values in state.facts["told"]:
            self.ask()
            self._tell(values)
        if state.facts["has_asked"]:
            self.ask()

    def trained(self) -> None:
        return None

    def _tell(self, values: list[float]) -> None:
        self._study.tell(self._trial, values)
        self._told.append(values)
        self._trial = None

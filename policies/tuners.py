"""Optuna's samplers as searchers: an option for each decision, suggested by what earlier suggestions were told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from autoprune.envs.observation import tightest_limit
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.policies.exploration import Disturbance, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import Count, read_settings
from autoprune.search.problem import Outcome, PredictedProblem
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.studies.storage import require_optuna

DIRECTIONS = {"tpe": ("maximize",), "nsga2": ("maximize", "minimize")}  # of all that need Optuna
Goals = Mapping[str, Callable[[Outcome], float]]
"""A value of an outcome by the direction in which it should go."""


class OptunaSearcher:
    """Asks for what a sampler suggests, one policy at a time.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are, and is told the values of that: the sampler learns where its suggestions lead.
    Samplers do not show their state: it is what they were told, from which a new one becomes the same.
    """

    def __init__(self, brief: Brief, *, name: str, sampler: Any, goals: Goals) -> None:
        optuna = require_optuna(f"search.agent: {name}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self._problem, self._goals = name, brief.problem, goals
        self._study = optuna.create_study(sampler=sampler, directions=list(goals))
        decisions = self._problem.decisions
        self._ladders = {
            decision.name: optuna.distributions.IntDistribution(0, len(decision.ladder) - 1) for decision in decisions
        }
        self._planned = demonstrations(self._problem)
        for policy in self._planned:
            self._study.enqueue_trial(dict(zip(self._ladders, policy, strict=True)))
        self._savings, self._chance = lone_savings(self._problem), rng(brief.seed, f"{name} repairs")
        self._trial: Any = None  # asked for, not told yet
        self._told: list[list[float]] = []

    def ask(self) -> Ask:
        decisions = self._problem.decisions
        self._trial = self._study.ask(self._ladders)
        options = [self._trial.params[decision.name] for decision in decisions]
        if self._trial.number >= len(self._planned):
            options = settle(self._problem, options, Disturbance(), self._savings, keep=frozenset(), rng=self._chance)
        return Ask((tuple(options),))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._tell([goal(outcome) for goal in self._goals.values()])

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


@dataclass(frozen=True)
class Tpe:
    """Settings of tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), all decisions in one."""

    startup: Count = 15  # suggestions before the densities are used; the heuristics' are the first


@dataclass(frozen=True)
class Nsga2:
    """Settings of NSGA-II (Deb et al. 2002)."""

    population: Annotated[int, Field(ge=2, le=10_000)] = 16


@dataclass(frozen=True)
class SamplerRecipe:
    """A sampler of Optuna's, made with a seed, and the goals that it goes by in a problem."""

    name: str
    sampler: Callable[[int], Any]
    goals: Callable[[PredictedProblem], Goals]


def tpe_recipe(settings: Tpe) -> SamplerRecipe:
    samplers = require_optuna("search.agent: tpe").samplers

    def sampler(seed: int) -> Any:
        return samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=settings.startup)

    return SamplerRecipe("tpe", sampler, lambda problem: {"maximize": lambda outcome: outcome.reward})


def nsga2_recipe(settings: Nsga2) -> SamplerRecipe:
    """With two goals: a high reward, and a low cost of what the tightest limit limits."""
    samplers = require_optuna("search.agent: nsga2").samplers

    def sampler(seed: int) -> Any:
        return samplers.NSGAIISampler(seed=seed, population_size=settings.population)

    def goals(problem: PredictedProblem) -> Goals:
        metric = tightest_limit(problem, problem.original_cost).metric
        return {"maximize": lambda outcome: outcome.reward, "minimize": lambda outcome: outcome.cost.of(metric)}

    return SamplerRecipe("nsga2", sampler, goals)


def optuna_searcher(brief: Brief, recipe: SamplerRecipe) -> OptunaSearcher:
    """One that searches alone."""
    sampler = recipe.sampler(derive_seed(brief.seed, recipe.name))
    return OptunaSearcher(brief, name=recipe.name, sampler=sampler, goals=recipe.goals(brief.problem))


def tpe(brief: Brief, settings: Tpe) -> OptunaSearcher:
    return optuna_searcher(brief, tpe_recipe(settings))


def nsga2(brief: Brief, settings: Nsga2) -> OptunaSearcher:
    return optuna_searcher(brief, nsga2_recipe(settings))


RECIPES: Mapping[str, tuple[type[Any], Callable[[Any], SamplerRecipe]]] = {
    "tpe": (Tpe, tpe_recipe),
    "nsga2": (Nsga2, nsga2_recipe),
}


def sampler_recipe(name: str, settings: Mapping[str, Any]) -> SamplerRecipe:
    """Of one of `DIRECTIONS`, by the settings of a configuration."""
    kind, recipe = RECIPES[name]
    return recipe(read_settings(kind, settings, field="search.settings"))

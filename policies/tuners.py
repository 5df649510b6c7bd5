"""Optuna's samplers as searchers: an option for each decision, suggested by what earlier suggestions were told."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from autoprune.envs.observation import tightest_limit
from autoprune.errors import ConfigError
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.policies.exploration import Disturbance, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import Count
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, SearcherState

Goals = Mapping[str, Callable[[Outcome], float]]
"""A value of an outcome by the direction in which it should go."""


class OptunaSearcher:
    """Asks for what a sampler suggests, one policy at a time.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are, and is told the values of that: the sampler learns where its suggestions lead.
    Samplers do not show their state: it is what they were told, from which a new one becomes the same.
    """

    def __init__(self, brief: Brief, *, name: str, sampler: Any, goals: Goals) -> None:
        optuna = require_optuna(name)
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


def tpe(brief: Brief, settings: Tpe) -> OptunaSearcher:
    sampler = require_optuna("tpe").samplers.TPESampler(
        seed=derive_seed(brief.seed, "tpe"), multivariate=True, n_startup_trials=settings.startup
    )
    return OptunaSearcher(brief, name="tpe", sampler=sampler, goals={"maximize": lambda outcome: outcome.reward})


def nsga2(brief: Brief, settings: Nsga2) -> OptunaSearcher:
    """With two goals: a high reward, and a low cost of what the tightest limit limits."""
    sampler = require_optuna("nsga2").samplers.NSGAIISampler(
        seed=derive_seed(brief.seed, "nsga2"), population_size=settings.population
    )
    metric = tightest_limit(brief.problem, brief.problem.original_cost).metric
    goals: Goals = {"maximize": lambda outcome: outcome.reward, "minimize": lambda outcome: outcome.cost.of(metric)}
    return OptunaSearcher(brief, name="nsga2", sampler=sampler, goals=goals)


def require_optuna(searcher: str) -> Any:
    """The module `optuna`. Raises `ConfigError` that names the extra if it is not installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise ConfigError(
            f"search.agent: {searcher} needs Optuna; install it with `pip install autoprune[optuna]`"
        ) from None

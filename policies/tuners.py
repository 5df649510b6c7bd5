"""Optuna's samplers as searchers: a rung for each group, suggested by what earlier suggestions were told."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.envs.action import policy_of_rungs, rungs_of
from autoprune.envs.observation import tightest_limit
from autoprune.errors import ConfigError
from autoprune.policies.exploration import Exploration, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.search.problem import Outcome
from autoprune.search.session import SearchSession
from autoprune.seeding import derive_seed, rng


@dataclass(frozen=True)
class TpeSearcher:
    """Tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), all groups in one density."""

    name: str = "tpe"
    startup: int = 15  # suggestions before the densities are used; the heuristics' are the first

    def __post_init__(self) -> None:
        require_optuna(self.name)

    def explore(self, session: SearchSession) -> None:
        sampler = require_optuna(self.name).samplers.TPESampler(
            seed=derive_seed(session.seed, self.name), multivariate=True, n_startup_trials=self.startup
        )
        _ask_and_tell(session, sampler, {"maximize": lambda outcome: outcome.reward})


@dataclass(frozen=True)
class Nsga2Searcher:
    """NSGA-II (Deb et al. 2002) with two goals: a high reward, and a low cost of what the tightest limit limits."""

    name: str = "nsga2"
    population: int = 16

    def __post_init__(self) -> None:
        require_optuna(self.name)

    def explore(self, session: SearchSession) -> None:
        sampler = require_optuna(self.name).samplers.NSGAIISampler(
            seed=derive_seed(session.seed, self.name), population_size=self.population
        )
        metric = tightest_limit(session.problem, session.original_cost).metric
        goals = {"maximize": lambda outcome: outcome.reward, "minimize": lambda outcome: outcome.cost.of(metric)}
        _ask_and_tell(session, sampler, goals)


def require_optuna(searcher: str) -> Any:
    """The module `optuna`. Raises `ConfigError` that names the extra if it is not installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise ConfigError(
            f"search.agent: {searcher} needs Optuna; install it with `pip install autoprune[optuna]`"
        ) from None


def _ask_and_tell(session: SearchSession, sampler: Any, goals: dict[str, Callable[[Outcome], float]]) -> None:
    """Evaluate what `sampler` suggests until the budget is spent; `goals` are values by the direction they should go.

    The heuristics' policies are the first suggestions. Any other is brought under the limits, and often close to them,
    as the agents' proposals are, and is told the values of that: the sampler learns where its suggestions lead.
    """
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, directions=list(goals))
    problem, groups = session.problem, session.groups
    ladders = {group.name: optuna.distributions.IntDistribution(0, len(group.ladder) - 1) for group in groups}
    planned = demonstrations(problem)
    for policy in planned:
        study.enqueue_trial(dict(zip(ladders, rungs_of(groups, policy), strict=True)))
    savings, exploration = lone_savings(problem), Exploration()
    chance = rng(session.seed, f"{session.searcher} repairs")
    while not session.spent:
        trial = study.ask(ladders)
        asked = [trial.params[group.name] for group in groups]
        is_planned = trial.number < len(planned)
        rungs = asked if is_planned else settle(problem, asked, exploration, savings, keep=frozenset(), rng=chance)
        outcome = session.evaluate(policy_of_rungs(groups, rungs))
        study.tell(trial, [goal(outcome) for goal in goals.values()])

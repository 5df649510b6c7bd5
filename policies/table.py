"""All searchers by name, and what a configuration may set of each; a user's own by its file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from autoprune.foundation.factories import check_call, load_factory
from autoprune.policies.agents import AgentSearcher
from autoprune.policies.baselines import ListSearcher, RandomSearcher, distinct
from autoprune.policies.evolution import EvolutionSearcher, EvolutionSettings
from autoprune.policies.heuristics import knapsack_policies, magnitude_policies, uniform_policies
from autoprune.policies.learners import Crossq, Ddpg, Ppo, Sac, Td3, Tqc
from autoprune.policies.sensitivity import Sensitivity, SensitivitySearcher
from autoprune.policies.settings import read_settings
from autoprune.policies.tuners import DIRECTIONS, Nsga2, Tpe, nsga2, tpe
from autoprune.search.problem import PredictedProblem
from autoprune.search.searcher import Brief, MakeSearcher, Searcher
from autoprune.space.decision import Policy
from autoprune.studies.storage import require_optuna

FIELD = "search.settings"


@dataclass(frozen=True)
class NoSettings:
    """Of a searcher that has none."""


@dataclass(frozen=True)
class Kind:
    """A searcher that is built in: its settings, a dataclass, and what makes it of them."""

    settings: type[Any]
    make: Callable[[Brief, Any], Searcher]


def _agent(name: str, settings: type[Any]) -> Kind:
    return Kind(settings, partial(AgentSearcher, name=name))


def _listed(name: str, policies: Callable[[PredictedProblem], Iterable[Policy]]) -> Kind:
    return Kind(NoSettings, partial(_list_of, name=name, policies=policies))


def _list_of(
    brief: Brief, settings: NoSettings, *, name: str, policies: Callable[[PredictedProblem], Iterable[Policy]]
) -> ListSearcher:
    """A heuristic: of the policies that it names, those that meet the limits."""
    return ListSearcher(brief, name=name, policies=distinct(brief.problem, policies(brief.problem)))


def _random(brief: Brief, settings: NoSettings) -> RandomSearcher:
    return RandomSearcher(brief)


def _made(make: Callable[[Brief, Any], Searcher], settings: Any, brief: Brief) -> Searcher:
    return make(brief, settings)


KINDS: dict[str, Kind] = {
    "ddpg": _agent("ddpg", Ddpg),
    "td3": _agent("td3", Td3),
    "sac": _agent("sac", Sac),
    "tqc": _agent("tqc", Tqc),
    "crossq": _agent("crossq", Crossq),
    "ppo": _agent("ppo", Ppo),
    "random": Kind(NoSettings, _random),
    "evolution": Kind(EvolutionSettings, EvolutionSearcher),
    "tpe": Kind(Tpe, tpe),
    "nsga2": Kind(Nsga2, nsga2),
    "sensitivity": Kind(Sensitivity, SensitivitySearcher),
    "knapsack": _listed("knapsack", knapsack_policies),
    "global_magnitude": _listed("global_magnitude", magnitude_policies),
    "uniform": _listed("uniform", uniform_policies),
}
NOTHING: Mapping[str, Any] = {}


def searcher_maker(name: str, settings: Mapping[str, Any] = NOTHING) -> MakeSearcher:
    """What makes the searcher `name`, one of `KINDS` or a user's own `path/file.py:factory`.

    A factory is called with a `Brief`, and with `settings` by keyword. Raises `ConfigError` for settings that a
    searcher does not have, or an extra that is not installed, `InputError` for a file that does not give a factory.
    That of a searcher that is built in can be pickled, so that it can be made in another process.
    """
    kind = KINDS.get(name)
    if kind is None:
        factory = load_factory(name, field="search.agent")
        check_call(factory, Brief, field=f"search.agent={name}", **settings)
        return partial(factory, **settings)
    if name in DIRECTIONS:
        require_optuna(f"search.agent: {name}")
    read = read_settings(kind.settings, settings, field=FIELD)
    return partial(_made, kind.make, read)

"""All searchers by name, and what a configuration may set of each; a user's own by its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from autoprune.foundation.factories import check_call, load_factory
from autoprune.policies.agents import AgentSearcher
from autoprune.policies.baselines import ListSearcher, RandomSearcher, distinct
from autoprune.policies.evolution import EvolutionSearcher, EvolutionSettings
from autoprune.policies.heuristics import HEURISTICS
from autoprune.policies.learners import Crossq, Ddpg, Ppo, Sac, Td3, Tqc
from autoprune.policies.sensitivity import Sensitivity, SensitivitySearcher
from autoprune.policies.settings import read_settings
from autoprune.policies.tuners import SAMPLERS, Nsga2, OptunaSearcher, Tpe
from autoprune.search.searcher import Brief, MakeSearcher, Searcher
from autoprune.studies.storage import require_optuna

FIELD = "search.settings"


@dataclass(frozen=True)
class NoSettings:
    """Of a searcher that has none."""


@dataclass(frozen=True)
class Kind:
    """A searcher that is built in: its settings, a dataclass, and what makes it of them."""

    settings: type[Any]
    make: Callable[..., Searcher]  # of a brief and the settings


def _named(name: str, settings: type[Any], make: Callable[..., Searcher]) -> Kind:
    """Of several that `make` makes, the one of this name."""
    return Kind(settings, partial(make, name=name))


def _random(brief: Brief, settings: NoSettings) -> RandomSearcher:
    return RandomSearcher(brief)


def _listed(brief: Brief, settings: NoSettings, *, name: str) -> ListSearcher:
    """A heuristic: of the policies that it names, those that meet the limits."""
    return ListSearcher(brief, name=name, policies=distinct(brief.problem, HEURISTICS[name](brief.problem)))


KINDS: dict[str, Kind] = {
    "ddpg": _named("ddpg", Ddpg, AgentSearcher),
    "td3": _named("td3", Td3, AgentSearcher),
    "sac": _named("sac", Sac, AgentSearcher),
    "tqc": _named("tqc", Tqc, AgentSearcher),
    "crossq": _named("crossq", Crossq, AgentSearcher),
    "ppo": _named("ppo", Ppo, AgentSearcher),
    "random": Kind(NoSettings, _random),
    "evolution": Kind(EvolutionSettings, EvolutionSearcher),
    "tpe": _named("tpe", Tpe, OptunaSearcher),
    "nsga2": _named("nsga2", Nsga2, OptunaSearcher),
    "sensitivity": Kind(Sensitivity, SensitivitySearcher),
    "knapsack": _named("knapsack", NoSettings, _listed),
    "global_magnitude": _named("global_magnitude", NoSettings, _listed),
    "uniform": _named("uniform", NoSettings, _listed),
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
    if name in SAMPLERS:
        require_optuna(f"search.agent: {name}")
    return partial(kind.make, settings=read_settings(kind.settings, settings, field=FIELD))

"""All searchers by name."""

from collections.abc import Callable

from autoprune.policies.agents import AgentSearcher
from autoprune.policies.baselines import ListSearcher, RandomSearcher
from autoprune.policies.evolution import EvolutionSearcher
from autoprune.policies.heuristics import knapsack_policies, magnitude_policies, uniform_policies
from autoprune.policies.learners import Crossq, Ddpg, Ppo, Sac, Td3, Tqc
from autoprune.policies.searcher import Searcher
from autoprune.policies.sensitivity import SensitivitySearcher
from autoprune.policies.tuners import Nsga2Searcher, TpeSearcher

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "ddpg": lambda: AgentSearcher("ddpg", Ddpg()),
    "td3": lambda: AgentSearcher("td3", Td3()),
    "sac": lambda: AgentSearcher("sac", Sac()),
    "tqc": lambda: AgentSearcher("tqc", Tqc()),
    "crossq": lambda: AgentSearcher("crossq", Crossq()),
    "ppo": lambda: AgentSearcher("ppo", Ppo()),
    "random": RandomSearcher,
    "evolution": EvolutionSearcher,
    "tpe": TpeSearcher,
    "nsga2": Nsga2Searcher,
    "sensitivity": SensitivitySearcher,
    "knapsack": lambda: ListSearcher("knapsack", knapsack_policies),
    "global_magnitude": lambda: ListSearcher("global_magnitude", magnitude_policies),
    "uniform": lambda: ListSearcher("uniform", uniform_policies),
}

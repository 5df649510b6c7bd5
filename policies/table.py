"""All searchers by name."""

from collections.abc import Callable

from autoprune.policies.agents import AgentSearcher
from autoprune.policies.baselines import ListSearcher, RandomSearcher
from autoprune.policies.heuristics import knapsack_policies, magnitude_policies, uniform_policies
from autoprune.policies.learners import Ddpg, Ppo, Sac, Td3
from autoprune.policies.searcher import Searcher
from autoprune.policies.sensitivity import SensitivitySearcher

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "ddpg": lambda: AgentSearcher("ddpg", Ddpg()),
    "td3": lambda: AgentSearcher("td3", Td3()),
    "sac": lambda: AgentSearcher("sac", Sac()),
    "ppo": lambda: AgentSearcher("ppo", Ppo()),
    "random": RandomSearcher,
    "sensitivity": SensitivitySearcher,
    "knapsack": lambda: ListSearcher("knapsack", knapsack_policies),
    "global_magnitude": lambda: ListSearcher("global_magnitude", magnitude_policies),
    "uniform": lambda: ListSearcher("uniform", uniform_policies),
}

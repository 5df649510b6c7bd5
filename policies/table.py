"""All searchers by name."""

from collections.abc import Callable

from autoprune.policies.agents import AgentSearcher
from autoprune.policies.baselines import RandomSearcher, UniformSearcher
from autoprune.policies.learners import Ddpg, Ppo, Sac, Td3
from autoprune.policies.searcher import Searcher

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "ddpg": lambda: AgentSearcher("ddpg", Ddpg()),
    "td3": lambda: AgentSearcher("td3", Td3()),
    "sac": lambda: AgentSearcher("sac", Sac()),
    "ppo": lambda: AgentSearcher("ppo", Ppo()),
    "random": RandomSearcher,
    "uniform": UniformSearcher,
}

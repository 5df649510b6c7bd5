"""The agents of Stable-Baselines3 and its Contrib behind one small interface: act, appraise, learn, imitate.

The episodes are driven from outside, so that many roll-outs can be proposed and only one evaluated. SB3's own files are
never read: they hold pickles, which run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from autoprune.envs.layerwise import action_space, observation_space
from autoprune.envs.rollout import RollOut
from autoprune.policies.exploration import Exploration
from autoprune.policies.settings import Amount, Count, Rate

BUFFERED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")  # arrays of a replay buffer
IMITATION_LIMIT = 0.97  # actions are imitated up to here: a tanh reaches 1 only at infinity; options are wider apart


@dataclass(frozen=True)
class Imitation:
    """Behaviour cloning of the best episode so far: after the first round, each other one, and of the final actor."""

    learning_rate: Rate = 3e-3
    first_steps: Count = 300
    round_steps: Count = 20
    final_steps: Count = 600


@dataclass(frozen=True)
class Practice:
    """What all agents have in common: how they look around, and how they imitate what did best."""

    exploration: Exploration = field(default_factory=Exploration)
    imitation: Imitation = field(default_factory=Imitation)


@dataclass(frozen=True)
class OffPolicy(Practice):
    """What agents that learn from a replay buffer have in common."""

    learning_rate: Rate = 2e-3
    hidden: Count = 64
    batch_size: Count = 128
    updates_per_group: Count = 2  # gradient steps for each new episode, times the number of decisions


@dataclass(frozen=True)
class Ddpg(OffPolicy):
    """Settings of DDPG (Lillicrap et al. 2016), AMC's agent."""


@dataclass(frozen=True)
class Td3(OffPolicy):
    """Settings of TD3 (Fujimoto et al. 2018)."""


@dataclass(frozen=True)
class Sac(OffPolicy):
    """Settings of SAC (Haarnoja et al. 2018). The entropy's weight is fixed: utilities always span [-1, 1]."""

    entropy_weight: Amount = 0.01


@dataclass(frozen=True)
class Tqc(OffPolicy):
    """Settings of TQC (Kuznetsov et al. 2020): SAC whose critics tell quantiles; the highest are not believed."""

    entropy_weight: Amount = 0.01
    quantiles: Count = 25  # of each critic
    dropped: Annotated[int, Field(ge=0)] = 2  # of them, in targets

    def __post_init__(self) -> None:
        if self.dropped >= self.quantiles:
            raise ValueError(f"dropped: must be less than quantiles ({self.quantiles}), got {self.dropped}")


@dataclass(frozen=True)
class Crossq(OffPolicy):
    """Settings of CrossQ (Bhatt et al. 2024): SAC with batch renormalisation in place of target networks."""

    entropy_weight: Amount = 0.01


@dataclass(frozen=True)
class Ppo(Practice):
    """Settings of PPO (Schulman et al. 2017)."""

    learning_rate: Rate = 1e-3
    hidden: Count = 64
    episodes_per_update: Count = 4
    epochs: Count = 10
    log_std: Annotated[float, Field(ge=-20, le=2)] = -1.5


AgentSettings = Ddpg | Td3 | Sac | Tqc | Crossq | Ppo
OFF_POLICY: Mapping[type[OffPolicy], Any] = {Ddpg: DDPG, Td3: TD3, Sac: SAC, Tqc: TQC, Crossq: CrossQ}


class OffPolicyLearner:
    """DDPG, TD3, SAC, TQC or CrossQ on a replay buffer of whole episodes.

    Its `actor` is the deterministic one, (batch, fields) to (batch, 1); callers clip to [-1, 1]. Its state, all that it
    has learnt and remembers, are nested dictionaries and lists of tensors and numbers.

    Between trainings the networks are in evaluation mode: CrossQ's normalise by running statistics then, so that a
    state's action does not depend on what else is in the batch, and imitation trains the actor that is exported.
    The discount is 1 and returns are taken over as many steps as there are decisions, so a critic's target is its
    episode's utility, as in AMC. Utilities of old episodes change when better ones arrive: they are written anew.
    """

    def __init__(self, agent: OffPolicyAlgorithm, actor: nn.Module, *, updates: int) -> None:
        self.agent, self.actor, self.updates = agent, actor, updates
        agent.set_logger(Logger(None, []))
        agent.policy.set_training_mode(False)
        self._buffer = cast(ReplayBuffer, agent.replay_buffer)
        self._critic: nn.Module = agent.critic  # type: ignore[attr-defined]

    def appraise(self, rolled: Sequence[RollOut]) -> NDArray[np.float32]:
        """What the critic expects of each roll-out's utility, (count,): the mean of Q(s, a) over its steps, each of
        which estimates the same."""
        observations = torch.from_numpy(np.stack([episode.observations[:-1] for episode in rolled]))
        actions = torch.from_numpy(np.stack([episode.actions for episode in rolled])).unsqueeze(-1)
        with torch.no_grad():
            values = _side_by_side(self._critic(observations.flatten(0, 1), actions.flatten(0, 1)))  # (c * n, q)
        return cast(NDArray[np.float32], values.mean(dim=1).reshape(actions.shape[:2]).mean(dim=1).numpy())

    def learn(self, rolled: Sequence[RollOut], utilities: Sequence[float]) -> None:
        """Take in episodes and train; `utilities` are those of all episodes so far, these ones' last."""
        steps = len(rolled[0].actions)
        for episode in rolled:
            for step in range(steps):
                self._buffer.add(
                    episode.observations[step : step + 1],
                    episode.observations[step + 1 : step + 2],
                    episode.actions[step : step + 1, None],
                    np.zeros(1),
                    np.array([step == steps - 1]),
                    [{}],
                )
        self._buffer.rewards[steps - 1 : len(utilities) * steps : steps, 0] = utilities
        self.agent.train(self.updates * len(rolled), self.agent.batch_size)
        self.agent.policy.set_training_mode(False)

    def state(self) -> dict[str, Any]:
        filled = self._buffer.pos
        remembered = {name: torch.from_numpy(getattr(self._buffer, name)[:filled]) for name in BUFFERED}
        return {**_networks(self.agent), "remembered": remembered}

    def restore(self, state: dict[str, Any]) -> None:
        _restore_networks(self.agent, state)
        remembered = state["remembered"]
        self._buffer.pos = len(remembered["rewards"])
        for name in BUFFERED:
            getattr(self._buffer, name)[: self._buffer.pos] = remembered[name].numpy()


def _networks(agent: BaseAlgorithm) -> dict[str, Any]:
    return {"networks": agent.get_parameters(), "updates": agent._n_updates}


def _restore_networks(agent: BaseAlgorithm, state: dict[str, Any]) -> None:
    agent.set_parameters(state["networks"], device="cpu")
    agent._n_updates = state["updates"]


def _side_by_side(values: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What critics tell of each state and action, (batch, q): one number each, or (batch, critics, quantiles)."""
    return values.flatten(1) if isinstance(values, torch.Tensor) else torch.cat(values, dim=1)


@dataclass(frozen=True)
class Played:
    """An episode that PPO has not learnt from yet."""

    observations: torch.Tensor  # (n + 1, fields)
    actions: torch.Tensor  # (n,)
    utility: float


class PpoLearner:
    """PPO on the newest few episodes, with the members of an `OffPolicyLearner`.

    Choosing among proposals makes the episodes slightly off-policy; PPO's clip bounds that.
    """

    def __init__(self, agent: PPO, actor: nn.Module, *, episodes_per_update: int) -> None:
        self.agent, self.actor, self.episodes_per_update = agent, actor, episodes_per_update
        self._recent: list[Played] = []
        agent.set_logger(Logger(None, []))

    def appraise(self, rolled: Sequence[RollOut]) -> NDArray[np.float32]:
        """The mean of V(s) over the states that an episode's actions lead to."""
        observations = torch.from_numpy(np.stack([episode.observations[1:] for episode in rolled]))
        with torch.no_grad():
            values = self.agent.policy.predict_values(observations.flatten(0, 1))
        return cast(NDArray[np.float32], values.reshape(observations.shape[:2]).mean(dim=1).numpy())

    def learn(self, rolled: Sequence[RollOut], utilities: Sequence[float]) -> None:
        for episode, utility in zip(rolled, utilities[-len(rolled) :], strict=True):
            seen, done = torch.from_numpy(episode.observations), torch.from_numpy(episode.actions)
            self._recent.append(Played(seen, done, utility))
        while len(self._recent) >= self.episodes_per_update:
            self._update(self._recent[: self.episodes_per_update])
            del self._recent[: self.episodes_per_update]

    def state(self) -> dict[str, Any]:
        return {**_networks(self.agent), "recent": [asdict(episode) for episode in self._recent]}

    def restore(self, state: dict[str, Any]) -> None:
        _restore_networks(self.agent, state)
        self._recent = [Played(**episode) for episode in state["recent"]]

    def _update(self, played: Sequence[Played]) -> None:
        """Train on episodes and their utilities."""
        buffer, policy = self.agent.rollout_buffer, self.agent.policy
        buffer.reset()
        for episode in played:
            actions = episode.actions.unsqueeze(-1)
            with torch.no_grad():
                values, log_probs, _ = policy.evaluate_actions(episode.observations[:-1], actions)
            for step in range(len(actions)):
                is_last = step == len(actions) - 1
                buffer.add(
                    episode.observations[step : step + 1].numpy(),
                    actions[step : step + 1].numpy(),
                    np.array([episode.utility if is_last else 0.0]),
                    np.array([step == 0]),
                    values[step],
                    log_probs[step : step + 1],
                )
        buffer.compute_returns_and_advantage(last_values=torch.zeros(1), dones=np.ones(1))
        self.agent.train()


Learner = OffPolicyLearner | PpoLearner


def _net(hidden: int) -> dict[str, Any]:
    """Two hidden layers; Adam in one operation, as a step of so small a net is nearly all overhead."""
    return {"net_arch": [hidden, hidden], "optimizer_kwargs": {"fused": True}}


class _Spaces(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """What agents see and do; they are driven from outside, and never step."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = observation_space(), action_space()


def make_learner(settings: AgentSettings, *, decisions: int, episodes: int) -> Learner:
    """A fresh learner that can hold `episodes` episodes of so many decisions; its weights come from the global
    generators."""
    env = _Spaces()
    if isinstance(settings, Ppo):
        ppo = PPO(
            "MlpPolicy",
            env,
            learning_rate=settings.learning_rate,
            n_steps=decisions * settings.episodes_per_update,
            batch_size=decisions * settings.episodes_per_update,
            n_epochs=settings.epochs,
            gamma=1.0,
            gae_lambda=1.0,
            policy_kwargs={**_net(settings.hidden), "log_std_init": settings.log_std},
            device="cpu",
        )
        actor = nn.Sequential(ppo.policy.mlp_extractor.policy_net, ppo.policy.action_net)
        return PpoLearner(ppo, actor, episodes_per_update=settings.episodes_per_update)
    own: dict[str, Any] = {}
    net = _net(settings.hidden)
    if isinstance(settings, Sac | Tqc | Crossq):
        own["ent_coef"] = settings.entropy_weight
    if isinstance(settings, Tqc):
        own["top_quantiles_to_drop_per_net"] = settings.dropped
        net["n_quantiles"] = settings.quantiles
    agent = OFF_POLICY[type(settings)](
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        buffer_size=episodes * decisions,
        batch_size=settings.batch_size,
        gamma=1.0,
        n_steps=decisions,
        device="cpu",
        policy_kwargs=net,
        **own,
    )
    mean = agent.actor.mu
    actor = mean if isinstance(agent, TD3) else nn.Sequential(agent.actor.latent_pi, mean, nn.Tanh())
    return OffPolicyLearner(agent, actor, updates=settings.updates_per_group * decisions)

"""The agents of Stable-Baselines3 and its Contrib behind one small interface: act, appraise, learn, imitate.

The episodes are driven from outside, so that many roll-outs can be proposed and only one evaluated. SB3's own files are
never read: they hold pickles, which run code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from autoprune.envs.layerwise import LayerwisePruningEnv
from autoprune.envs.rollout import RollOut

IMITATION_LIMIT = 0.97  # actions are imitated up to here: a tanh reaches 1 only at infinity; rungs are wider apart


@dataclass(frozen=True)
class OffPolicy:
    """What agents that learn from a replay buffer have in common."""

    learning_rate: float = 2e-3
    hidden: int = 64
    batch_size: int = 128
    updates_per_group: int = 2  # gradient steps for each new episode, times the number of groups


@dataclass(frozen=True)
class Ddpg(OffPolicy):
    """Settings of DDPG (Lillicrap et al. 2016), AMC's agent."""


@dataclass(frozen=True)
class Td3(OffPolicy):
    """Settings of TD3 (Fujimoto et al. 2018)."""


@dataclass(frozen=True)
class Sac(OffPolicy):
    """Settings of SAC (Haarnoja et al. 2018). The entropy's weight is fixed: utilities always span [-1, 1]."""

    entropy_weight: float = 0.01


@dataclass(frozen=True)
class Tqc(OffPolicy):
    """Settings of TQC (Kuznetsov et al. 2020): SAC whose critics tell quantiles; the highest are not believed."""

    entropy_weight: float = 0.01
    quantiles: int = 25  # of each critic
    dropped: int = 2  # of them, in targets


@dataclass(frozen=True)
class Crossq(OffPolicy):
    """Settings of CrossQ (Bhatt et al. 2024): SAC with batch renormalisation in place of target networks."""

    entropy_weight: float = 0.01


@dataclass(frozen=True)
class Ppo:
    """Settings of PPO (Schulman et al. 2017)."""

    learning_rate: float = 1e-3
    hidden: int = 64
    episodes_per_update: int = 4
    epochs: int = 10
    log_std: float = -1.5


AgentSettings = Ddpg | Td3 | Sac | Tqc | Crossq | Ppo


class Learner(Protocol):
    """An agent between episodes. Shapes: n groups, `count` roll-outs, observations of `fields` numbers."""

    @property
    def actor(self) -> nn.Module:
        """The deterministic actor: (batch, fields) -> (batch, 1); callers clip to [-1, 1]."""
        ...

    def appraise(self, rolled: Sequence[RollOut]) -> NDArray[np.float32]:
        """What the critic expects of each roll-out's utility; (count,)."""
        ...

    def learn(self, rolled: Sequence[RollOut], utilities: Sequence[float]) -> None:
        """Take in episodes and train; `utilities` are those of all episodes so far, these ones' last."""
        ...


class OffPolicyLearner:
    """DDPG, TD3, SAC, TQC or CrossQ on a replay buffer of whole episodes.

    Between trainings the networks are in evaluation mode: CrossQ's normalise by running statistics then, so that a
    state's action does not depend on what else is in the batch, and imitation trains the actor that is exported.
    The discount is 1 and returns are taken over as many steps as there are groups, so a critic's target is its
    episode's utility, as in AMC. Utilities of old episodes change when better ones arrive: they are written anew.
    """

    def __init__(self, agent: OffPolicyAlgorithm, actor: nn.Module, *, updates: int) -> None:
        self.agent, self.actor, self.updates = agent, actor, updates
        agent.set_logger(Logger(None, []))
        agent.policy.set_training_mode(False)
        self._buffer = cast(ReplayBuffer, agent.replay_buffer)
        self._critic: nn.Module = agent.critic  # type: ignore[attr-defined]

    def appraise(self, rolled: Sequence[RollOut]) -> NDArray[np.float32]:
        """The mean of Q(s, a) over an episode's steps: each one estimates the same utility."""
        observations = torch.from_numpy(np.stack([episode.observations[:-1] for episode in rolled]))
        actions = torch.from_numpy(np.stack([episode.actions for episode in rolled])).unsqueeze(-1)
        with torch.no_grad():
            values = _side_by_side(self._critic(observations.flatten(0, 1), actions.flatten(0, 1)))  # (c * n, q)
        return cast(NDArray[np.float32], values.mean(dim=1).reshape(actions.shape[:2]).mean(dim=1).numpy())

    def learn(self, rolled: Sequence[RollOut], utilities: Sequence[float]) -> None:
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


def _side_by_side(values: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What critics tell of each state and action, (batch, q): one number each, or (batch, critics, quantiles)."""
    return values.flatten(1) if isinstance(values, torch.Tensor) else torch.cat(values, dim=1)


class PpoLearner:
    """PPO on the newest few episodes. Choosing among proposals makes them slightly off-policy; its clip bounds that."""

    def __init__(self, agent: PPO, actor: nn.Module, *, episodes_per_update: int) -> None:
        self.agent, self.actor, self.episodes_per_update = agent, actor, episodes_per_update
        self._recent: list[tuple[RollOut, float]] = []
        agent.set_logger(Logger(None, []))

    def appraise(self, rolled: Sequence[RollOut]) -> NDArray[np.float32]:
        """The mean of V(s) over the states that an episode's actions lead to."""
        observations = torch.from_numpy(np.stack([episode.observations[1:] for episode in rolled]))
        with torch.no_grad():
            values = self.agent.policy.predict_values(observations.flatten(0, 1))
        return cast(NDArray[np.float32], values.reshape(observations.shape[:2]).mean(dim=1).numpy())

    def learn(self, rolled: Sequence[RollOut], utilities: Sequence[float]) -> None:
        self._recent.extend(zip(rolled, utilities[-len(rolled) :], strict=True))
        while len(self._recent) >= self.episodes_per_update:
            self._update(self._recent[: self.episodes_per_update])
            del self._recent[: self.episodes_per_update]

    def _update(self, played: Sequence[tuple[RollOut, float]]) -> None:
        """Train on episodes and their utilities."""
        buffer, policy = self.agent.rollout_buffer, self.agent.policy
        buffer.reset()
        for episode, utility in played:
            actions = torch.from_numpy(episode.actions).unsqueeze(-1)
            with torch.no_grad():
                values, log_probs, _ = policy.evaluate_actions(torch.from_numpy(episode.observations[:-1]), actions)
            for step in range(len(actions)):
                is_last = step == len(actions) - 1
                buffer.add(
                    episode.observations[step : step + 1],
                    episode.actions[step : step + 1, None],
                    np.array([utility if is_last else 0.0]),
                    np.array([step == 0]),
                    values[step],
                    log_probs[step : step + 1],
                )
        buffer.compute_returns_and_advantage(last_values=torch.zeros(1), dones=np.ones(1))
        self.agent.train()


def _net(hidden: int) -> dict[str, Any]:
    """Two hidden layers; Adam in one operation, as a step of so small a net is nearly all overhead."""
    return {"net_arch": [hidden, hidden], "optimizer_kwargs": {"fused": True}}


def make_learner(settings: AgentSettings, env: LayerwisePruningEnv, *, episodes: int) -> Learner:
    """A fresh learner that can hold `episodes` episodes; its weights come from the global generators."""
    groups = len(env.problem.groups)
    if isinstance(settings, Ppo):
        ppo = PPO(
            "MlpPolicy",
            env,
            learning_rate=settings.learning_rate,
            n_steps=groups * settings.episodes_per_update,
            batch_size=groups * settings.episodes_per_update,
            n_epochs=settings.epochs,
            gamma=1.0,
            gae_lambda=1.0,
            policy_kwargs={**_net(settings.hidden), "log_std_init": settings.log_std},
            device="cpu",
        )
        actor = nn.Sequential(ppo.policy.mlp_extractor.policy_net, ppo.policy.action_net)
        return PpoLearner(ppo, actor, episodes_per_update=settings.episodes_per_update)
    shared: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "buffer_size": episodes * groups,
        "batch_size": settings.batch_size,
        "gamma": 1.0,
        "n_steps": groups,
        "device": "cpu",
    }
    updates = settings.updates_per_group * groups
    net = _net(settings.hidden)
    if isinstance(settings, Ddpg | Td3):
        kind = DDPG if isinstance(settings, Ddpg) else TD3
        agent = kind("MlpPolicy", env, policy_kwargs=net, **shared)
        return OffPolicyLearner(agent, agent.actor.mu, updates=updates)
    shared["ent_coef"] = settings.entropy_weight
    stochastic: SAC | TQC | CrossQ
    if isinstance(settings, Tqc):
        net["n_quantiles"] = settings.quantiles
        stochastic = TQC("MlpPolicy", env, policy_kwargs=net, top_quantiles_to_drop_per_net=settings.dropped, **shared)
    elif isinstance(settings, Crossq):
        stochastic = CrossQ("MlpPolicy", env, policy_kwargs=net, **shared)
    else:
        stochastic = SAC("MlpPolicy", env, policy_kwargs=net, **shared)
    return OffPolicyLearner(
        stochastic,
        nn.Sequential(stochastic.actor.latent_pi, stochastic.actor.mu, nn.Tanh()),
        updates=updates,
    )

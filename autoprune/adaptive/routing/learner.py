"""Trains the learned router, a Q-network of Stable-Baselines3's DQN, on what every level answers to some images."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from torch import nn

from autoprune.adaptive.routing.environment import InputAdaptiveEnv, advance
from autoprune.adaptive.routing.routers import LearnedRouter
from autoprune.adaptive.routing.routing import LevelAnswers, figures_of, follow
from autoprune.envs.router_observation import observe_answer, price_of
from autoprune.foundation.progress import bar
from autoprune.foundation.seeding import derive_seed, rng

Array = NDArray[np.float32]

PRICES = 9  # at which a state is judged, evenly over the range


@dataclass(frozen=True)
class RouterSettings:
    """Settings of DQN (Mnih et al. 2015) for a problem of few steps: each image is met at many prices of time."""

    hidden: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    batch_size: int = 512
    copies: int = 8  # of each image in the replay buffer, each at a price of its own
    rounds: int = 40  # of training; the best state after any of them is kept
    steps: int = 300  # gradient steps in a round
    max_price: float = 1.0  # at which a run of the largest level is never worth its time


def train_router(
    learnt: LevelAnswers,
    held_out: LevelAnswers,
    *,
    seed: int,
    settings: RouterSettings = RouterSettings(),
) -> LearnedRouter:
    """Learn from the answers `learnt`; those `held_out` choose the state of the network that is kept.

    `learnt` may be of images that levels were trained on: there are many more of those, and what the router gains by
    them is more than it loses by the levels' being surer of these. Every decision about every image is replayed, so
    that no exploration is needed: a replay buffer holds what stopping and going on lead to.
    """
    with bar("router", settings.rounds) as progress, torch.random.fork_rng(), contextlib.ExitStack() as kept:
        kept.callback(np.random.set_state, np.random.get_state())  # the agent seeds the global generators
        env = InputAdaptiveEnv(learnt, max_price=settings.max_price)
        transitions = every_decision(learnt, settings, seed=seed)
        agent = DQN(
            "MlpPolicy",
            env,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            buffer_size=len(transitions.actions),
            gamma=1.0,
            target_update_interval=1,  # counted in calls of `train`'s caller: the target is copied each round below
            policy_kwargs={
                "net_arch": [settings.hidden],
                "optimizer_class": torch.optim.AdamW,
                "optimizer_kwargs": {"weight_decay": settings.weight_decay},
            },
            device="cpu",
            seed=derive_seed(seed, "router") % 2**31,
        )
        agent.set_logger(Logger(None, []))
        buffer = agent.replay_buffer
        assert buffer is not None
        buffer.observations[:, 0] = transitions.observations
        buffer.next_observations[:, 0] = transitions.next_observations
        buffer.actions[:, 0, 0], buffer.rewards[:, 0] = transitions.actions, transitions.rewards
        buffer.dones[:, 0] = transitions.dones
        buffer.pos, buffer.full = 0, True
        classes = learnt.probabilities.shape[2]
        best, best_return = _router_of(agent, classes, settings), -np.inf
        for _ in range(settings.rounds):
            agent.train(settings.steps, settings.batch_size)
            agent.q_net_target.load_state_dict(agent.q_net.state_dict())
            router = _router_of(agent, classes, settings)
            found = mean_return(router, held_out)
            if found > best_return:
                best, best_return = router, found
            progress.advance(1, f"return {found:.4f}")
    return best


def mean_return(router: LearnedRouter, answers: LevelAnswers) -> float:
    """The answers' worth less the price of time, over images and prices."""
    largest_ms = answers.latency_ms[-1]
    returns = []
    for price in price_of(np.linspace(0, 1, PRICES, dtype=np.float32), router.max_price):
        found = figures_of(follow(router.at_price(float(price)), answers), answers)
        returns.append(found.worth - price * found.estimated_latency_ms / largest_ms)
    return float(np.mean(returns))


@dataclass(frozen=True)
class Transitions:
    """Of the routing environment; n of them."""

    observations: Array  # (n, fields)
    actions: NDArray[np.int64]  # (n,)
    rewards: Array  # (n,)
    next_observations: Array  # (n, fields)
    dones: Array  # (n,)


def every_decision(answers: LevelAnswers, settings: RouterSettings, *, seed: int) -> Transitions:
    """What each action does to each image at each level that asks the router, at `copies` prices drawn by chance.

    The same as stepping through `InputAdaptiveEnv`, all images at once.
    """
    generator = rng(seed, "router prices")
    levels, images = answers.levels, len(answers.labels)
    every = np.arange(images)
    parts = []
    for _ in range(settings.copies):
        share = generator.uniform(0.0, 1.0, images).astype(np.float32)
        seen = [observe_answer(level, answers.probabilities[level], share, levels=levels) for level in range(levels)]
        for level in range(levels - 1):
            for action in range(levels):
                routed = advance(answers, level, action, every, price_of(share, settings.max_price))
                done = np.full(images, float(routed.done), dtype=np.float32)
                rewards = np.asarray(routed.rewards, dtype=np.float32)
                parts.append((seen[level], np.full(images, action), rewards, seen[routed.level], done))
    return Transitions(*map(np.concatenate, zip(*parts, strict=True)))


def _router_of(agent: DQN, classes: int, settings: RouterSettings) -> LearnedRouter:
    layers = [module for module in agent.q_net.q_net if isinstance(module, nn.Linear)]
    levels = int(agent.action_space.n)  # type: ignore[attr-defined]
    return LearnedRouter(
        tuple((layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in layers),
        classes=classes,
        levels=levels,
        max_price=settings.max_price,
    )

"""Exploration: roll-outs near the best known ones, of which the critic picks one that is worth an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.envs.rollout import Act, RollOut, roll_out
from autoprune.problem import PruningProblem


@dataclass(frozen=True)
class Exploration:
    """How far and how much to look around; the noise falls linearly from start to end over the budget."""

    proposals: int = 16  # roll-outs per episode, of which one is evaluated
    replayed_share: float = 0.5  # of the proposals that start from the best episode's actions, not the actor's
    noise_start: float = 0.6  # standard deviation of the truncated normal noise on an action
    noise_end: float = 0.3
    changed_groups: float = 2.5  # groups that get noise in an episode, on average
    greed: float = 0.7  # how often the critic picks; otherwise the pick is random


def act_with(actor: nn.Module) -> Act:
    """The deterministic actor as the environment takes it."""

    def act(step: int, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            actions = actor(torch.from_numpy(observations))
        return np.clip(actions.numpy().reshape(-1), -1.0, 1.0).astype(np.float32)

    return act


def propose(
    problem: PruningProblem,
    actor: nn.Module,
    best_actions: NDArray[np.float32],
    settings: Exploration,
    *,
    noise: float,
    rng: np.random.Generator,
) -> tuple[RollOut, ...]:
    """Roll-outs of the actor and of the best episode, each with noise on a few groups.

    Noise on few groups at a time keeps what is good and shows which change did it; noise on all groups at once, as in
    AMC, nearly always hurts when there are a hundred episodes and not a thousand.
    """
    count, groups = settings.proposals, len(problem.groups)
    replayed = rng.random(count) < settings.replayed_share
    changed = rng.random((groups, count)) < settings.changed_groups / groups
    changed[rng.integers(groups, size=count), np.arange(count)] = True  # at least one
    follow = act_with(actor)

    def act(step: int, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        mean = np.where(replayed, best_actions[step], follow(step, observations))
        return np.where(changed[step], truncated_normal(mean, noise, rng), mean).astype(np.float32)

    return roll_out(problem, act, count=count)


def truncated_normal(mean: NDArray[np.float32], std: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal around `mean`, drawn again while outside [-1, 1] (AMC's exploration noise)."""
    drawn = np.asarray(rng.normal(mean, std))
    while (outside := np.abs(drawn) > 1.0).any():
        drawn = np.where(outside, rng.normal(mean, std), drawn)
    return drawn.astype(np.float32)


def utilities_of(rewards: Sequence[float]) -> NDArray[np.float32]:
    """Rewards as centred ranks in [-1, 1], equal ones equal; (episodes,).

    A reward in nats spans orders of magnitude between a ruined network and a good one; ranks keep the critic's eye on
    the good ones (fitness shaping, Wierstra et al. 2014) and play the part of AMC's moving baseline.
    """
    values = np.asarray(rewards)
    if len(values) == 1:
        return np.zeros(1, dtype=np.float32)
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    ranks = below + (equal - 1) / 2.0  # 0 .. episodes - 1
    return (2.0 * ranks / (len(values) - 1) - 1.0).astype(np.float32)

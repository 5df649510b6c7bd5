"""Roll-outs: whole episodes without their evaluation. Until the terminal reward an episode costs only predictions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.envs.action import action_of, clip_rung, policy_of_rungs, rung_of, rungs_of
from autoprune.envs.observation import observe
from autoprune.errors import RunError
from autoprune.policy import PruningPolicy
from autoprune.search.problem import PruningProblem

Act = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]
"""(step, observations (count, fields)) -> actions (count,) in [-1, 1]."""


@dataclass(frozen=True)
class RollOut:
    """One episode over n groups, not evaluated."""

    observations: NDArray[np.float32]  # (n + 1, fields); the last one is after the last decision
    actions: NDArray[np.float32]  # (n,) what was done: the asked action, snapped to a rung and clipped
    rungs: tuple[int, ...]  # index on each group's ladder
    policy: PruningPolicy


def roll_out(problem: PruningProblem, act: Act, *, count: int = 1) -> tuple[RollOut, ...]:
    """Decide on every group in turn, in `count` independent episodes side by side.

    Raises `RunError` if `act` gives anything but finite numbers, as an agent does whose training has diverged.
    """
    groups = problem.groups
    decided: list[tuple[int, ...]] = [()] * count
    actions = np.zeros((len(groups) + 1, count), dtype=np.float32)  # row 0 is the last action before the first one
    observations = [np.stack([observe(problem, (), 0.0)] * count)]  # (count, fields) each
    for step, group in enumerate(groups):
        asked = act(step, observations[-1])
        if not np.isfinite(asked[:count]).all():
            raise RunError("the agent's actions are not finite: its training has diverged; search with another seed")
        for i in range(count):
            rung = clip_rung(problem, decided[i], rung_of(float(asked[i]), group))
            decided[i] = (*decided[i], rung)
            actions[step + 1, i] = action_of(rung, group)
        observations.append(np.stack([observe(problem, decided[i], float(actions[step + 1, i])) for i in range(count)]))
    stacked = np.stack(observations, axis=1)  # (count, n + 1, fields)
    return tuple(
        RollOut(stacked[i], actions[1:, i], decided[i], policy_of_rungs(groups, decided[i])) for i in range(count)
    )


def demonstrate(problem: PruningProblem, policy: PruningPolicy) -> RollOut:
    """The roll-out that asks for the rungs of `policy`; clipping may still lower some of them."""
    actions = actions_of(problem, policy)
    (rolled,) = roll_out(problem, lambda step, _: actions[step : step + 1])
    return rolled


def actions_of(problem: PruningProblem, policy: PruningPolicy) -> NDArray[np.float32]:
    """The actions that ask for the rungs of `policy`; `(n,)`. Raises `ValueError` for a width off the ladder."""
    rungs = rungs_of(problem.groups, policy)
    return np.array([action_of(rung, group) for rung, group in zip(rungs, problem.groups, strict=True)], np.float32)

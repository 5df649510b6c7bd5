"""Roll-outs: whole episodes without their evaluation. Until the terminal reward an episode costs only predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.envs.action import EpisodeState, action_of, advance
from autoprune.envs.observation import observe
from autoprune.errors import RunError
from autoprune.search.problem import PredictedProblem
from autoprune.space.decision import Policy

Act = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]
"""(step, observations (count, fields)) -> actions (count,) in [-1, 1]."""


@dataclass(frozen=True)
class RollOut:
    """One episode over n decisions, not evaluated."""

    observations: NDArray[np.float32]  # (n + 1, fields); the last one is after the last decision
    actions: NDArray[np.float32]  # (n,) what was done: the asked action, snapped to an option and clipped
    policy: Policy


def roll_out(problem: PredictedProblem, act: Act, *, count: int = 1) -> tuple[RollOut, ...]:
    """Take every decision in turn, in `count` independent episodes side by side.

    Raises `RunError` if `act` gives anything but finite numbers, as an agent does whose training has diverged.
    """
    states = [EpisodeState()] * count
    actions: list[NDArray[np.float32]] = []  # (count,) each
    observations = [np.stack([observe(problem, state) for state in states])]  # (count, fields) each
    for step in range(len(problem.decisions)):
        asked = act(step, observations[-1])[:count]
        if not np.isfinite(asked).all():
            raise RunError("the agent's actions are not finite: its training has diverged; search with another seed")
        states = [advance(problem, state, float(action)) for state, action in zip(states, asked, strict=True)]
        actions.append(np.array([state.last_action for state in states], dtype=np.float32))
        observations.append(np.stack([observe(problem, state) for state in states]))
    done, seen = np.stack(actions, axis=1), np.stack(observations, axis=1)  # (count, n), (count, n + 1, fields)
    return tuple(RollOut(seen[i], done[i], state.decided) for i, state in enumerate(states))


def demonstrate(problem: PredictedProblem, policy: Policy) -> RollOut:
    """The roll-out that asks for the options of `policy`; clipping may still lower some of them."""
    actions = actions_of(problem, policy)
    (rolled,) = roll_out(problem, lambda step, _: actions[step : step + 1])
    return rolled


def actions_of(problem: PredictedProblem, policy: Sequence[int]) -> NDArray[np.float32]:
    """The actions that ask for the options of `policy`; `(n,)`."""
    return np.array(
        [action_of(option, decision) for option, decision in zip(policy, problem.decisions, strict=True)], np.float32
    )

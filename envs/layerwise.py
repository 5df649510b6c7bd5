"""The pruning environment: one decision a step, the reward at the end."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autoprune.envs.action import EpisodeState, advance, is_over
from autoprune.envs.misuse import checked_problem, continuous_action, reset_needed
from autoprune.envs.observation import OBSERVATION_FIELDS, observe
from autoprune.search.problem import PruningProblem


def observation_space() -> gymnasium.Space[NDArray[np.float32]]:
    return gymnasium.spaces.Box(-1.0, 1.0, (len(OBSERVATION_FIELDS),), np.float32)


def action_space() -> gymnasium.Space[NDArray[np.float32]]:
    return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


class LayerwisePruningEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Take the decisions of `problem` from first to last (AMC, He et al. 2018).

    Observation: `(len(OBSERVATION_FIELDS),)` float32 in [-1, 1]. Action: `(1,)` float32 in [-1, 1], a keep ratio that
    is snapped to an option and clipped so that every limit can still be met; one beyond the range is taken for the
    nearer end. The reward is 0 until the last decision is taken; then the candidate is evaluated, its reward is the
    problem's and `info["outcome"]` its `Outcome`. Errors of `problem.evaluate` pass through `step` and end the episode.
    Nothing here is random. Raises `InputError` for what is no problem.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it as a mutable class attribute)

    def __init__(self, problem: PruningProblem) -> None:
        self.problem = checked_problem(problem)
        self.observation_space, self.action_space = observation_space(), action_space()
        self._state: EpisodeState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start over with no decision taken."""
        super().reset(seed=seed, options=options)
        self._state = EpisodeState()
        return observe(self.problem, self._state), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take the next decision; `info["channels"]` is what it keeps, or the size of a layer's option.

        Raises `ResetNeeded` outside of an episode, and `InvalidAction` for an action of another shape or type, or one
        that is not finite: nothing is decided then.
        """
        problem = self.problem
        if self._state is None or is_over(problem, self._state):
            raise reset_needed(started=self._state is not None)
        state = self._state = advance(problem, self._state, continuous_action(action))
        observation = observe(problem, state)
        decided = len(state.decided) - 1
        info: dict[str, Any] = {"channels": problem.decisions[decided].ladder[state.decided[decided]]}
        if not is_over(problem, state):
            return observation, 0.0, False, False, info
        outcome = problem.evaluate(state.decided)
        return observation, outcome.reward, True, False, info | {"outcome": outcome}

"""What a caller of an environment can do wrong; each error is Gymnasium's and ours."""

import numbers
from typing import cast

import gymnasium
import numpy as np

from autoprune.errors import InputError, shown
from autoprune.search.problem import PruningProblem

PROBLEM_PARTS = ("decisions", "limits", "known", "original_cost", "predict", "evaluate")  # of the protocol


class ResetNeeded(InputError, gymnasium.error.ResetNeeded):
    """`step` before the first `reset`, or after the end of an episode."""


class InvalidAction(InputError, gymnasium.error.InvalidAction):
    """An action of another shape or type, not finite, or not one that there is."""


def reset_needed(*, started: bool) -> ResetNeeded:
    """The error of a `step` outside of an episode."""
    when = "the episode is over" if started else "no episode has begun"
    return ResetNeeded(f"step: {when}; call reset() first")


def continuous_action(action: object) -> float:
    """The number of a `(1,)` array of finite numbers, one beyond [-1, 1] as the nearer end. Raises `InvalidAction`."""
    try:
        found = np.asarray(action)
    except Exception:  # a ragged list, or a stranger's object that refuses
        found = np.empty(0, dtype=object)
    if found.shape != (1,) or found.dtype.kind not in "fiu" or not np.isfinite(found[0]):
        raise InvalidAction(
            f"action: must be one finite number, shape (1,) (beyond [-1, 1] the nearer end counts), got {shown(action)}"
        )
    return min(max(float(found[0]), -1.0), 1.0)


def checked_problem(problem: object) -> PruningProblem:
    """`problem`, if it has what an environment asks of it. Raises `InputError`."""
    lacking = [name for name in PROBLEM_PARTS if not hasattr(problem, name)]
    if lacking or isinstance(problem, type):
        raise InputError(
            f"problem: must be a PruningProblem, as autoprune.search.toy.toy_problem() or the problem of "
            f"autoprune.search.prepare.prepare(...), got {shown(problem)}"
        )
    return cast(PruningProblem, problem)


def discrete_action(action: object, count: int) -> int:
    """A whole number from 0 to `count` - 1, as a scalar or an array of shape `()`. Raises `InvalidAction`."""
    value = action[()] if isinstance(action, np.ndarray) and action.shape == () else action
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 0 <= int(value) < count:
        raise InvalidAction(f"action: must be a whole number from 0 to {count - 1}, got {shown(action)}")
    return int(value)

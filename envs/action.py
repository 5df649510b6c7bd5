"""Actions: a number in [-1, 1] asks for a keep ratio, and is clipped to an option that leaves the target in reach.

What a step does is pure, so that episodes can be stepped through one by one in Gymnasium, or many side by side, and are
the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.errors import InputError
from autoprune.search.problem import PredictedProblem, meets
from autoprune.space.decision import Decision, Policy, floor_policy, full_policy


def keep_ratio_of(action: float, decision: Decision) -> float:
    """The share of channels that `action` asks to keep: -1 is the decision's floor option, 1 keeps all, linear
    between."""
    floor = decision.ladder[0] / decision.channels
    return floor + (min(max(action, -1.0), 1.0) + 1.0) / 2.0 * (1.0 - floor)


def nearest_option(keep_ratio: float, decision: Decision) -> int:
    """The index of the option whose share of channels is nearest to `keep_ratio`; the lower one of two equally near."""
    distances = [abs(channels / decision.channels - keep_ratio) for channels in decision.ladder]
    return distances.index(min(distances))


def option_of(action: float, decision: Decision) -> int:
    """The index of the option that `action` asks for. Raises `InputError` for NaN and infinity, which ask for none."""
    if not math.isfinite(action):
        raise InputError(f"the action for decision {decision.name} is {action}; it must be a finite number in [-1, 1]")
    return nearest_option(keep_ratio_of(action, decision), decision)


def action_of(option: int, decision: Decision) -> float:
    """The action that asks for exactly this option; the inverse of `option_of`. A ladder of one option gives 1."""
    floor = decision.ladder[0]
    if floor == decision.channels:
        return 1.0
    return 2.0 * (decision.ladder[option] - floor) / (decision.channels - floor) - 1.0


def with_floor(decisions: Sequence[Decision], decided: Sequence[int]) -> Policy:
    """The options taken, and every later decision at its floor option."""
    return (*decided, *floor_policy(decisions[len(decided) :]))


def with_full(decisions: Sequence[Decision], decided: Sequence[int]) -> Policy:
    """The options taken, and every later decision with all its channels."""
    return (*decided, *full_policy(decisions[len(decided) :]))


def clip_option(problem: PredictedProblem, decided: Sequence[int], asked: int) -> int:
    """The largest option not above `asked`, for the decision after `decided`, that leaves every limit within reach.

    Within reach means: met with all later decisions at their floor (AMC, He et al. 2018, section 3.2 and algorithm 1).
    Latency is not monotone in the width, so the options are tried one by one. The floor option needs no trial: the step
    before has already found that it fits, and a problem whose floor breaks a limit cannot be made.
    """
    for option in range(asked, 0, -1):
        if meets(problem.predict(with_floor(problem.decisions, (*decided, option))), problem.limits):
            return option
    return 0


@dataclass(frozen=True)
class EpisodeState:
    """Where an episode is: the options of the decisions that are taken, and the action that led there."""

    decided: tuple[int, ...] = ()
    last_action: float = 0.0  # what was done: the asked action, snapped to an option and clipped


def advance(problem: PredictedProblem, state: EpisodeState, action: float) -> EpisodeState:
    """Take the next decision: the option that `action` asks for, or the largest below it that leaves every limit within
    reach. Raises `InputError` for NaN and infinity."""
    decision = problem.decisions[len(state.decided)]
    option = clip_option(problem, state.decided, option_of(action, decision))
    return EpisodeState((*state.decided, option), action_of(option, decision))


def is_over(problem: PredictedProblem, state: EpisodeState) -> bool:
    return len(state.decided) == len(problem.decisions)

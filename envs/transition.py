"""What a step of the pruning environment does: pure, so that episodes can be stepped through one by one in Gymnasium,
or many side by side, and are the same."""

from dataclasses import dataclass

from autoprune.envs.action import action_of, clip_option, option_of
from autoprune.search.problem import PredictedProblem


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

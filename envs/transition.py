"""What a step of the pruning environment does: pure, so that episodes can be stepped through one by one in Gymnasium,
or many side by side, and are the same."""

from dataclasses import dataclass

from autoprune.envs.action import action_of, clip_rung, policy_of_rungs, rung_of
from autoprune.search.problem import PredictedProblem
from autoprune.space.policy import PruningPolicy


@dataclass(frozen=True)
class EpisodeState:
    """Where an episode is: the rungs of the groups that are decided, and the action that led there."""

    decided: tuple[int, ...] = ()
    last_action: float = 0.0  # what was done: the asked action, snapped to a rung and clipped


def advance(problem: PredictedProblem, state: EpisodeState, action: float) -> EpisodeState:
    """Decide on the next group: the rung that `action` asks for, or the largest below it that leaves every limit within
    reach. Raises `InputError` for NaN and infinity."""
    group = problem.groups[len(state.decided)]
    rung = clip_rung(problem, state.decided, rung_of(action, group))
    return EpisodeState((*state.decided, rung), action_of(rung, group))


def is_over(problem: PredictedProblem, state: EpisodeState) -> bool:
    return len(state.decided) == len(problem.groups)


def decided_policy(problem: PredictedProblem, state: EpisodeState) -> PruningPolicy:
    """The policy of an episode that is over."""
    return policy_of_rungs(problem.groups, state.decided)

"""Actions: a number in [-1, 1] asks for a keep ratio, and is clipped to a rung that leaves the target in reach."""

import math
from collections.abc import Sequence

from autoprune.foundation.errors import InputError
from autoprune.search.problem import PredictedProblem, SearchGroup, meets
from autoprune.space.policy import PruningPolicy


def keep_ratio_of(action: float, group: SearchGroup) -> float:
    """The share of channels that `action` asks to keep: -1 is the group's floor rung, 1 keeps all, linear between."""
    floor = group.ladder[0] / group.channels
    return floor + (min(max(action, -1.0), 1.0) + 1.0) / 2.0 * (1.0 - floor)


def nearest_rung(keep_ratio: float, group: SearchGroup) -> int:
    """The index of the rung whose share of channels is nearest to `keep_ratio`; the lower one of two equally near."""
    distances = [abs(channels / group.channels - keep_ratio) for channels in group.ladder]
    return distances.index(min(distances))


def rung_of(action: float, group: SearchGroup) -> int:
    """The index of the rung that `action` asks for. Raises `InputError` for NaN and infinity, which ask for none."""
    if not math.isfinite(action):
        raise InputError(f"the action for group {group.name} is {action}; it must be a finite number in [-1, 1]")
    return nearest_rung(keep_ratio_of(action, group), group)


def action_of(rung: int, group: SearchGroup) -> float:
    """The action that asks for exactly this rung; the inverse of `rung_of`. A ladder of one rung gives 1."""
    floor = group.ladder[0]
    if floor == group.channels:
        return 1.0
    return 2.0 * (group.ladder[rung] - floor) / (group.channels - floor) - 1.0


def with_floor(groups: Sequence[SearchGroup], decided: Sequence[int]) -> PruningPolicy:
    """The decided rungs, and every later group at its floor rung."""
    rungs = (*decided, *(0 for _ in groups[len(decided) :]))
    return policy_of_rungs(groups, rungs)


def with_full(groups: Sequence[SearchGroup], decided: Sequence[int]) -> PruningPolicy:
    """The decided rungs, and every later group with all its channels."""
    rungs = (*decided, *(len(group.ladder) - 1 for group in groups[len(decided) :]))
    return policy_of_rungs(groups, rungs)


def policy_of_rungs(groups: Sequence[SearchGroup], rungs: Sequence[int]) -> PruningPolicy:
    """The policy that keeps `ladder[rung]` channels of each group."""
    return PruningPolicy.of({group.name: group.ladder[rung] for group, rung in zip(groups, rungs, strict=True)})


def rungs_of(groups: Sequence[SearchGroup], policy: PruningPolicy) -> tuple[int, ...]:
    """The rungs of `policy`; the inverse of `policy_of_rungs`. Raises `ValueError` for a width off the ladder."""
    channels = policy.as_dict()
    return tuple(group.ladder.index(channels[group.name]) for group in groups)


def clip_rung(problem: PredictedProblem, decided: Sequence[int], asked: int) -> int:
    """The largest rung not above `asked`, for the group after `decided`, that leaves every limit within reach.

    Within reach means: met with all later groups at their floor (AMC, He et al. 2018, section 3.2 and algorithm 1).
    Latency is not monotone in the width, so the rungs are tried one by one. The floor rung needs no trial: the step
    before has already found that it fits, and a problem whose floor breaks a limit cannot be made.
    """
    for rung in range(asked, 0, -1):
        if meets(problem.predict(with_floor(problem.groups, (*decided, rung))), problem.limits):
            return rung
    return 0

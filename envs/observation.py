"""What an agent sees before it takes a decision; scaled so that it means the same in every model."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.envs.action import EpisodeState, is_over, with_floor, with_full
from autoprune.search.problem import Limit, PredictedCost, PredictedProblem
from autoprune.space.decision import Decision

LAYER_FIELDS = (
    "is_conv",
    "is_depthwise",
    "is_linear",
    "channels_in",  # log2, of 4096
    "channels",  # log2, of 4096
    "stride",  # of 4
    "kernel",  # of 7
    "spatial",  # log2, of 256
    "macs_share",
    "latency_share",
    "sensitivity",  # s / (s + 0.1 nats)
    "branch_loss",  # the same of the branch that may go; 1 where none may
    "floor_share",  # of the decision's channels
)
PROGRESS_FIELDS = (
    "index",  # decisions taken, of all
    "index_parity",  # -1 or 1 in turn: tells neighbours with equal layers apart
    "removed",  # share of the cost that is gone if no later decision is cut
    "removable",  # share of the cost that the decisions to come can still give
    "required",  # share of the cost that must still go
    "pressure",  # required / removable
    "damage",  # sensitivity-weighted cuts so far, of what cutting all decisions to the floor would do
    "last_action",
)
OBSERVATION_FIELDS = (*LAYER_FIELDS, *PROGRESS_FIELDS)
"""The names of an observation's numbers, in order; all of them lie in [-1, 1]. After He et al. 2018 (AMC), eq. 1."""


def observe(problem: PredictedProblem, state: EpisodeState) -> NDArray[np.float32]:
    """The observation before the next decision is taken; `(len(OBSERVATION_FIELDS),)`, float32.

    After the last decision the layer fields are 0. The cost is that of the limit with the most still to remove, latency
    if the problem has no limit.
    """
    decisions = problem.decisions
    layer = [0.0] * len(LAYER_FIELDS) if is_over(problem, state) else layer_features(decisions[len(state.decided)])
    progress = progress_features(problem, state)
    return np.clip(np.array(layer + progress, dtype=np.float32), -1.0, 1.0)


def layer_features(decision: Decision) -> list[float]:
    """The numbers of `LAYER_FIELDS`."""
    return [
        float(decision.kind == "conv"),
        float(decision.kind == "depthwise"),
        float(decision.kind == "linear"),
        math.log2(max(decision.channels_in, 1)) / 12.0,
        math.log2(max(decision.channels, 1)) / 12.0,
        decision.stride / 4.0,
        decision.kernel / 7.0,
        math.log2(max(decision.spatial, 1)) / 8.0,
        decision.macs_share,
        decision.latency_share,
        squash_sensitivity(decision.sensitivity),
        squash_sensitivity(decision.branch_loss) if decision.may_go else 1.0,
        decision.ladder[0] / decision.channels,
    ]


def progress_features(problem: PredictedProblem, state: EpisodeState) -> list[float]:
    """The numbers of `PROGRESS_FIELDS`."""
    decisions, decided = problem.decisions, state.decided
    most = problem.predict(with_full(decisions, decided))
    least = problem.predict(with_floor(decisions, decided))
    limit = tightest_limit(problem, most)
    original = problem.original_cost.of(limit.metric)
    removed = 1.0 - most.of(limit.metric) / original
    removable = (most.of(limit.metric) - least.of(limit.metric)) / original
    required = max((most.of(limit.metric) - limit.max_value) / original, 0.0)
    return [
        len(decided) / len(decisions),
        float(1 - 2 * (len(decided) % 2)),
        removed,
        removable,
        required,
        required / removable if removable > 0.0 else float(required > 0.0),
        damage(decisions, decided),
        state.last_action,
    ]


def tightest_limit(problem: PredictedProblem, cost: PredictedCost) -> Limit:
    """The limit that `cost` exceeds by the largest share of the original; the original latency if there is none."""

    def excess(limit: Limit) -> float:
        return (cost.of(limit.metric) - limit.max_value) / problem.original_cost.of(limit.metric)

    without_limits = Limit("latency", problem.original_cost.predicted_latency_ms)
    return max(problem.limits, key=excess, default=without_limits)


def damage(decisions: Sequence[Decision], decided: Sequence[int]) -> float:
    """Sensitivity times the squared share of channels cut, or the loss of a branch that is gone, summed over the
    decisions taken; 1 for the floor policy."""
    total = sum(_cut_damage(decision, 0) for decision in decisions)
    done = sum(_cut_damage(decision, option) for decision, option in zip(decisions, decided, strict=False))
    return done / total if total > 0.0 else 0.0


def squash_sensitivity(sensitivity: float) -> float:
    """Nats to [0, 1): 0.1 nats, a clearly hurt model, is a half."""
    return max(sensitivity, 0.0) / (max(sensitivity, 0.0) + 0.1)


def _cut_damage(decision: Decision, option: int) -> float:
    if decision.ladder[option] == 0:
        return max(decision.branch_loss, 0.0)
    return max(decision.sensitivity, 0.0) * (1.0 - decision.ladder[option] / decision.channels) ** 2

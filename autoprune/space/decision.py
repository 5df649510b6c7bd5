"""What a search decides: for each decision one of its numbered options. What an option is, this folder alone knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.space.policy import PruningPolicy

Policy = tuple[int, ...]
"""As searchers, agents and the environment have it: the number of an option for each decision, in order. The highest
number changes nothing."""


@dataclass(frozen=True)
class Decision:
    """What a searcher knows of a prunable group, whose width is decided, or of a layer with options of its own. Shares
    are of the whole original model, 0..1.

    Option k keeps `ladder[k]` channels, or is of that size; none: the branch that the group is in is gone.
    """

    name: str
    kind: str  # "conv", "depthwise" or "linear": the layer that makes the channels
    ladder: tuple[int, ...]  # widths worth trying, ascending; the last one keeps all channels
    channels_in: int
    stride: int
    kernel: int
    spatial: int  # height of the layer's output
    macs_share: float
    latency_share: float
    sensitivity: float  # divergence from the original, with this group alone at its `middle_option`, at the first look
    lost_importance: tuple[float, ...]  # per option, share of the group's importance that it removes; 0 at the last
    is_width: bool = True  # what `search.min_keep` bounds; otherwise a size of an option of its own
    branch_loss: float = 0.0  # the same as the sensitivity with this branch alone gone, if it may go

    @property
    def channels(self) -> int:
        return self.ladder[-1]

    @property
    def may_go(self) -> bool:
        """Whether its branch may go whole: the lowest option keeps no channel then."""
        return self.ladder[0] == 0

    @property
    def middle_option(self) -> int:
        """At which the sensitivity is measured; the lower one of two, so a cut where there is one."""
        return (len(self.ladder) - 1) // 2


Decisions = Sequence[Decision]


def full_policy(decisions: Decisions) -> Policy:
    return tuple(len(decision.ladder) - 1 for decision in decisions)


def floor_policy(decisions: Decisions) -> Policy:
    return (0,) * len(decisions)


def narrowest(decisions: Decisions) -> PruningPolicy:
    """The smallest policy, as it would be with the least `search.min_keep` that there is."""
    least = {decision.name: decision.ladder[0] for decision in decisions}
    return PruningPolicy.of(least | {each.name: min(each.ladder[0], 1) for each in decisions if each.is_width})


def is_policy(decisions: Decisions, policy: object) -> bool:
    """Whether it is a number of an option for each decision."""
    return (
        isinstance(policy, tuple)
        and len(policy) == len(decisions)
        and all(type(option) is int for option in policy)
        and all(0 <= option < len(decision.ladder) for option, decision in zip(policy, decisions, strict=True))
    )


def described(decisions: Decisions, policy: Policy) -> PruningPolicy:
    """What a policy says of the network."""
    return PruningPolicy.of(
        {decision.name: decision.ladder[option] for option, decision in zip(policy, decisions, strict=True)}
    )


def numbered(decisions: Decisions, pruning: PruningPolicy) -> Policy:
    """The inverse of `described`. Raises `ValueError` for a width that is no option."""
    channels = pruning.as_dict()
    return tuple(decision.ladder.index(channels[decision.name]) for decision in decisions)


def nearest(decisions: Decisions, pruning: PruningPolicy) -> Policy:
    """The options whose widths are nearest; the narrower one of two that are equally near."""
    channels = pruning.as_dict()
    distances = ([abs(width - channels[decision.name]) for width in decision.ladder] for decision in decisions)
    return tuple(far.index(min(far)) for far in distances)


def including(decisions: Decisions, pruning: PruningPolicy) -> tuple[Decision, ...]:
    """The same decisions with the widths of `pruning` among their options, their importance interpolated."""
    return tuple(_with_width(decision, pruning.as_dict()[decision.name]) for decision in decisions)


def _with_width(decision: Decision, width: int) -> Decision:
    if width in decision.ladder:
        return decision
    ladder = tuple(sorted((*decision.ladder, width)))
    lost = np.interp(ladder, decision.ladder, decision.lost_importance)
    return replace(decision, ladder=ladder, lost_importance=tuple(float(share) for share in lost))

"""Decisions as NNI's search space: a number of an option for each decision that has several."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.envs.action import clip_option
from autoprune.errors import InputError, shown
from autoprune.nni.algorithms import SpaceType, option_space
from autoprune.search.problem import PredictedProblem
from autoprune.space.decision import Decision, Policy

SearchSpace = dict[str, dict[str, Any]]


def search_space(decisions: Sequence[Decision], kind: SpaceType) -> SearchSpace:
    """As NNI's `search_space.json` has it; a decision that has one option is none of NNI's."""
    return {
        decision.name: option_space(len(decision.ladder), kind) for decision in decisions if len(decision.ladder) > 1
    }


def proposed_options(decisions: Sequence[Decision], parameters: Mapping[str, Any]) -> Policy:
    """The options that NNI's parameters ask for; what a tuner adds of its own is not looked at.

    Raises `InputError`, naming the decision, for one that is missing or is no number of an option.
    """
    return tuple(_option(decision, parameters) for decision in decisions)


def parameters_of(decisions: Sequence[Decision], policy: Policy) -> dict[str, int]:
    """The inverse of `proposed_options`."""
    return {
        decision.name: option for decision, option in zip(decisions, policy, strict=True) if len(decision.ladder) > 1
    }


def within_limits(problem: PredictedProblem, proposed: Policy) -> Policy:
    """The policy that the environment makes of it: each option in turn is lowered as far as the limits ask, so that
    every proposal of a tuner that knows no limits counts (`envs.action.clip_option`)."""
    decided: tuple[int, ...] = ()
    for asked in proposed:
        decided = (*decided, clip_option(problem, decided, asked))
    return decided


def _option(decision: Decision, parameters: Mapping[str, Any]) -> int:
    if len(decision.ladder) == 1:
        return 0
    if decision.name not in parameters:
        raise InputError(
            f"search space: {decision.name} is missing; write the space with `autoprune nni space`, on the machine "
            "that scores"
        )
    value = parameters[decision.name]
    is_whole = value.is_integer() if isinstance(value, float) else isinstance(value, int)
    if isinstance(value, bool) or not is_whole:
        raise InputError(f"search space: {decision.name}: must be a whole number, got {shown(value)}")
    if not 0 <= value < len(decision.ladder):
        raise InputError(
            f"search space: {decision.name}: has the options 0 to {len(decision.ladder) - 1}, got {shown(value)}"
        )
    return int(value)

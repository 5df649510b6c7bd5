"""Actions ask for keep ratios, and are clipped so that the target stays within reach."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_for_tests import scored

from autoprune.config import RewardConfig
from autoprune.envs.action import action_of, clip_option, keep_ratio_of, nearest_option, option_of
from autoprune.search.problem import Limit, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.search.toy import toy_problem
from autoprune.space.decision import Decision, described, numbered
from autoprune.space.policy import PruningPolicy


def _group(name: str, ladder: tuple[int, ...]) -> Decision:
    return Decision(
        name=name,
        kind="conv",
        ladder=ladder,
        channels_in=8,
        stride=1,
        kernel=3,
        spatial=8,
        macs_share=0.5,
        latency_share=0.5,
        sensitivity=0.1,
        lost_importance=tuple(1.0 - width / ladder[-1] for width in ladder),
    )


def _staircase_problem(limit_ms: float) -> SearchProblem:
    """Two groups; 12 channels are slower than 16, as on real hardware."""
    times_ms = {4: 1.0, 8: 2.0, 12: 5.0, 16: 4.0}

    def predict(policy: PruningPolicy) -> PredictedCost:
        latency_ms = sum(times_ms[kept] for _, kept in policy.channels)
        return PredictedCost(latency_ms, latency_ms, round(latency_ms), round(latency_ms))

    return SearchProblem(
        (_group("a", (4, 8, 12, 16)), _group("b", (4, 8, 12, 16))),
        (Limit("latency", limit_ms),),
        predict=predict,
        looks=lambda policy: [scored(kl=0.0, cross_entropy=0.0, top1=1.0, images=1)],
        reward=make_reward(RewardConfig()),
        fingerprint="staircase",
    )


def test_action_is_linear_in_the_keep_ratio_from_the_floor_to_all_channels() -> None:
    group = _group("a", (4, 8, 16))
    assert keep_ratio_of(-1.0, group) == 0.25
    assert keep_ratio_of(0.0, group) == 0.625
    assert keep_ratio_of(1.0, group) == 1.0
    assert keep_ratio_of(7.0, group) == 1.0


def test_nearest_rung_takes_the_lower_one_of_two_equally_near() -> None:
    group = _group("a", (4, 8, 16))
    assert [nearest_option(ratio, group) for ratio in (0.0, 0.37, 0.375, 0.38, 0.74, 0.76, 1.0)] == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
    ]


@given(st.sets(st.integers(1, 512), min_size=1, max_size=16).map(lambda widths: tuple(sorted(widths))))
def test_every_rung_has_an_action_that_asks_for_it(ladder: tuple[int, ...]) -> None:
    group = _group("a", ladder)
    for rung in range(len(ladder)):
        action = action_of(rung, group)
        assert -1.0 <= action <= 1.0
        assert option_of(action, group) == rung


def test_clipping_takes_the_largest_rung_that_leaves_the_target_in_reach() -> None:
    problem = _staircase_problem(limit_ms=5.0)
    assert clip_option(problem, (), asked=3) == 3  # 4 ms, and 1 ms for the other group's floor
    assert clip_option(problem, (), asked=2) == 1  # 12 channels take 5 ms, longer than 16
    assert clip_option(problem, (3,), asked=3) == 0
    assert clip_option(problem, (1,), asked=3) == 1


@given(st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_clipped_policies_meet_the_target_whatever_is_asked(asked: list[int]) -> None:
    problem = toy_problem()
    decided: tuple[int, ...] = ()
    for rung in asked:
        decided = (*decided, clip_option(problem, decided, rung))
    assert problem.is_feasible(tuple(decided))


def test_clipping_changes_no_rung_of_a_policy_that_meets_the_target() -> None:
    problem = toy_problem()
    for rungs in itertools.product(range(5), repeat=4):
        if problem.is_feasible(tuple(rungs)):
            assert all(clip_option(problem, rungs[:step], rungs[step]) == rungs[step] for step in range(4))


def test_a_policy_has_an_option_for_every_decision() -> None:
    decisions = (_group("a", (4, 8, 16)), _group("b", (2, 16)))
    assert described(decisions, (1, 0)) == PruningPolicy.of({"a": 8, "b": 2})
    assert numbered(decisions, PruningPolicy.of({"b": 2, "a": 8})) == (1, 0)
    for policy in ((0, 0, 0), (0,)):
        with pytest.raises(ValueError, match="zip"):
            described(decisions, policy)
    with pytest.raises(ValueError, match="not in"):
        numbered(decisions, PruningPolicy.of({"a": 5, "b": 2}))

"""The toy problem: its optimum, and what makes it hard for uniform and greedy policies."""

import itertools

import pytest

from autoprune.policies.heuristics import demonstrations, uniform_policies
from autoprune.search.toy import CHANNELS, SHARES, toy_cost, toy_optimum, toy_problem, toy_score
from autoprune.space.decision import Policy


def _all_policies() -> list[Policy]:
    return list(itertools.product(range(len(SHARES)), repeat=len(CHANNELS)))


def test_costs_and_scores_are_those_worked_out_by_hand() -> None:
    cost = toy_cost((1.0, 1.0, 1.0, 1.0))
    # 3->16 at 32x32, 16->32 and 32->32 at 16x16, 32->64 at 8x8
    assert cost.params == 9 * (3 * 16 + 16 * 32 + 32 * 32 + 32 * 64)
    assert cost.macs == 9 * (48 * 1024 + 512 * 256 + 1024 * 256 + 2048 * 64)
    assert cost.predicted_latency_ms == pytest.approx(4 * 0.002 + cost.macs / 1e8)
    # all halved: a quarter of each fragility, and a quarter of the clash
    assert toy_score((0.5, 0.5, 0.5, 0.5)).kl == pytest.approx((0.1 + 0.5 + 0.15 + 0.3 + 1.5) / 4)


def test_the_ladders_are_shares_of_the_channels() -> None:
    for group, channels in zip(toy_problem().decisions, CHANNELS, strict=True):
        assert [kept / channels for kept in group.ladder] == list(SHARES)


def test_the_optimum_is_the_only_best_one_and_lies_at_the_limit() -> None:
    problem = toy_problem()
    best = toy_optimum()
    assert best.pruning.as_dict() == {"conv1": 16, "conv2": 16, "conv3": 12, "conv4": 48}
    feasible = [policy for policy in _all_policies() if problem.is_feasible(policy)]
    assert len(feasible) == 385
    assert sum(problem.evaluate(policy).reward >= best.reward for policy in feasible) == 1
    # No option can be one wider: the limit binds.
    for place, option in enumerate(best.policy):
        if option + 1 < len(SHARES):
            assert not problem.is_feasible((*best.policy[:place], option + 1, *best.policy[place + 1 :]))


def test_neither_uniform_nor_greedy_policies_are_the_optimum() -> None:
    problem = toy_problem()
    best = toy_optimum().policy
    assert best not in uniform_policies(problem)
    assert best not in demonstrations(problem)


def test_importance_lost_at_half_the_channels_differs_by_group() -> None:
    half = [group.lost_importance[2] for group in toy_problem().decisions]
    assert half == pytest.approx([0.5**3, 0.5**1.5, 0.5**2.5, 0.25])
    for group in toy_problem().decisions:
        assert 1.0 > group.lost_importance[0] > group.lost_importance[1] > group.lost_importance[-1] == 0.0

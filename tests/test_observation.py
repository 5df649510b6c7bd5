"""Observations: named, bounded, and worked out by hand for the toy problem."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from judging_for_tests import scored

from autoprune.config import RewardConfig
from autoprune.envs.action import EpisodeState, with_floor, with_full
from autoprune.envs.observation import OBSERVATION_FIELDS, observe, squash_sensitivity, tightest_limit
from autoprune.search.problem import Limit, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.search.toy import toy_problem, toy_score


def _named(problem: SearchProblem, decided: tuple[int, ...], last_action: float) -> dict[str, float]:
    return dict(
        zip(OBSERVATION_FIELDS, observe(problem, EpisodeState(tuple(decided), last_action)).tolist(), strict=True)
    )


def test_every_observation_is_float32_finite_and_within_bounds() -> None:
    problem = toy_problem()
    for steps in range(5):
        for decided in itertools.product((0, 2, 4), repeat=steps):
            observation = observe(problem, EpisodeState(tuple(decided), -1.0))
            assert observation.dtype == np.float32
            assert observation.shape == (len(OBSERVATION_FIELDS),)
            assert np.isfinite(observation).all()
            assert np.abs(observation).max() <= 1.0


def test_the_first_observation_describes_the_first_layer_and_the_whole_task() -> None:
    problem = toy_problem()
    seen = _named(problem, (), 0.0)
    assert seen["is_conv"] == 1.0
    assert seen["is_linear"] == seen["is_depthwise"] == 0.0
    assert seen["channels_in"] == pytest.approx(math.log2(3) / 12)
    assert seen["channels"] == pytest.approx(4 / 12)  # 16 channels
    assert seen["spatial"] == pytest.approx(5 / 8)  # 32 x 32
    assert seen["floor_share"] == 0.25
    assert seen["index"] == seen["removed"] == seen["damage"] == seen["last_action"] == 0.0
    assert seen["required"] == pytest.approx(0.55)  # the limit is 45% of the original
    floor = problem.predict(problem.floor_policy).of("latency") / problem.original_cost.of("latency")
    assert seen["removable"] == pytest.approx(1 - floor)
    assert seen["pressure"] == pytest.approx(0.55 / (1 - floor))


def test_progress_follows_the_decisions() -> None:
    problem = toy_problem()
    seen = _named(problem, (0, 0), -1.0)
    original = problem.original_cost.of("latency")
    most = problem.predict(with_full(problem.decisions, (0, 0))).of("latency")
    least = problem.predict(with_floor(problem.decisions, (0, 0))).of("latency")
    assert seen["index"] == 0.5
    assert seen["removed"] == pytest.approx(1 - most / original)
    assert seen["removable"] == pytest.approx((most - least) / original, rel=1e-5)
    assert seen["last_action"] == -1.0
    weights = [group.sensitivity for group in problem.decisions]  # all floors are a quarter, so the cuts cancel
    assert seen["damage"] == pytest.approx(sum(weights[:2]) / sum(weights))


def test_a_branch_that_may_go_says_what_is_lost_with_it() -> None:
    toy = toy_problem()
    first, *others = toy.decisions
    branch = replace(first, ladder=(0, 4, 8, 16), branch_loss=0.3)
    problem = SearchProblem(
        (branch, *others),
        (),
        predict=lambda policy: PredictedCost(0.01 * (1 + sum(policy.as_dict().values())), 1.0, 100, 100),
        looks=lambda policy: [toy_score((1.0, 1.0, 1.0, 1.0))],
        reward=make_reward(RewardConfig()),
        fingerprint="branch",
    )
    assert _named(toy, (), 0.0)["branch_loss"] == 1.0
    seen = _named(problem, (), 0.0)
    assert seen["branch_loss"] == pytest.approx(0.75)
    assert seen["floor_share"] == 0.0
    rest = sum(group.sensitivity * (1 - group.ladder[0] / group.channels) ** 2 for group in others)
    assert _named(problem, (0,), -1.0)["damage"] == pytest.approx(0.3 / (0.3 + rest), rel=1e-5)
    assert _named(problem, (2,), 0.0)["damage"] == pytest.approx(branch.sensitivity * 0.25 / (0.3 + rest), rel=1e-5)


def test_after_the_last_group_nothing_is_left_to_remove_and_no_layer_is_shown() -> None:
    seen = _named(toy_problem(), (0, 0, 0, 0), -1.0)
    assert seen["index"] == seen["damage"] == 1.0
    assert seen["removable"] == seen["required"] == seen["pressure"] == 0.0
    assert seen["channels"] == seen["is_conv"] == 0.0


def test_of_several_limits_the_one_with_most_to_remove_counts() -> None:
    cost = PredictedCost(predicted_latency_ms=10.0, estimated_energy_mj=1.0, macs=100, params=100)
    limits = (Limit("latency", 6.0), Limit("macs", 30.0), Limit("params", 100.0))
    problem = SearchProblem(
        toy_problem().decisions,
        limits,
        predict=lambda policy: cost if dict(policy.channels)["conv1"] == 16 else PredictedCost(1.0, 0.1, 10, 10),
        looks=lambda policy: [toy_score((1.0, 1.0, 1.0, 1.0))],
        reward=make_reward(RewardConfig()),
        fingerprint="limits",
    )
    assert tightest_limit(problem, cost) == limits[1]  # 70% too many MACs, 40% too slow


def test_without_a_limit_progress_counts_latency() -> None:
    toy = toy_problem()
    problem = SearchProblem(
        toy.decisions,
        (),
        predict=toy.cost_of,
        looks=lambda policy: [scored(kl=0.0, cross_entropy=0.0, top1=1.0, images=1)],
        reward=make_reward(RewardConfig()),
        fingerprint="no limits",
    )
    seen = _named(problem, (0,), -1.0)
    assert seen["required"] == seen["pressure"] == 0.0
    assert seen["removed"] == _named(toy, (0,), -1.0)["removed"]


def test_sensitivity_is_squashed_to_below_one_and_noise_below_zero_is_zero() -> None:
    assert squash_sensitivity(-0.01) == 0.0
    assert squash_sensitivity(0.1) == 0.5
    assert squash_sensitivity(100.0) < 1.0

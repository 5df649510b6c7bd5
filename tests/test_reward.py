"""The reward's forms, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import RewardConfig
from autoprune.search.reward import Score, reward

SCORE = Score(kl=0.25, cross_entropy=0.5, top1=0.9, images=100)


def test_constrained_is_the_accuracy_part_alone() -> None:
    for accuracy, expected in (("kl", -0.25), ("cross_entropy", -0.5), ("top1", 0.9)):
        config = RewardConfig.model_validate({"accuracy": accuracy, "form": "constrained", "cost_weight": 7})
        assert reward(SCORE, cost=5.0, original_cost=10.0, config=config) == expected


def test_weighted_takes_the_cost_ratio_off() -> None:
    config = RewardConfig(accuracy="top1", form="weighted", cost_weight=0.2)
    assert reward(SCORE, cost=5.0, original_cost=10.0, config=config) == pytest.approx(0.9 - 0.2 * 0.5)
    assert reward(SCORE, cost=10.0, original_cost=10.0, config=config) == pytest.approx(0.9 - 0.2)


def test_amc_is_error_times_log_cost() -> None:
    config = RewardConfig(form="amc")
    assert reward(SCORE, cost=5.0, original_cost=10.0, config=config) == pytest.approx(-0.1 * math.log(500))
    assert reward(SCORE, cost=1e-9, original_cost=10.0, config=config) == 0.0


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(1e-3, 1e9), st.sampled_from(["weighted", "amc"]))
def test_cheaper_is_never_worse_and_units_do_not_matter(small: float, large: float, unit: float, form: str) -> None:
    config = RewardConfig.model_validate({"form": form, "cost_weight": 1.0})
    small, large = sorted((small, large))
    cheap, dear = (reward(SCORE, cost=share * unit, original_cost=unit, config=config) for share in (small, large))
    assert cheap >= dear
    assert cheap == pytest.approx(reward(SCORE, cost=small, original_cost=1.0, config=config))

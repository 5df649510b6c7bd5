"""The reward's forms, by hand."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_for_tests import scored
from pydantic import ValidationError

from autoprune.config import RewardConfig
from autoprune.errors import InputError
from autoprune.search.reward import make_reward

SCORE = scored(kl=0.25, cross_entropy=0.5, top1=0.9, images=100)


def test_constrained_is_the_accuracy_part_alone() -> None:
    for accuracy, expected in (("kl", -0.25), ("cross_entropy", -0.5), ("top1", 0.9)):
        config = RewardConfig.model_validate({"accuracy": accuracy, "form": "constrained"})
        assert make_reward(config)(SCORE, cost=5.0, original_cost=10.0) == expected


def test_weighted_takes_the_cost_ratio_off() -> None:
    config = RewardConfig(accuracy="top1", form="weighted", cost_weight=0.2)
    assert make_reward(config)(SCORE, cost=5.0, original_cost=10.0) == pytest.approx(0.9 - 0.2 * 0.5)
    assert make_reward(config)(SCORE, cost=10.0, original_cost=10.0) == pytest.approx(0.9 - 0.2)


def test_amc_is_error_times_log_cost() -> None:
    config = RewardConfig(form="amc")
    assert make_reward(config)(SCORE, cost=5.0, original_cost=10.0) == pytest.approx(-0.1 * math.log(500))
    assert make_reward(config)(SCORE, cost=1e-9, original_cost=10.0) == 0.0


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(1e-3, 1e9), st.sampled_from(["weighted", "amc"]))
def test_cheaper_is_never_worse_and_units_do_not_matter(small: float, large: float, unit: float, form: str) -> None:
    config = RewardConfig.model_validate({"form": form, "cost_weight": 1.0 if form == "weighted" else 0.0})
    small, large = sorted((small, large))
    cheap, dear = (make_reward(config)(SCORE, cost=share * unit, original_cost=unit) for share in (small, large))
    assert cheap >= dear
    assert cheap == pytest.approx(make_reward(config)(SCORE, cost=small, original_cost=1.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cost_weight": 7}, "cost_weight is for form weighted; constrained does not use it"),
        ({"form": "amc", "cost_weight": 7}, "cost_weight is for form weighted; amc does not use it"),
        ({"form": "weighted"}, "form weighted with a cost_weight of 0 is constrained: give a cost_weight"),
        ({"form": "weighted", "cost_weight": 0}, "form weighted with a cost_weight of 0 is constrained"),
        ({"cost": "macs"}, "cost is for the other forms"),
        ({"form": "amc", "accuracy": "top1"}, "accuracy is for forms constrained and weighted; amc does not use it"),
        ({"form": "best"}, "must be one of constrained, weighted, amc, or path/file.py:function"),
    ],
)
def test_no_key_is_ignored_in_silence(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardConfig.model_validate(given)


def test_a_users_own_form(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def worth(score, cost_ratio): return score.top1 - cost_ratio ** 2\n"
        "def none(score, cost_ratio): return float('nan')\n"
    )
    config = RewardConfig(form=f"{file}:worth", cost="macs")
    found = make_reward(config)
    assert found.metric == "macs"
    assert found(SCORE, cost=5.0, original_cost=10.0) == pytest.approx(0.9 - 0.25)
    with pytest.raises(InputError, match=r"search\.reward\.form: gave nan"):
        make_reward(RewardConfig(form=f"{file}:none"))(SCORE, cost=1.0, original_cost=1.0)
    with pytest.raises(InputError, match=r"search\.reward\.form=.*:other: .* has no callable 'other'"):
        make_reward(RewardConfig(form=f"{file}:other"))

"""The search problem: costs, limits, floor, memory, and how long a candidate is looked at."""

from dataclasses import replace
from pathlib import Path

import pytest
from problems_for_tests import GROUPS, CountingScorer, ThreeLooks, group, policy, predict, problem, pruning

from autoprune.config import RewardConfig
from autoprune.errors import TargetError
from autoprune.search.problem import Limit, PredictedCost, SearchProblem, meets
from autoprune.search.racing import Bar
from autoprune.search.reward import make_reward
from autoprune.space.decision import Decision, nearest
from autoprune.space.policy import PruningPolicy
from autoprune.store.trials import TrialStore


def test_floor_full_and_cost_by_hand() -> None:
    made = problem(CountingScorer(), Limit("macs", 700))
    assert made.full_policy == policy(4, 6)
    assert made.floor_policy == policy(1, 2)
    assert made.original_cost == PredictedCost(0.1, 20.0, 1000, 30)
    costs = [made.original_cost.of(metric) for metric in ("latency", "energy", "macs", "params")]
    assert costs == [0.1, 20.0, 1000.0, 30.0]
    assert made.is_feasible(policy(1, 6))
    assert not made.is_feasible(policy(2, 6))
    assert GROUPS[0].channels == 4


def test_all_limits_must_be_met() -> None:
    cost = PredictedCost(0.05, 10.0, 500, 15)
    assert meets(cost, ())
    assert meets(cost, (Limit("macs", 500), Limit("latency", 0.05)))
    assert not meets(cost, (Limit("macs", 500), Limit("params", 14)))


def test_numbers_say_what_is_kept_and_back() -> None:
    made = problem(CountingScorer())
    assert made.pruning_of((0, 0)).key == '{"a":1,"b":2}'
    assert made.pruning_of((1, 1)) == pruning(2, 6)
    in_any_order = PruningPolicy.of({"b": 2, "a": 4})
    assert made.policy_of(in_any_order) == (2, 0)
    with pytest.raises(ValueError, match="not in"):
        made.policy_of(pruning(3, 2))
    assert nearest(GROUPS, pruning(3, 4)) == (1, 0)  # the narrower of two that are equally near


def test_widths_that_are_no_options_can_be_made_some() -> None:
    made = problem(CountingScorer())
    outcome = made.evaluate((1, 0))
    holding = made.including(pruning(3, 2))
    assert [decision.ladder for decision in holding.decisions] == [(1, 2, 3, 4), (2, 6)]
    assert holding.decisions[0].lost_importance == (0.75, 0.5, 0.25, 0.0)
    assert holding.policy_of(pruning(3, 2)) == (2, 0)
    assert holding.full_policy == (3, 1)
    assert holding.evaluate((2, 0)).reward == pytest.approx(-0.5)
    assert made.including(pruning(2, 2)).decisions == made.decisions
    assert made.cost_of(pruning(3, 2)) == holding.predict((2, 0))
    assert made.evaluate((1, 0)) == outcome


def test_what_is_known_from_elsewhere_is_brought_to_the_nearest_options() -> None:
    made = problem(CountingScorer())
    within = made.within((), store=None, known=(pruning(3, 3), pruning(4, 6)))  # type: ignore[arg-type]
    assert within.known == ((1, 0), (2, 1))
    assert within.including(pruning(3, 2)).known == ((1, 0), (3, 1))


def test_a_target_below_the_floor_says_the_floor() -> None:
    problem(CountingScorer(), Limit("macs", 300))
    with pytest.raises(TargetError) as caught:
        problem(CountingScorer(), Limit("latency", 1.0), Limit("macs", 250))
    assert "target: macs <= 250 (0.250 of the original) is below the floor 300 (0.300)" in str(caught.value)
    assert str(caught.value).endswith("; raise the target or lower search.min_keep")  # one channel of b less does it


@pytest.mark.parametrize("decisions", [GROUPS, (GROUPS[0], replace(GROUPS[1], is_width=False))])
def test_a_lower_min_keep_is_named_only_where_it_helps(decisions: tuple[Decision, ...]) -> None:
    max_value = 150 if decisions is GROUPS else 250  # two channels at least take 200; sizes of an option stay
    with pytest.raises(TargetError, match=r"is below the floor 300 \(0\.300\); raise the target$"):
        SearchProblem(
            decisions,
            (Limit("macs", max_value),),
            predict=predict,
            looks=CountingScorer(),
            reward=make_reward(RewardConfig()),
            fingerprint="f",
        )


def test_rewards_come_from_score_and_cost() -> None:
    constrained = problem(CountingScorer()).evaluate(policy(2, 2))
    assert constrained.reward == pytest.approx(-0.6)
    config = RewardConfig(form="weighted", cost="params", cost_weight=0.5)
    weighted = problem(CountingScorer(), reward_config=config).evaluate(policy(2, 2))
    assert weighted.reward == pytest.approx(-0.6 - 0.5 * 12 / 30)
    assert weighted.cost.params == 12


def test_a_policy_is_scored_once() -> None:
    scorer = CountingScorer()
    made = problem(scorer)
    first = made.evaluate(policy(2, 2))
    assert made.evaluate(policy(2, 2)) == first
    assert scorer.asked == [pruning(2, 2).key]


def test_another_fingerprint_is_scored_anew(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    scorer = CountingScorer()
    for fingerprint in ("f", "g", "f"):
        problem(scorer, store=store, fingerprint=fingerprint).evaluate(policy(2, 2))
    assert len(scorer.asked) == 2


@pytest.mark.parametrize(
    ("ladder", "middle"), [((4,), 0), ((2, 4), 0), ((2, 3, 4), 1), ((1, 2, 3, 4), 1), ((1, 2, 3, 4, 5), 2)]
)
def test_the_middle_rung_is_a_cut_wherever_there_is_one(ladder: tuple[int, ...], middle: int) -> None:
    assert group("a", *ladder).middle_option == middle


def test_a_candidate_is_dropped_when_even_at_its_best_it_is_below_the_bar() -> None:
    made = problem(ThreeLooks())
    assert made.evaluate(policy(2, 2)).score.images == 50
    # 0.55 nats with a standard error of 0.02 at the first look: a reward of -0.52 at its best.
    dropped = made.evaluate(policy(2, 2), bars={0: Bar(seen=-0.51, reward=-0.56)})
    assert (dropped.score.look, dropped.score.complete) == (0, False)
    assert dropped.reward == pytest.approx(-0.56 + (-0.55 + 0.51))  # as far from the rival's as at that look
    assert made.evaluate(policy(2, 2), bars={0: Bar(seen=-0.53, reward=-0.58)}).score.complete
    # 0.6 nats with a standard error of 0.01 at the second.
    dropped = made.evaluate(policy(2, 2), bars={0: Bar(-0.53, -0.58), 1: Bar(-0.57, -0.58)})
    assert (dropped.score.look, dropped.score.complete) == (1, False)
    assert dropped.reward == pytest.approx(-0.61)


def test_a_dropped_candidate_is_looked_at_again_when_it_matters(tmp_path: Path) -> None:
    looks = ThreeLooks()
    bars = {0: Bar(-0.1, -0.1)}
    for _ in range(2):  # the second time all is read from the store
        made = problem(looks, store=TrialStore(tmp_path / "trials.sqlite"))
        assert not made.evaluate(policy(2, 2), bars=bars).score.complete
        assert made.evaluate(policy(2, 2)).score.complete
        assert not made.evaluate(policy(2, 2), bars=bars).score.complete
    assert [look for _, look in looks.asked] == [0, 0, 1, 2]


def test_rewards_of_single_looks() -> None:
    made = problem(ThreeLooks())
    made.evaluate(policy(2, 2), bars={1: Bar(-0.1, -0.1)})
    assert made.reward_at(policy(2, 2), 0) == pytest.approx(-0.55)
    assert made.reward_at(policy(2, 2), 1) == pytest.approx(-0.6)
    with pytest.raises(LookupError, match="look 2"):
        made.reward_at(policy(2, 2), 2)

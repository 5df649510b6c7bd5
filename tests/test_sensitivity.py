"""The sensitivity search on examples worked by hand: what it measures, its curves, and what its thresholds choose."""

import pytest
from judging_for_tests import scored

from autoprune.config import RewardConfig
from autoprune.policies.heuristics import threshold_policies
from autoprune.policies.sensitivity import probes_of, sensitivity_curve
from autoprune.policies.table import searcher_maker
from autoprune.search.loop import run_search
from autoprune.search.problem import Limit, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.space.decision import Decision
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score

LOSSES = {"a": {1: 0.9, 2: 0.25, 4: 0.0}, "b": {1: 0.3, 2: 0.1, 4: 0.0}}  # nats, by the channels that a group keeps


def group(name: str, ladder: tuple[int, ...], *, sensitivity: float, latency_share: float = 0.5) -> Decision:
    lost = tuple(1.0 - width / ladder[-1] for width in ladder)
    return Decision(name, "conv", ladder, 3, 1, 3, 8, 0.5, latency_share, sensitivity, lost)


def score(policy: PruningPolicy) -> Score:
    kl = sum(LOSSES[name][kept] for name, kept in policy.channels)
    return scored(kl=kl, cross_entropy=kl, top1=1.0, images=1)


def two_groups() -> SearchProblem:
    """A channel takes 1 ms; 5 of 8 may stay."""
    return SearchProblem(
        (group("a", (1, 2, 4), sensitivity=0.25), group("b", (1, 2, 4), sensitivity=0.1)),
        (Limit("latency", 5.0),),
        predict=lambda policy: PredictedCost(float(sum(policy.as_dict().values())), 1.0, 1, 1),
        looks=lambda policy: [score(policy)],
        reward=make_reward(RewardConfig()),
        fingerprint="two",
    )


def test_what_the_thresholds_choose_by_hand() -> None:
    """0.1 keeps (4, 2): too much. 0.25 keeps (2, 2), with no room for more; 0.3 keeps (2, 1), and a may widen to 4,
    which loses less than any other; 0.9 keeps (1, 1), which widens to the same."""
    problem = two_groups()
    result = run_search(searcher_maker("sensitivity"), problem, max_evaluations=9, seed=0)
    kept = [tuple(outcome.pruning.as_dict().values()) for outcome in result.outcomes]
    assert kept == [(2, 2), (2, 1), (4, 1), (1, 1)]  # the uniform policy is the first
    assert result.best.pruning.as_dict() == {"a": 4, "b": 1}
    assert result.best.score.kl == pytest.approx(0.3)
    # Both floors were measured alone: (1, 4), which no limit allows, and (4, 1), which thus cost nothing later.
    assert result.evaluations == 5


def test_groups_cut_alone_are_no_outcomes_and_leave_a_budget_of_one_alone() -> None:
    for budget in (1, 2, 3, 4, 5):
        problem = two_groups()
        result = run_search(searcher_maker("sensitivity"), problem, max_evaluations=budget, seed=0)
        assert result.evaluations <= budget
        assert result.outcomes[0].pruning.as_dict() == {"a": 2, "b": 2}  # the largest uniform one
        assert all(problem.is_feasible(outcome.policy) for outcome in result.outcomes)


def test_one_rung_of_each_group_in_turn_is_measured_the_widest_gap_first() -> None:
    eight = group("a", (2, 4, 6, 8, 10, 12, 14, 16), sensitivity=0.1, latency_share=0.2)  # known: rungs 3 and 7
    three = group("b", (1, 2, 4), sensitivity=0.1, latency_share=0.8)  # known: 1 and 2
    one = group("c", (4,), sensitivity=0.0)
    assert probes_of((eight, three, one)) == [(1, 0), (0, 0), (0, 5), (0, 1), (0, 2), (0, 4), (0, 6)]


def test_a_curve_goes_through_what_is_measured_and_never_falls() -> None:
    five = group("a", (2, 4, 8, 12, 16), sensitivity=0.0)  # removes 7/8, 3/4, 1/2, 1/4, 0
    assert sensitivity_curve(five, {2: 0.4}) == pytest.approx([0.4 * 1.75**2, 0.4 * 1.5**2, 0.4, 0.2, 0.0])
    assert sensitivity_curve(five, {2: 0.4, 0: 1.0}) == pytest.approx([1.0, 0.8, 0.4, 0.2, 0.0])
    # Measured on finite data a wider rung can come out worse, or the cut better than the original.
    assert sensitivity_curve(five, {3: 0.6, 2: 0.4, 0: 1.0}) == pytest.approx([1.0, 0.6 + 0.4 * 2 / 3, 0.6, 0.6, 0.0])
    assert sensitivity_curve(five, {2: -0.1})[2:] == pytest.approx([1e-6, 0.5e-6, 0.0])


def test_every_threshold_gives_a_policy_and_a_price_that_falls_holds_nobody_up_twice() -> None:
    groups = (group("a", (1, 2, 4), sensitivity=0.1), group("b", (1, 2, 4), sensitivity=0.1))
    policies = threshold_policies(groups, [[0.1, 0.3, 0.0], [0.4, 0.2, 0.0]])
    assert list(policies) == [(2, 2), (2, 1), (0, 1), (0, 0)]

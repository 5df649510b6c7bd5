"""The search problem and its sessions: memory, budget, floor, and that a resumed search scores nothing twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune import problem as problem_module
from autoprune.config import RewardConfig
from autoprune.errors import TargetError
from autoprune.policy import PruningPolicy
from autoprune.problem import (
    BudgetSpent,
    Limit,
    Outcome,
    PredictedCost,
    SearchGroup,
    SearchProblem,
    SearchSession,
    meets,
    policy_of,
)
from autoprune.reward import Score
from autoprune.trials import TrialStore


def group(name: str, *ladder: int) -> SearchGroup:
    lost = tuple(1.0 - width / ladder[-1] for width in ladder)
    return SearchGroup(name, "conv", ladder, 3, 1, 3, 8, 0.5, 0.5, sensitivity=0.1, lost_importance=lost)


GROUPS = (group("a", 1, 2, 4), group("b", 2, 6))


def predict(policy: PruningPolicy) -> PredictedCost:
    """10 µs, 2 mJ, 100 MACs and 3 parameters for each channel; 10 channels in the original."""
    kept = sum(policy.as_dict().values())
    return PredictedCost(0.01 * kept, 2.0 * kept, 100 * kept, 3 * kept)


class CountingScorer:
    """KL is a tenth for each channel removed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, policy: PruningPolicy) -> Iterator[Score]:
        self.asked.append(policy.key)
        removed = 10 - sum(policy.as_dict().values())
        yield Score(kl=0.1 * removed, cross_entropy=0.2, top1=0.9, images=50)


def problem(
    scorer: CountingScorer,
    *limits: Limit,
    store: TrialStore | None = None,
    fingerprint: str = "f",
    reward_config: RewardConfig | None = None,
) -> SearchProblem:
    return SearchProblem(
        GROUPS,
        limits,
        predict=predict,
        looks=scorer,
        reward_config=reward_config or RewardConfig(),
        fingerprint=fingerprint,
        store=store,
    )


def policy(a: int, b: int) -> PruningPolicy:
    return policy_of(GROUPS, {"b": b, "a": a})


def session(made: SearchProblem, max_evaluations: int) -> SearchSession:
    return SearchSession(made, searcher="random", seed=3, max_evaluations=max_evaluations)


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


def test_policies_of_any_order_have_one_key() -> None:
    assert policy_of(GROUPS, {"b": 2, "a": 1}).key == '{"a":1,"b":2}'


def test_a_target_below_the_floor_says_the_floor() -> None:
    problem(CountingScorer(), Limit("macs", 300))
    with pytest.raises(TargetError) as caught:
        problem(CountingScorer(), Limit("latency", 1.0), Limit("macs", 250))
    assert "target: macs <= 250 (0.250 of the original) is below the floor 300 (0.300)" in str(caught.value)
    assert "min_keep" in str(caught.value)


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
    assert scorer.asked == [policy(2, 2).key]


def test_a_resumed_search_scores_nothing_twice(tmp_path: Path) -> None:
    asked = [policy(1, 2), policy(2, 2), policy(1, 2), policy(4, 2)]
    whole, stopped, resumed = CountingScorer(), CountingScorer(), CountingScorer()
    uninterrupted = session(problem(whole), 4)
    expected = [uninterrupted.evaluate(each) for each in asked]

    path = tmp_path / "trials.sqlite"
    before = session(problem(stopped, store=TrialStore(path)), 4)
    for each in asked[:2]:
        before.evaluate(each)
    after = session(problem(resumed, store=TrialStore(path)), 4)
    assert [after.evaluate(each) for each in asked] == expected
    assert resumed.asked == [policy(4, 2).key]
    assert after.evaluations == uninterrupted.evaluations == 3
    rows = TrialStore(path).episodes()
    assert [row.episode for row in rows] == [1, 2, 3, 4]
    assert [row.policy for row in rows] == [each.key for each in asked]
    assert [row.reward for row in rows] == [outcome.reward for outcome in expected]
    assert {(row.searcher, row.seed) for row in rows} == {("random", 3)}


def test_another_fingerprint_is_scored_anew(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    scorer = CountingScorer()
    for fingerprint in ("f", "g", "f"):
        problem(scorer, store=store, fingerprint=fingerprint).evaluate(policy(2, 2))
    assert len(scorer.asked) == 2


def test_the_budget_counts_distinct_policies() -> None:
    running = session(problem(CountingScorer()), 2)
    running.evaluate(policy(1, 2))
    running.evaluate(policy(1, 2))
    assert (running.evaluations, running.spent) == (1, False)
    running.evaluate(policy(2, 2))
    assert (running.evaluations, running.spent) == (2, True)
    running.evaluate(policy(2, 2))  # known already
    with pytest.raises(BudgetSpent):
        running.evaluate(policy(4, 2))
    assert len(running.outcomes) == 4


def test_a_search_with_nothing_new_to_ask_ends() -> None:
    running = session(problem(CountingScorer()), 2)
    for _ in range(8):
        assert not running.spent
        running.evaluate(policy(1, 2))
    assert running.spent
    with pytest.raises(BudgetSpent):
        running.evaluate(policy(1, 2))


def test_the_best_is_the_earliest_of_equals_and_all_are_told() -> None:
    told: list[Outcome] = []
    made = problem(CountingScorer())
    running = SearchSession(made, searcher="x", seed=0, max_evaluations=9, on_outcome=told.append)
    outcomes = [running.evaluate(each) for each in (policy(1, 2), policy(2, 6), policy(4, 2), policy(2, 6))]
    assert running.best is outcomes[1]
    assert told == outcomes
    assert (running.groups, running.limits, running.original_cost) == (GROUPS, (), made.original_cost)
    assert running.predict(policy(1, 2)).macs == 300


class TwoLooks:
    """KL is a tenth for each channel removed; the first look errs by `off`, and says that it may err by 0.02."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off
        self.asked: list[tuple[str, int]] = []

    def __call__(self, policy: PruningPolicy) -> Iterator[Score]:
        kl = 0.1 * (10 - sum(policy.as_dict().values()))
        self.asked.append((policy.key, 5))
        yield Score(kl + self.off, 0.2, 0.9, images=5, kl_se=0.02, complete=False)
        self.asked.append((policy.key, 50))
        yield Score(kl, 0.2, 0.9, images=50, kl_se=0.001)


def two_look_problem(looks: TwoLooks, store: TrialStore | None = None) -> SearchProblem:
    return SearchProblem(
        GROUPS, (), predict=predict, looks=looks, reward_config=RewardConfig(), fingerprint="f", store=store
    )


def test_a_candidate_is_dropped_when_even_at_its_best_it_is_not_worth_more() -> None:
    made = two_look_problem(TwoLooks())
    assert made.evaluate(policy(2, 2)).score.images == 50
    # A reward of -0.6, found on a few images with a standard error of 0.02: -0.54 at its best.
    dropped = made.evaluate(policy(2, 2), worth=-0.53)
    assert (dropped.score.images, dropped.score.complete) == (5, False)
    assert dropped.reward == pytest.approx(-0.6)
    assert made.evaluate(policy(2, 2), worth=-0.55).score.complete


def test_a_dropped_candidate_is_looked_at_again_when_it_matters(tmp_path: Path) -> None:
    looks = TwoLooks()
    for _ in range(2):  # the second time all is read from the store
        made = two_look_problem(looks, TrialStore(tmp_path / "trials.sqlite"))
        assert not made.evaluate(policy(2, 2), worth=-0.1).score.complete
        assert made.evaluate(policy(2, 2)).score.complete
        assert not made.evaluate(policy(2, 2), worth=-0.1).score.complete
    assert looks.asked == [(policy(2, 2).key, 5), (policy(2, 2).key, 5), (policy(2, 2).key, 50)]


def test_only_contenders_are_scored_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "CONTENDERS", 2)
    looks = TwoLooks()
    running = session(two_look_problem(looks), 9)
    outcomes = [
        running.evaluate(each) for each in (policy(2, 6), policy(1, 2), policy(1, 6), policy(1, 2), policy(4, 6))
    ]
    # Rewards -0.2, -0.7, -0.3; the third takes the second's place among two contenders, so it is not worth a new look.
    assert [outcome.score.complete for outcome in outcomes] == [True, True, True, False, True]
    assert running.best is outcomes[4]


def test_a_search_goes_the_same_way_whether_scores_are_computed_or_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_module, "CONTENDERS", 1)
    asked = [policy(2, 6), policy(1, 2), policy(4, 2), policy(4, 6)]

    def outcomes(store: TrialStore) -> list[Outcome]:
        running = session(two_look_problem(TwoLooks(), store), 9)
        return [running.evaluate(each) for each in asked]

    fresh = outcomes(TrialStore(tmp_path / "fresh.sqlite"))
    store = TrialStore(tmp_path / "full.sqlite")
    complete = two_look_problem(TwoLooks(), store)
    for each in asked:
        complete.evaluate(each)
    assert outcomes(store) == fresh
    assert [outcome.score.complete for outcome in fresh] == [True, False, False, True]


def test_a_bad_first_look_within_its_error_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "CONTENDERS", 1)
    running = session(two_look_problem(TwoLooks(off=0.05)), 9)
    running.evaluate(policy(1, 6))  # -0.3
    assert running.evaluate(policy(2, 6)).score.complete  # -0.25 at first, -0.2 in truth
    assert running.best.policy == policy(2, 6)


@pytest.mark.parametrize(
    ("ladder", "middle"), [((4,), 0), ((2, 4), 0), ((2, 3, 4), 1), ((1, 2, 3, 4), 1), ((1, 2, 3, 4, 5), 2)]
)
def test_the_middle_rung_is_a_cut_wherever_there_is_one(ladder: tuple[int, ...], middle: int) -> None:
    assert group("a", *ladder).middle_rung == middle


def test_a_probe_counts_but_is_no_episode_and_never_the_best() -> None:
    told: list[Outcome] = []
    scorer = CountingScorer()
    made = problem(scorer)
    running = SearchSession(made, searcher="x", seed=0, max_evaluations=2, on_outcome=told.append)
    running.probe(made.full_policy)  # the highest reward that there is
    candidate = running.evaluate(made.floor_policy)
    assert (running.best, running.outcomes, told, running.evaluations) == (candidate, [candidate], [candidate], 2)
    with pytest.raises(BudgetSpent):
        running.probe(PruningPolicy.of({"a": 2, "b": 6}))
    assert running.probe(made.full_policy).policy == made.full_policy  # known: it costs nothing

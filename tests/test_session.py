"""Sessions of a search: budget, episodes, the best, and that a resumed search scores nothing twice."""

from pathlib import Path

import pytest
from problems_for_tests import GROUPS, CountingScorer, ThreeLooks, policy, problem

from autoprune.policy import PruningPolicy
from autoprune.search import session as session_module
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.search.session import BudgetSpent, SearchSession
from autoprune.search.trials import TrialStore


def session(made: SearchProblem, max_evaluations: int) -> SearchSession:
    return SearchSession(made, searcher="random", seed=3, max_evaluations=max_evaluations)


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


def test_only_rivals_of_the_best_are_looked_at_more_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RIVALS", (2, 1))
    running = session(problem(ThreeLooks()), 9)
    asked = (policy(2, 6), policy(1, 6), policy(1, 2), policy(1, 6), policy(4, 6))
    outcomes = [running.evaluate(each) for each in asked]
    # Rewards -0.2, -0.3, -0.7, -0.3, 0: the second is no rival of the best, the third of neither of the first two.
    assert [outcome.score.look for outcome in outcomes] == [2, 1, 0, 1, 2]
    assert [outcome.reward for outcome in outcomes] == pytest.approx([-0.2, -0.3, -0.7, -0.3, 0.0])
    assert running.best is outcomes[4]


def test_a_search_goes_the_same_way_whether_scores_are_computed_or_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "RIVALS", (1, 1))
    asked = [policy(2, 6), policy(1, 2), policy(4, 2), policy(4, 6)]

    def outcomes(store: TrialStore) -> list[Outcome]:
        running = session(problem(ThreeLooks(), store=store), 9)
        return [running.evaluate(each) for each in asked]

    fresh = outcomes(TrialStore(tmp_path / "fresh.sqlite"))
    store = TrialStore(tmp_path / "full.sqlite")
    complete = problem(ThreeLooks(), store=store)
    for each in asked:
        complete.evaluate(each)
    assert outcomes(store) == fresh
    assert [outcome.score.look for outcome in fresh] == [2, 0, 0, 2]


def test_a_candidate_that_is_asked_for_again_keeps_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RIVALS", (1, 1))
    running = session(problem(ThreeLooks()), 9)
    first = running.evaluate(policy(1, 2))
    running.evaluate(policy(4, 6))  # by its bars the first one would be dropped now
    assert running.evaluate(policy(1, 2)) is first
    assert first.score.complete


@pytest.mark.parametrize(("off", "is_believed"), [(0.22, True), (0.24, False)])
def test_a_bad_first_look_within_its_error_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, off: float, is_believed: bool
) -> None:
    monkeypatch.setattr(session_module, "RIVALS", (1, 1))
    looks = ThreeLooks()
    running = session(problem(looks), 9)
    running.evaluate(policy(2, 6))  # -0.2, seen as -0.15
    looks.off = off  # the original, 0 in truth, is seen as -0.17 or -0.19 with a standard error of 0.02
    assert running.evaluate(policy(4, 6)).score.complete is is_believed

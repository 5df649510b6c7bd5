"""The loop: budget, episodes, the best, races, and that a resumed search scores nothing twice."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from problems_for_tests import CountingScorer, ThreeLooks, policy, problem, pruning

from autoprune.config import RewardConfig
from autoprune.errors import InputError
from autoprune.policies.baselines import ListSearcher
from autoprune.search import racing
from autoprune.search.loop import SearchResult, run_search
from autoprune.search.problem import Limit, Outcome, SearchProblem
from autoprune.search.searcher import Ask, MakeSearcher, SearcherState
from autoprune.search.toy import toy_problem
from autoprune.space.decision import Policy
from autoprune.store.trials import TrialStore


def listed(policies: Sequence[Policy], name: str = "random") -> MakeSearcher:
    return partial(ListSearcher, name=name, policies=policies)


def searched(made: SearchProblem, policies: Sequence[Policy], max_evaluations: int = 9) -> SearchResult:
    return run_search(listed(policies), made, max_evaluations=max_evaluations, seed=3)


class Probing(ListSearcher):
    """Probes the original first, then asks for the smallest."""

    told: Sequence[Outcome] = ()

    def ask(self) -> Ask:
        asked = super().ask()
        return Ask(asked.policies, are_probes=True) if not self.told else Ask((policy(1, 2),))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self.told = outcomes


def test_a_resumed_search_scores_nothing_twice(tmp_path: Path) -> None:
    asked = [policy(1, 2), policy(2, 2), policy(1, 2), policy(4, 2)]
    whole, stopped, resumed = CountingScorer(), CountingScorer(), CountingScorer()
    uninterrupted = searched(problem(whole), asked, 4)

    path = tmp_path / "trials.sqlite"
    searched(problem(stopped, store=TrialStore(path)), asked[:2], 4)
    after = searched(problem(resumed, store=TrialStore(path)), asked, 4)
    assert after.outcomes == uninterrupted.outcomes
    assert resumed.asked == [pruning(4, 2).key]
    assert after.evaluations == uninterrupted.evaluations == 3
    rows = TrialStore(path).episodes()
    assert [row.episode for row in rows] == [1, 2, 3, 4]
    assert [row.policy for row in rows] == [outcome.pruning.key for outcome in after.outcomes]
    assert [row.reward for row in rows] == [outcome.reward for outcome in after.outcomes]
    assert {(row.searcher, row.seed) for row in rows} == {("random", 3)}


def test_the_budget_counts_distinct_policies() -> None:
    asked = [policy(1, 2), policy(1, 2), policy(2, 2), policy(4, 2)]
    result = searched(problem(CountingScorer()), asked, 2)
    assert [outcome.policy for outcome in result.outcomes] == asked[:3]
    assert result.evaluations == 2


def test_a_search_with_nothing_new_to_ask_ends() -> None:
    result = searched(problem(CountingScorer()), [policy(1, 2)] * 100, 2)
    assert (len(result.outcomes), result.evaluations) == (8, 1)
    with pytest.raises(InputError, match=r"search\.agent: random: asked for no candidate"):
        searched(problem(CountingScorer()), [])


def test_the_best_is_the_earliest_of_equals_and_all_are_told() -> None:
    told: list[Outcome] = []
    asked = [policy(1, 2), policy(2, 6), policy(4, 2), policy(2, 6)]
    made = problem(CountingScorer())
    result = run_search(listed(asked), made, max_evaluations=9, seed=0, on_outcome=told.append)
    assert result.best is result.outcomes[1]
    assert tuple(told) == result.outcomes
    assert result.agent is None


def test_a_probe_counts_but_is_no_episode_and_never_the_best() -> None:
    looks, told = ThreeLooks(), list[Outcome]()
    made = problem(looks)
    probing = partial(Probing, name="probing", policies=[made.full_policy])  # the highest reward that there is
    result = run_search(probing, made, max_evaluations=2, seed=0, on_outcome=told.append)
    assert [outcome.policy for outcome in result.outcomes] == [policy(1, 2)]
    assert (result.best, tuple(told), result.evaluations) == (result.outcomes[0], result.outcomes, 2)
    assert looks.asked[0] == (pruning(4, 6).key, 0) != looks.asked[1]  # a first look, and no other
    assert looks.asked[1][0] == pruning(1, 2).key


def test_probes_that_repeat_end_and_are_told_what_was_seen() -> None:
    made = problem(ThreeLooks())
    told: list[Outcome] = []

    class Repeating(ListSearcher):
        def ask(self) -> Ask:
            return Ask((made.full_policy,), are_probes=True)

        def tell(self, outcomes: Sequence[Outcome]) -> None:
            told.extend(outcomes)

    with pytest.raises(InputError, match="asked for no candidate"):
        run_search(partial(Repeating, name="again", policies=()), made, max_evaluations=3, seed=0)
    assert len(told) == 12
    assert told[0].reward == pytest.approx(0.0)  # of a KL that is taken for 0 at that look


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (policy(4, 6), "breaks a limit; only probes may"),
        ((3, 0), "no policy; one is a tuple with a Python int for each decision"),
        ((-1, 0), "no policy"),
        ((0,), "no policy"),
        ((0, 0.0), "no policy"),
        ((0, True), "no policy"),
        (pruning(1, 2), "no policy"),
    ],
)
def test_a_searcher_that_asks_for_what_it_may_not_is_refused(asked: Any, message: str) -> None:
    made = problem(CountingScorer(), Limit("macs", 900))
    with pytest.raises(InputError, match=rf"search\.agent: random: .*{message}"):
        searched(made, [asked])
    if asked == made.full_policy:
        given = run_search(listed([asked]), made, max_evaluations=1, seed=0, as_given=True)
        assert given.best.policy == asked


class Keeping(ListSearcher):
    """Whose state is as its name says."""

    def state(self) -> Any:
        return {"a set": SearcherState({1}), "no tensor": SearcherState(0, {"a": 1}), "a text": "a"}[self.name]  # type: ignore[dict-item]


class Mute(ListSearcher):
    trained = None  # type: ignore[assignment]


class Deaf(ListSearcher):
    def tell(self) -> None:  # type: ignore[override]
        """Takes nothing."""


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (ListSearcher, " ", "search.agent: name: must be a text, got ' '"),
        (Keeping, "a set", "search.agent: a set: state: cannot be saved, as facts of JSON and tensors"),
        (Keeping, "no tensor", "search.agent: no tensor: state: cannot be saved, as facts of JSON and tensors"),
        (Keeping, "a text", "search.agent: a text: state: must give a SearcherState, got 'a'"),
        (Mute, "mute", "it has no method trained"),
        (Deaf, "deaf", "search.agent: tell cannot be called so"),
    ],
)
def test_a_searcher_that_cannot_be_gone_on_with_is_refused_before_any_work(
    kind: type[ListSearcher], name: str, message: str
) -> None:
    scorer = CountingScorer()
    with pytest.raises(InputError, match=message):
        run_search(partial(kind, name=name, policies=[policy(1, 2)]), problem(scorer), max_evaluations=9, seed=3)
    assert scorer.asked == []


def test_only_rivals_of_the_best_are_looked_at_more_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "RIVALS", (2, 1))
    asked = (policy(2, 6), policy(1, 6), policy(1, 2), policy(1, 6), policy(4, 6))
    result = searched(problem(ThreeLooks()), asked)
    # Rewards -0.2, -0.3, -0.7, -0.3, 0: the second is no rival of the best, the third of neither of the first two.
    assert [outcome.score.look for outcome in result.outcomes] == [2, 1, 0, 1, 2]
    assert [outcome.reward for outcome in result.outcomes] == pytest.approx([-0.2, -0.3, -0.7, -0.3, 0.0])
    assert result.best is result.outcomes[4]
    every = run_search(listed(asked), problem(ThreeLooks()), max_evaluations=9, seed=0, races=False)
    assert all(outcome.score.complete for outcome in every.outcomes)


def test_a_search_goes_the_same_way_whether_scores_are_computed_or_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "RIVALS", (1, 1))
    asked = [policy(2, 6), policy(1, 2), policy(4, 2), policy(4, 6)]
    fresh = searched(problem(ThreeLooks(), store=TrialStore(tmp_path / "fresh.sqlite")), asked)
    store = TrialStore(tmp_path / "full.sqlite")
    complete = problem(ThreeLooks(), store=store)
    for each in asked:
        complete.evaluate(each)
    assert searched(problem(ThreeLooks(), store=store), asked).outcomes == fresh.outcomes
    assert [outcome.score.look for outcome in fresh.outcomes] == [2, 0, 0, 2]


def test_a_candidate_that_is_asked_for_again_keeps_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "RIVALS", (1, 1))
    asked = [policy(1, 2), policy(4, 6), policy(1, 2)]  # by the second one's bars the first would be dropped
    first, _, again = searched(problem(ThreeLooks()), asked).outcomes
    assert again is first
    assert first.score.complete


@pytest.mark.parametrize(("off", "is_believed"), [(0.22, True), (0.24, False)])
def test_a_bad_first_look_within_its_error_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, off: float, is_believed: bool
) -> None:
    monkeypatch.setattr(racing, "RIVALS", (1, 1))
    looks = ThreeLooks()

    def spoil(_: Outcome) -> None:
        looks.off = off  # the original, 0 in truth, is seen as -0.17 or -0.19 with a standard error of 0.02

    asked = [policy(2, 6), policy(4, 6)]  # the first: -0.2, seen as -0.15
    result = run_search(listed(asked), problem(looks), max_evaluations=9, seed=0, on_outcome=spoil)
    assert result.outcomes[1].score.complete is is_believed


def test_a_reward_that_falls_where_a_score_is_better_cannot_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "RIVALS", (1, 1))
    (tmp_path / "mine.py").write_text("def backwards(score, cost_ratio): return score.kl\n")
    made = problem(ThreeLooks(), reward_config=RewardConfig(form=f"{tmp_path / 'mine.py'}:backwards"))
    asked = [policy(2, 6), policy(1, 2)]
    with pytest.raises(InputError, match=r"search\.reward\.form: rewards .* set search\.racing to false"):
        searched(made, asked)
    every = run_search(listed(asked), made, max_evaluations=9, seed=0, races=False)
    assert every.best.policy == policy(1, 2)


def test_what_is_trained_is_a_module_or_nothing() -> None:
    class Lettered(ListSearcher):
        def trained(self) -> Any:
            return "agent"

    problem = toy_problem()
    with pytest.raises(InputError, match=r"search\.agent: a letter: trained: must give a torch module or None"):
        run_search(
            lambda brief: Lettered(brief, name="a letter", policies=[problem.floor_policy]),
            problem,
            max_evaluations=1,
            seed=0,
        )

"""Finalists: those that are timed and fine-tuned for a moment, and limits corrected by what timing told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging_for_tests import scored
from models_for_tests import same_state
from problems_for_tests import CountingScorer, ends, problem

from autoprune.config import FinetuneConfig, TargetConfig
from autoprune.config.file import load_config
from autoprune.measure.latency import Latency
from autoprune.pruning.find import find_groups
from autoprune.reports.tensorboard import RunLogger
from autoprune.results.kept import FINETUNE, SEARCH
from autoprune.search.loop import SearchResult
from autoprune.search.prepare import prepare
from autoprune.search.problem import Limit, Outcome, PredictedCost, SearchProblem
from autoprune.space.policy import PruningPolicy
from autoprune.steps import choice as deciding
from autoprune.steps import finalists as stage
from autoprune.steps.choice import (
    CORRECTED,
    FINALISTS,
    affordable,
    best_finalist,
    proxy_rank_correlation,
    search_choice,
    search_only,
)
from autoprune.steps.context import Context, Workspace
from autoprune.steps.finalists import (
    CLEARLY_FASTER,
    FILES_TIMED,
    Finalists,
    corrected_limits,
    distance,
    finalists,
    kept_finalists,
    least_distance,
    slowdown,
)
from autoprune.steps.finetune import finetuned
from autoprune.steps.met import share_of_allowed
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore
from autoprune.training import pace, train

MACS = Limit("macs", 900)


def test_limits_move_by_the_error_of_the_prediction_by_hand() -> None:
    """The original takes 0.1 ms, the smallest cut (1 + 2 of 10 channels) 0.03 ms; the limit is 0.05 ms."""
    wide = problem(CountingScorer(), Limit("latency", 0.05), MACS)
    # Files take 0.8 of what is predicted: 0.0625 ms may be predicted.
    assert corrected_limits(wide, 0.8) == (Limit("latency", 0.0625), MACS)
    # They take 1.25 times as long: only 0.04 ms may be predicted; twice as long: 0.025 ms is below the floor.
    assert corrected_limits(wide, 1.25) == (Limit("latency", 0.04), MACS)
    assert corrected_limits(wide, 2.0) == (Limit("latency", 0.03), MACS)
    # A limit at the floor cannot be lowered.
    assert corrected_limits(problem(CountingScorer(), Limit("latency", 0.03)), 2.0) is None
    assert corrected_limits(wide, None) is None
    # Where nothing limits the latency, nothing moves.
    assert corrected_limits(problem(CountingScorer(), MACS), 0.5) is None


def test_an_error_is_corrected_where_it_costs_something() -> None:
    """Accuracy, where files are clearly faster than they need be, or the target, where all are too slow for it."""
    assert Finalists((), 0.9, target_met=True, measured={}).error_to_correct == 0.9
    assert Finalists((), 1.1, target_met=False, measured={}).error_to_correct == 1.1
    for error in (CLEARLY_FASTER, 1.0, 1.1):  # noise, or some file meets the target all the same
        assert Finalists((), error, target_met=True, measured={}).error_to_correct is None
    assert Finalists((), None, target_met=True, measured={}).error_to_correct is None


def test_a_search_goes_on_below_corrected_limits_and_a_resumed_one_alike(small_config: Path, tmp_path: Path) -> None:
    """With the error known, as a stopped run leaves it: predictions count double, so that twice as much is allowed."""
    target = "target={metric: latency, max_ratio: 0.4}"
    config = load_config(
        small_config, [target, "search.min_keep=0.02", "search.max_evaluations=8", "search.finalists=1"]
    )
    subject = load_subject(config)
    found = []
    for attempt, searcher, told in (
        ("first", "random", "random"),
        ("resumed", "random", "random"),
        ("by another", "nni: TPE", "nni: TPE, then random"),
    ):

        def search(problem: SearchProblem, place: Workspace, searcher: str = searcher) -> SearchResult:
            return replace(search_only(problem, place), searcher=searcher)

        run_dir = RunDir(tmp_path / attempt)
        store = TrialStore(run_dir.trials)
        prepared = prepare(config, subject.model, subject.data, store=store)
        floor, _ = ends(prepared.problem)
        store.keep(FILES_TIMED, Finalists((floor,), 0.5, True, {floor: 0.5}))
        with RunLogger(run_dir.logs) as logger:
            chosen = search_choice(Context(config, run_dir, store, logger, subject, None, prepared), search=search)
        assert chosen.search.searcher == told
        limit = prepared.problem.limits[0].max_value
        more = store.part(CORRECTED).episodes()
        assert {row.searcher for row in more} == {f"random, {CORRECTED}"}
        assert len({row.policy for row in more}) == 2  # a quarter of eight
        assert all(row.predicted_latency_ms <= 2 * limit for row in more)
        assert chosen.search.evaluations == 10
        assert chosen.search == store.kept(SEARCH)
        found.append([(row.searcher, row.policy, row.reward) for row in store.episodes()])
    assert found[0] == found[1] == found[2]


def test_a_finalist_meets_the_target_as_measured(small_config: Path) -> None:
    target = "target={metric: latency, max_ratio: 0.999}"
    config = load_config(small_config, [target, "search.verify_top=3", "search.min_keep=0.02"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    floor, full = ends(prepared.problem)
    made = prepared.problem
    outcomes = tuple(made.evaluate(policy) for policy in (made.floor_policy, made.full_policy))
    assert outcomes[1].reward > outcomes[0].reward
    # The original has the better reward and misses a target that is half of its own time.
    halved = load_config(small_config, ["target={metric: latency, max_ratio: 0.5}", "search.verify_top=3"])
    assert finalists(prepared, outcomes, halved).policies == (floor,)
    # None meets the target: the fastest is taken.
    strict = load_config(small_config, ["target={metric: latency, max_ratio: 0.0001}", "search.verify_top=3"])
    missed = finalists(prepared, outcomes, strict)
    assert missed.policies == (floor,)
    assert not missed.target_met
    assert missed.latency_error is not None and missed.latency_error > 0
    # A target without latency needs no timing: the best reward.
    assert finalists(prepared, outcomes, load_config(small_config)).policies == (full,)
    # A policy that differs from the first by one channel of one group is none of the finalists.
    first = prepared.problem.decisions[0]
    near = PruningPolicy.of({**full.as_dict(), first.name: first.channels - 1})
    three = (*outcomes, replace(outcomes[0], pruning=near))
    assert finalists(prepared, three, load_config(small_config, ["search.finalists=3"])).policies == (full, floor)


def test_what_is_allowed_is_no_more_than_where_nothing_disturbs_the_original() -> None:
    """Half of it may be taken: of 1.2 ms in the median, of 1 ms undisturbed, of 0.8 ms when the table was measured."""

    def latency(p50: float, quiet: float) -> Latency:
        return Latency(p50, p50, np.full((2, 1), p50), 2, quiet)

    original = latency(1.2, 1.0)
    half = [TargetConfig(metric="latency", max_ratio=0.5)]
    either = [*half, TargetConfig(metric="latency", max_value=0.2, unit="ms")]
    for candidate, at_most_ms, targets, share in (
        (latency(0.6, 0.3), 0.8, half, 1.0),  # the median's: 0.6 of 0.6
        (latency(0.45, 0.4), 0.8, half, 1.0),  # the undisturbed call's: 0.4 of 0.4
        (latency(0.45, 0.4), 1.1, half, 0.8),  # 0.4 of 0.5
        (latency(0.45, 0.4), 0.8, either, 2.25),  # 0.45 of 0.2, whatever the original takes
    ):
        found = share_of_allowed(candidate, original, targets, original_at_most_ms=at_most_ms)
        assert found == pytest.approx(share)


def test_a_machine_that_is_slower_for_all_files_is_no_neighbour_in_the_cache() -> None:
    def quiet(*milliseconds: float) -> list[Latency]:
        return [Latency(9.0, 9.0, np.full((2, 1), 9.0), 2, ms) for ms in milliseconds]

    assert slowdown(quiet(0.3, 0.24, 0.5), [0.2, 0.2, 0.4]) == pytest.approx(1.25)  # 1.5, 1.2, 1.25
    assert slowdown(quiet(0.19, 0.18), [0.2, 0.2]) == 1.0  # quicker than predicted says nothing of the original


def test_twice_as_many_finalists_lie_half_as_far_from_each_other() -> None:
    assert [least_distance(wanted) for wanted in (1, 2, 4, 8)] == [0.1, 0.1, 0.1, 0.05]


def test_the_distance_of_policies_by_hand(small_config: Path) -> None:
    """Three groups of 32, 48 and 64 channels; each touches a convolution, a BatchNorm, and what reads it."""
    config = load_config(small_config)
    subject = load_subject(config)
    groups = find_groups(subject.model, subject.data.info.input_shape).prunable
    assert [len({member.module for member in group.members}) for group in groups] == [3, 3, 3]
    full = PruningPolicy.of({group.name: group.channels for group in groups})
    first, second, third = full.as_dict()
    other = PruningPolicy.of({first: 16, second: 48, third: 48})
    assert distance(groups, full, other) == distance(groups, other, full) == pytest.approx((0.5 + 0.25) / 3)
    assert distance(groups, full, full) == 0.0


def test_the_best_finalist_is_the_one_that_learns_best(small_config: Path, tmp_path: Path) -> None:
    """One channel of each layer against all of them; what was fine-tuned before is not fine-tuned again."""
    config = load_config(small_config, ["search.finalists=2", "search.finalist_epochs=1", "search.min_keep=0.02"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    floor, full = ends(prepared.problem)
    run_dir, store = RunDir(tmp_path), TrialStore(tmp_path / "trials.sqlite")
    run_dir.state.mkdir()
    context = Context(config, run_dir, store, RunLogger(run_dir.logs), subject, None, prepared)
    assert best_finalist(context, [floor, full])[0] == full
    scores = store.kept(FINALISTS) or {}
    assert set(scores) == {floor, full}
    assert scores[full] < scores[floor]
    store.keep(FINALISTS, {full: 2.0, floor: 1.0})  # that no training gives
    assert best_finalist(context, [floor, full])[0] == floor
    assert best_finalist(context, [floor]) == (floor, {})


def test_what_the_best_finalist_learnt_is_gone_on_with(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fine-tuning begins with the second epoch, and ends where one without finalists ends."""
    config = load_config(small_config, ["search.finalists=2", "search.min_keep=0.02", "finetune.epochs=2"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    floor, full = ends(prepared.problem)
    taken: list[str] = []
    monkeypatch.setattr(train, "take_step", counted(train.take_step, taken))
    an_epoch = len(prepared.data.train) // config.finetune.batch_size
    tuned_models = []
    for place, policies in (("one", [full]), ("two", [floor, full])):
        run_dir = RunDir(tmp_path / place)
        run_dir.state.mkdir(parents=True)
        store = TrialStore(run_dir.trials)
        with RunLogger(run_dir.logs) as logger:
            context = Context(config, run_dir, store, logger, subject, None, prepared)
            assert best_finalist(context, policies)[0] == full
            begun = sorted(run_dir.state.iterdir())
            assert len(begun) == (0 if place == "one" else 2)
            taken.clear()
            tuned = finetuned(context, full)
        assert len(list(run_dir.state.iterdir())) == max(len(begun), 1)  # gone on with, not begun beside it
        assert len(taken) == (2 if place == "one" else 1) * an_epoch
        assert [log.epoch for log in store.kept(FINETUNE) or ()] == [1, 2]
        tuned_models.append(tuned)
    assert same_state(*tuned_models)


def test_files_are_timed_once_whenever_a_run_is_stopped(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "target={metric: latency, max_ratio: 0.5}"
    config = load_config(small_config, [target, "search.min_keep=0.02", "search.finalists=1"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    outcomes = [prepared.problem.evaluate(prepared.problem.floor_policy)]
    store, timed = TrialStore(tmp_path / "trials.sqlite"), list[str]()
    monkeypatch.setattr(stage, "timed_together", counted(stage.timed_together, timed))
    first = kept_finalists(prepared, outcomes, config, store)
    assert first.policies == (ends(prepared.problem)[0],) and first.measured and first.latency_error
    assert kept_finalists(prepared, outcomes, config, TrialStore(store.path)) == first
    assert len(timed) == 1
    assert kept_finalists(prepared, outcomes, config, store.part("another search")).policies == first.policies
    assert len(timed) == 2


def test_finalists_that_have_little_time_go_by_one_plan(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the teacher has answered for the first one does not make the second one's schedule longer."""
    config = load_config(
        small_config,
        ["search.finalists=2", "search.min_keep=0.02", "finetune.epochs=1000", "finetune.max_minutes=0.05"],
    )
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    floor, full = ends(prepared.problem)
    run_dir, store = RunDir(tmp_path), TrialStore(tmp_path / "trials.sqlite")
    run_dir.state.mkdir()
    monkeypatch.setattr(deciding, "FINALISTS_SHARE", 1.0)
    planned: list[str] = []
    monkeypatch.setattr(pace, "pace_of", counted(pace.pace_of, planned))
    with RunLogger(run_dir.logs) as logger:
        context = Context(config, run_dir, store, logger, subject, None, prepared)
        best, scores = best_finalist(context, [floor, full])
        assert len(scores) == 2 and len(planned) == 1
        finetuned(context, best)
    assert len(planned) == 1
    logs = store.kept(FINETUNE) or ()
    assert 1 < len(logs) < 1000
    assert logs[-1].learning_rate < 0.2 * logs[0].learning_rate  # the schedule ends where the time does


def counted(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """`function`, which notes each call."""

    def counting(*args: object, **named: object) -> object:
        calls.append(function.__name__)
        return function(*args, **named)

    return counting


def test_how_many_finalists_the_time_has_room_for_by_hand() -> None:
    limited = FinetuneConfig(max_minutes=20 / 3)  # 0.15 of it: 60 s for those that are not taken
    assert affordable(4, seconds_each=1e4, finetune=FinetuneConfig()) == 4
    assert [affordable(4, seconds_each=each, finetune=limited) for each in (61, 60, 25, 20, 1)] == [1, 2, 3, 4, 4]
    assert affordable(4, seconds_each=0.0, finetune=limited) == 1  # not one epoch


def test_finalists_that_take_too_long_are_left_out(small_config: Path, tmp_path: Path) -> None:
    """The first is as good as its time; a run that was stopped after it tries no more either."""
    config = load_config(small_config, ["search.finalists=2", "search.min_keep=0.02", "finetune.max_minutes=0.001"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    floor, full = ends(prepared.problem)
    run_dir, store = RunDir(tmp_path), TrialStore(tmp_path / "trials.sqlite")
    run_dir.state.mkdir()
    context = Context(config, run_dir, store, RunLogger(run_dir.logs), subject, None, prepared)
    for _ in range(2):
        assert best_finalist(context, [floor, full])[0] == floor
    assert list(store.kept(FINALISTS) or ()) == [floor]


def test_how_well_the_reward_predicts_is_said_of_four_or_more() -> None:
    policies = [PruningPolicy.of({"a": width}) for width in range(1, 6)]
    cost = PredictedCost(1.0, 1.0, 1, 1)
    outcomes = tuple(
        Outcome((number,), policy, scored(0.1, 0.1, 0.9, 5), cost, -float(policy.as_dict()["a"]))
        for number, policy in enumerate(policies)
    )
    tuned = dict(zip(policies, (0.01, 0.03, 0.02, 0.04), strict=False))
    assert proxy_rank_correlation(outcomes, tuned) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert proxy_rank_correlation(outcomes, dict(list(tuned.items())[:3])) is None
    assert proxy_rank_correlation(outcomes, dict.fromkeys(policies, 0.1)) is None

"""Limits corrected by what timing the candidates told, worked out by hand, and a search that goes on below them."""

from pathlib import Path

from problems_for_tests import CountingScorer, problem

from autoprune.config import load_config
from autoprune.prepare import prepare
from autoprune.results.run import SearchFigures
from autoprune.run_dir import RunDir
from autoprune.search.problem import Limit
from autoprune.search.trials import TrialStore
from autoprune.stages.decision import CORRECTED, ERROR_FACT, SEARCH_FACT, search_decision
from autoprune.stages.finalists import CLEARLY_FASTER, Finalists, corrected_limits
from autoprune.stages.subject import load_subject
from autoprune.stages.tensorboard import RunLogger

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
    assert Finalists((), 0.9, target_met=True).error_to_correct == 0.9
    assert Finalists((), 1.1, target_met=False).error_to_correct == 1.1
    for error in (CLEARLY_FASTER, 1.0, 1.1):  # noise, or some file meets the target all the same
        assert Finalists((), error, target_met=True).error_to_correct is None
    assert Finalists((), None, target_met=True).error_to_correct is None


def test_a_search_goes_on_below_corrected_limits_and_a_resumed_one_alike(small_config: Path, tmp_path: Path) -> None:
    """With the error known, as a stopped run leaves it: predictions count double, so that twice as much is allowed."""
    target = "target={metric: latency, max_ratio: 0.4}"
    config = load_config(
        small_config, [target, "search.min_keep=0.02", "search.max_evaluations=8", "search.finalists=1"]
    )
    subject = load_subject(config)
    found = []
    for attempt in ("first", "resumed"):
        run_dir = RunDir(tmp_path / attempt)
        store = TrialStore(run_dir.trials)
        store.set_fact(ERROR_FACT, "0.5")
        prepared = prepare(config, subject.model, subject.data, store=store)
        with RunLogger(run_dir.logs) as logger:
            decision = search_decision(config, logger)(prepared, run_dir, store)
        limit = prepared.problem.limits[0].max_value
        more = store.part(CORRECTED).episodes()
        assert {row.searcher for row in more} == {f"random, {CORRECTED}"}
        assert len({row.policy for row in more}) == 2  # a quarter of eight
        assert all(row.predicted_latency_ms <= 2 * limit for row in more)
        assert decision.search.evaluations == 10
        assert decision.search == SearchFigures.model_validate_json(store.fact(SEARCH_FACT) or "")
        found.append([(row.searcher, row.policy, row.reward) for row in store.episodes()])
    assert found[0] == found[1]

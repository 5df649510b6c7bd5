"""A model whose file misses its latency target when it is measured last is narrowed until it meets it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from problems_for_tests import ends

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.pruning.structure import load_pruned
from autoprune.reports.tensorboard import RunLogger
from autoprune.search.prepare import Prepared, prepare
from autoprune.space.policy import PruningPolicy, load_policy
from autoprune.steps import context as context_module
from autoprune.steps import narrowing
from autoprune.steps.context import Context
from autoprune.steps.met import latency_targets, median_share
from autoprune.steps.narrowing import (
    NARROWED,
    Measured,
    Narrowings,
    measured_within_target,
    narrower_policy,
    one_rung_lower,
)
from autoprune.steps.subject import Subject, load_subject
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore

ROUNDS = ["measure.rounds=20", "measure.runs_per_round=10", "search.min_keep=0.1"]


@pytest.fixture(scope="module")
def small(small_config: Path) -> tuple[RunConfig, Subject, Prepared]:
    config = load_config(small_config, ["target={metric: latency, max_ratio: 0.8}", *ROUNDS])
    subject = load_subject(config)
    return config, subject, prepare(config, subject.model, subject.data)


def measured(
    small: tuple[RunConfig, Subject, Prepared], root: Path, policy: PruningPolicy, *, may_narrow: bool = True
) -> Measured:
    config, subject, prepared = small
    run_dir = RunDir(root)
    run_dir.state.mkdir(parents=True, exist_ok=True)
    run_dir.original_onnx.parent.mkdir(exist_ok=True)
    model = prepared.elastic.cut(policy)
    store = TrialStore(run_dir.trials)
    with RunLogger(run_dir.logs) as logger:
        context = Context(config, run_dir, store, logger, subject, None, prepared)
        return measured_within_target(context, policy, model, may_narrow=may_narrow)


def share(small: tuple[RunConfig, Subject, Prepared], found: Measured) -> float:
    return median_share(found.pruned, found.original, latency_targets(small[0].target))


def test_a_file_that_misses_its_target_is_narrowed_until_it_meets_it(
    small: tuple[RunConfig, Subject, Prepared], tmp_path: Path
) -> None:
    _, subject, prepared = small
    _, full = ends(prepared.problem)
    found = measured(small, tmp_path, full)
    assert share(small, found) <= 1
    assert found.policy != full
    assert len(found.narrowed) >= 1
    assert "of the latency that is allowed" in found.narrowed[0]
    # What is on disk is what was measured.
    assert load_policy(tmp_path / "policy.json") == found.policy
    kept = load_pruned(tmp_path / "pruned", architecture=subject.model)
    image = torch.randn(2, *subject.data.info.input_shape)
    torch.testing.assert_close(kept(image), found.model.eval()(image))
    # A run that was stopped after that narrows no further, and trains nothing again.
    for state in (tmp_path / "state").glob("*.pt"):
        state.unlink()
    again = measured(small, tmp_path, full)
    assert (again.policy, again.narrowed) == (found.policy, found.narrowed)
    assert not list((tmp_path / "state").glob("*.pt"))


@pytest.mark.parametrize("step", ["save_pruned", "keep", "export_onnx", "save_policy", "training_of"])
@pytest.mark.parametrize("after", [False, True])
def test_a_narrowing_that_is_stopped_goes_on(
    small: tuple[RunConfig, Subject, Prepared], step: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before or just after a step is first taken: what is on disk in the end is one model, within the target."""
    places: dict[str, Any] = {"save_policy": context_module, "keep": TrialStore}
    place = places.get(step, narrowing)
    whole = getattr(place, step)

    def stopped(*arguments: Any, **named: Any) -> None:
        if after:
            whole(*arguments, **named)
        raise KeyboardInterrupt

    _, subject, prepared = small
    _, full = ends(prepared.problem)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, step, stopped)
        measured(small, tmp_path, full)
    found = measured(small, tmp_path, full)
    assert share(small, found) <= 1
    assert found.policy != full
    assert load_policy(tmp_path / "policy.json") == found.policy
    kept = load_pruned(tmp_path / "pruned", architecture=subject.model)
    image = torch.randn(2, *subject.data.info.input_shape)
    torch.testing.assert_close(kept(image), found.model.eval()(image))


def test_what_is_within_its_target_or_was_given_stays_as_it_is(
    small: tuple[RunConfig, Subject, Prepared], tmp_path: Path
) -> None:
    floor, full = ends(small[2].problem)
    fast = measured(small, tmp_path / "fast", floor)
    assert (fast.policy, fast.narrowed) == (floor, ())
    slow = measured(small, tmp_path / "slow", full, may_narrow=False)
    assert (slow.policy, slow.narrowed) == (full, ())
    assert share(small, slow) > 1
    for place in ("fast", "slow"):
        assert not (tmp_path / place / "policy.json").exists()
        assert TrialStore(tmp_path / place / "trials.sqlite").kept(NARROWED) == Narrowings((), settled=True)
    # What follows is made of a model that is settled: a run that goes on later lets it stay, whatever it measures then.
    again = measured(small, tmp_path / "slow", full)
    assert (again.policy, again.narrowed) == (full, ())


def test_the_narrower_cut_is_enough_as_predicted_and_the_nearest_of_those(
    small: tuple[RunConfig, Subject, Prepared],
) -> None:
    _, _, prepared = small
    problem, elastic = prepared.problem, prepared.elastic
    floor, full = ends(problem)
    now_ms = problem.original_cost.predicted_latency_ms

    def saved(policy: PruningPolicy) -> float:
        return 1 - problem.cost_of(policy).predicted_latency_ms / now_ms

    lower = list(one_rung_lower(problem, full))
    assert len(lower) == len(problem.decisions)
    assert all(sum(a != b for a, b in zip(one.channels, full.channels, strict=True)) == 1 for one in lower)
    little, much = min(filter(lambda s: s > 0, map(saved, lower))), 0.5
    for wanted in (little, much):  # what one rung saves, and what none does alone
        found = narrower_policy(prepared, elastic, full, share=0.99 / (1 - wanted), repairs=False)
        assert found is not None
        assert saved(found) >= wanted - 1e-9
        if wanted == little:
            unrepaired = copy.copy(prepared.evaluator)
            unrepaired.repair = None
            kls = {
                one: unrepaired.score_model(unrepaired.candidate(one)).kl
                for one in lower
                if saved(one) >= wanted - 1e-9
            }
            assert kls[found] == pytest.approx(min(kls.values()), rel=1e-3)
    assert narrower_policy(prepared, elastic.narrow(floor), floor, share=1.5, repairs=False) is None

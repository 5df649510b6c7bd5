"""Which levels an input-adaptive model of a run may have: searched ones, the run's pruned model, the original."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems_for_tests import ends

from autoprune.adaptive.levels.choice import (
    LevelModels,
    candidate_levels,
    mixtures_of,
    mixtures_tried,
    trained_levels,
)
from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.reports.tensorboard import RunLogger
from autoprune.search.prepare import Prepared, prepare
from autoprune.space.policy import PruningPolicy, is_nested
from autoprune.steps.context import Context
from autoprune.steps.narrowing import one_rung_lower
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore


@pytest.fixture
def context(small_config: Path, tmp_path: Path) -> Iterator[Context]:
    config, run_dir = load_config(small_config), RunDir(tmp_path)
    subject, store = load_subject(config), TrialStore(run_dir.trials)
    run_dir.state.mkdir()
    prepared = prepare(config, subject.model, subject.data, store=store)
    with RunLogger(run_dir.logs) as logger:
        yield Context(config, run_dir, store, logger, subject, None, prepared)


def share(prepared: Prepared, policy: PruningPolicy) -> float:
    problem = prepared.problem
    return problem.cost_of(policy).predicted_latency_ms / problem.original_cost.predicted_latency_ms


def pruned_of(prepared: Prepared) -> PruningPolicy:
    """The original with one group a rung lower, where that saves most."""
    _, full = ends(prepared.problem)
    return min(one_rung_lower(prepared.problem, full), key=lambda policy: share(prepared, policy))


def config_with(small_config: Path, *ratios: float) -> RunConfig:
    return load_config(small_config, [f"adaptive.max_ratios={list(ratios)}", "finetune.epochs=1"])


def test_a_pruned_model_is_a_level_if_all_smaller_ones_are_cuts_of_it(small_config: Path, context: Context) -> None:
    prepared = context.prepared
    pruned = pruned_of(prepared)
    below = (share(prepared, ends(prepared.problem)[0]) + share(prepared, pruned)) / 2
    context = replace(context, config=config_with(small_config, below, 1.0))
    found = candidate_levels(context, pruned=pruned)
    small, middle, whole = found.policy.levels
    assert (middle, whole) == (pruned, prepared.elastic.full_policy)
    assert found.pruned == pruned
    assert is_nested(small, pruned)
    assert found.max_ratios == (below, pytest.approx(share(prepared, pruned)), 1.0)
    assert candidate_levels(context, pruned=pruned) == found  # from what is stored
    # One that takes no longer than a level that is asked for, or has other widths than searches know, is none.
    above = config_with(small_config, below, (1 + share(prepared, pruned)) / 2, 1.0)
    others = candidate_levels(replace(context, config=above, store=context.store.part("above")), pruned=pruned)
    assert others.pruned is None
    assert len(others.policy.levels) <= 3
    first = prepared.problem.decisions[0]
    strange = next(width for width in range(1, first.channels) if width not in first.ladder)
    odd = PruningPolicy.of({**pruned.as_dict(), first.name: strange})
    assert candidate_levels(context, pruned=odd).pruned is None


def test_what_is_ready_is_not_trained_and_levels_are_chosen_after_the_rest_is(
    small_config: Path, context: Context
) -> None:
    prepared = context.prepared
    pruned = pruned_of(prepared)
    below = (share(prepared, ends(prepared.problem)[0]) + share(prepared, pruned)) / 2
    context = replace(context, config=config_with(small_config, below, 1.0))
    candidates = candidate_levels(context, pruned=pruned)
    model, original = prepared.elastic.cut(pruned).eval(), prepared.elastic.original
    ready = {pruned: model, prepared.elastic.full_policy: original}
    assert mixtures_tried(context, candidates, ready) == ()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    levels = trained_levels(context, candidates.policy, ready, epochs=1, name="levels")
    assert levels.models[1:] == (model, original)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(levels.cuts) == 1
    tried = mixtures_of(context, candidates, levels)
    assert {mixture.levels for mixture in tried} == {(0, 1), (0, 2), (1, 2), (0, 1, 2)}
    assert candidates.chosen(tried[0]).levels == tuple(candidates.policy.levels[p] for p in tried[0].levels)
    assert levels.of((1, 2)) == LevelModels((model, original), ())
    assert levels.of((0, 2)) == LevelModels((levels.models[0], original), levels.cuts)
    two = candidates.chosen(next(mixture for mixture in tried if mixture.levels == (1, 2)))
    untrained = trained_levels(context, two, ready, epochs=1, name="none")
    assert untrained == LevelModels((model, original), ())

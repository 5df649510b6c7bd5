"""Which levels an input-adaptive model of a run may have: searched ones, the run's pruned model, the original."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import same_state
from problems_for_tests import ends

from autoprune.adaptive.levels import choice
from autoprune.adaptive.levels.choice import (
    ChosenLevels,
    PrunedModel,
    candidate_levels,
    chosen_levels,
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
    model = prepared.elastic.cut(pruned)
    found = candidate_levels(context, PrunedModel(pruned, model))
    small, middle, whole = found.policies
    assert (middle, whole) == (pruned, prepared.elastic.full_policy)
    assert found.ready == {pruned: model, whole: prepared.elastic.original}
    assert is_nested(small, pruned)
    assert found.max_ratios == (below, pytest.approx(share(prepared, pruned)), 1.0)
    assert candidate_levels(context, PrunedModel(pruned, model)) == found  # from what is stored
    # One that takes no longer than a level that is asked for, or has other widths than searches know, is none.
    above = config_with(small_config, below, (1 + share(prepared, pruned)) / 2, 1.0)
    elsewhere = replace(context, config=above, store=context.store.part("above"))
    others = candidate_levels(elsewhere, PrunedModel(pruned, model))
    assert others.ready == {whole: prepared.elastic.original}
    assert len(others.policies) <= 3
    first = prepared.problem.decisions[0]
    strange = next(width for width in range(1, first.channels) if width not in first.ladder)
    odd = PruningPolicy.of({**pruned.as_dict(), first.name: strange})
    assert candidate_levels(context, PrunedModel(odd, model)).ready == {whole: prepared.elastic.original}


def test_what_is_ready_is_not_trained_and_levels_are_chosen_after_the_rest_is(
    small_config: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = context.prepared
    pruned = pruned_of(prepared)
    below = (share(prepared, ends(prepared.problem)[0]) + share(prepared, pruned)) / 2
    context = replace(context, config=config_with(small_config, below, 1.0))
    model, original = prepared.elastic.cut(pruned).eval(), prepared.elastic.original
    candidates = candidate_levels(context, PrunedModel(pruned, model))
    small, _, whole = candidates.policies
    assert mixtures_tried(context, candidates) == ()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    levels = trained_levels(context, candidates.policies, candidates.ready, epochs=1, name="levels")
    assert levels[1:] == (model, original)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tried = mixtures_of(context, candidates, levels)
    assert {mixture.levels for mixture in tried} == {(0, 1), (0, 2), (1, 2), (0, 1, 2)}
    assert trained_levels(context, (pruned, whole), candidates.ready, epochs=1, name="none") == (model, original)
    kept = {places: next(one for one in tried if one.levels == places) for places in ((1, 2), (0, 2))}
    for places, sharing in (((1, 2), 0), ((0, 2), 1)):  # whichever is the best
        monkeypatch.setattr(choice, "mixtures_of", lambda *_, best=kept[places]: (best,))
        found = chosen_levels(context, PrunedModel(pruned, model))
        assert found.policies == tuple((small, pruned, whole)[place] for place in places)
        assert found == ChosenLevels(found.policies, found.models, sharing, candidates.max_ratios, (kept[places],))
        assert found.models[-2:][sharing:] == (model, original)[sharing:]
        for ours, theirs in zip(found.models, (levels[place] for place in places), strict=True):
            assert same_state(ours, theirs)  # the training has ended: it is only read back


def test_levels_are_cut_from_the_smallest_model_that_is_ready(
    small_config: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = context.prepared
    pruned = pruned_of(prepared)
    small, whole = ends(prepared.problem)
    model, original = prepared.elastic.cut(pruned).eval(), prepared.elastic.original
    for tensor in (*model.parameters(), *original.parameters()):
        tensor.requires_grad_(False)
    weights = {"pruned": 0.125, "original": 0.25}
    for name, module in (("pruned", model), ("original", original)):
        for parameter in module.parameters():
            parameter.fill_(weights[name])
    monkeypatch.setattr(choice, "train_levels", lambda levels, *_, **__: levels)  # as they start
    context = replace(context, config=load_config(small_config, ["search.repair=false"]))
    for ready, value in (({whole: original, pruned: model}, 0.125), ({whole: original}, 0.25)):
        level, *_ = trained_levels(context, (small, *reversed(ready)), ready, epochs=1, name=f"from {value}")
        convolutions = [module for module in level.modules() if isinstance(module, torch.nn.Conv2d)]
        assert convolutions
        assert all(bool((module.weight == value).all()) for module in convolutions)

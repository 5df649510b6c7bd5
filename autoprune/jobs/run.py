"""The whole job, from the baseline to the reports; each stage goes on where it was."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.adaptive.levels.choice import LEVELS, MIXTURES, PrunedModel, check_level_limits
from autoprune.adaptive.levels.kept import check_earlier_levels
from autoprune.adaptive.steps import STAGES as ADAPTIVE_STAGES
from autoprune.adaptive.steps import adaptive_model
from autoprune.compute.compute import this_compute
from autoprune.config import RunConfig, check_bounds, check_options
from autoprune.config.unused import Command, Job
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.progress import stages
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.reports.run import write_report
from autoprune.results.kept import FINETUNE, FRAME, SEARCH, VERDICT
from autoprune.results.run import RunResult, parse_result
from autoprune.search.prepare import PREPARED, SETTING_UP
from autoprune.search.ray_cluster import Cluster, check_cluster
from autoprune.steps.applied import STORED_POLICY
from autoprune.steps.choice import (
    FINALISTS,
    FINALISTS_TRIED,
    SOURCE,
    Choose,
    check_scoring,
    check_search,
    search_choice,
)
from autoprune.steps.context import Workspace, checked, context_of, workspace
from autoprune.steps.final import final_result
from autoprune.steps.finalists import FILES_TIMED
from autoprune.steps.finetune import finetuned
from autoprune.steps.max_drop import cheapest_within_drop
from autoprune.steps.narrowing import NARROWED, measured_within_target
from autoprune.steps.recipe import check_importable
from autoprune.steps.subject import Subject
from autoprune.store.kept import Kept
from autoprune.store.run_dir import check_run_dir, clean_finished
from autoprune.training.train import train_baseline

BASELINE, SEARCHING = "training a baseline", "search"
FINE_TUNING, MEASURING = "fine-tuning", "exporting and measuring"
# In order, what each step keeps; a resumed run does those that have left nothing yet.
STEPS: tuple[Kept[Any], ...] = (
    *PREPARED,
    SOURCE,
    FILES_TIMED,
    FINALISTS_TRIED,
    FINALISTS,
    SEARCH,
    FRAME,
    FINETUNE,
    VERDICT,
    NARROWED,
    LEVELS,
    MIXTURES,
)


def run(
    config: RunConfig,
    root: Path,
    *,
    resume: bool = False,
    subject: Subject | None = None,
    choose: Choose | None = None,
    command: Command = "run",
    also_keeps: Sequence[Kept[Any]] = (),
    cluster: Cluster | None = None,
) -> RunResult:
    """Do the whole job in `root` and return the contents of `result.json`; a finished run is only read back.

    `subject` replaces the model and data of the configuration, `choose` its search, as `command` has it; that may keep
    more than the steps of a run do. Candidates are scored by `cluster`, if there is one.
    """
    run_dir = check_run_dir(root, config, resume=resume)
    if run_dir.finished:
        if not run_dir.report.is_file():  # it was stopped between the two
            write_report(root)
        clean_finished(run_dir)
        return parse_result(read_json(run_dir.result), where=str(run_dir.result))
    if choose is not None:
        check_bounds(config)
        check_scoring(config)
    if command != "apply" or config.adaptive.enabled:  # levels are searched in any case
        check_search(config)
    check_options(config, adapts=config.adaptive.enabled)
    if config.adaptive.enabled:
        check_earlier_levels(config)
    if cluster is not None:
        check_cluster(cluster, partial(check_importable, config))
    job = checked(config, subject=subject)
    subject = job.subject
    kind = Job(command, is_trained=subject.is_trained)
    steps, ahead = (*STEPS, *also_keeps), _stages(config, subject)
    with workspace(config, run_dir, kind, steps, cluster=cluster) as place, stages(ahead) as stage:
        if not subject.is_trained:
            stage.begin(BASELINE)
            job = replace(job, subject=replace(subject, model=_baseline(place, subject)))
        stage.begin(SETTING_UP)
        open_target = config.drop_target
        context = context_of(place, job, at=config.at_ratio(1.0))
        if config.adaptive.enabled:
            check_level_limits(context)
        stage.begin(SEARCHING)
        if open_target is not None:
            chosen, pruned = cheapest_within_drop(context, open_target)
        else:
            seed_everything(derive_seed(config.seed, "search"))
            chosen = (choose or search_choice)(context)
            stage.begin(FINE_TUNING)
            pruned = finetuned(context, chosen.policy)
        stage.begin(MEASURING)
        may_narrow = open_target is None and chosen.search.searcher != STORED_POLICY
        measured = measured_within_target(context, chosen.policy, pruned, may_narrow=may_narrow)
        result = final_result(context, chosen.search, measured)
        if config.adaptive.enabled:
            adaptive = adaptive_model(context, pruned=PrunedModel(measured.policy, measured.model))
            result = result.model_copy(update={"adaptive": adaptive.summary})
        write_json(run_dir.result, result.as_json())
        write_report(run_dir.root)
        shutil.rmtree(run_dir.state, ignore_errors=True)
    return result


def _stages(config: RunConfig, subject: Subject) -> list[str]:
    """What is ahead of a job, by name."""
    return [
        *([] if subject.is_trained else [BASELINE]),
        SETTING_UP,
        SEARCHING,
        *([FINE_TUNING] if config.drop_target is None else []),  # its trials are fine-tuned as they are found
        MEASURING,
        *(ADAPTIVE_STAGES if config.adaptive.enabled else ()),
    ]


def _baseline(place: Workspace, subject: Subject) -> nn.Module:
    return train_baseline(
        subject.model,
        subject.data,
        place.config.train,
        seed=place.config.seed,
        task=subject.task,
        compute=this_compute(own_kernels=place.config.own_kernels),
        state_path=place.run_dir.state / "baseline.pt",
        on_epoch=lambda log: place.logger.epoch("train", log),
    )

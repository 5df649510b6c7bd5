"""The whole job, from the baseline to the reports; each stage goes on where it was."""

import shutil
from pathlib import Path

from torch import nn

from autoprune.adaptive.levels.choice import check_level_limits
from autoprune.adaptive.levels.kept import check_earlier_levels
from autoprune.adaptive.steps import STAGES as ADAPTIVE_STAGES
from autoprune.adaptive.steps import PrunedModel, adaptive_model
from autoprune.compute.compute import this_compute
from autoprune.compute.machine import check_machine
from autoprune.config import RunConfig, check_bounds
from autoprune.data import normalise
from autoprune.export.onnx_file import check_parity
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.progress import say, stages
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.energy_source import find_energy_source
from autoprune.reports.run import write_report
from autoprune.results.run import RunResult, SearchFigures, parse_result
from autoprune.search.prepare import SETTING_UP, Prepared, prepare
from autoprune.steps.amounts import check_amounts
from autoprune.steps.applied import STORED_POLICY
from autoprune.steps.decision import Decide, check_scoring, check_search, search_decision
from autoprune.steps.final import compare_files, run_result
from autoprune.steps.finetune import finetuned
from autoprune.steps.max_drop import cheapest_within_drop
from autoprune.steps.narrowing import Measured, measured_within_target
from autoprune.steps.subject import Subject, load_subject
from autoprune.steps.tensorboard import RunLogger
from autoprune.store.run_dir import RunDir, check_run_dir, clean_finished, opened
from autoprune.store.trials import TrialStore
from autoprune.training.train import train_baseline

PARITY_IMAGES = 256
BASELINE, SEARCHING = "training a baseline", "search"
FINE_TUNING, MEASURING = "fine-tuning", "exporting and measuring"


def run(
    config: RunConfig,
    root: Path,
    *,
    resume: bool = False,
    subject: Subject | None = None,
    decide: Decide | None = None,
) -> RunResult:
    """Do the whole job in `root` and return the contents of `result.json`; a finished run is only read back.

    `subject` replaces the model and data of the configuration, `decide` its search.
    """
    run_dir = check_run_dir(root, config, resume=resume)
    if run_dir.finished:
        if not run_dir.report.is_file():  # it was stopped between the two
            write_report(root)
        clean_finished(run_dir)
        return parse_result(read_json(run_dir.result), where=str(run_dir.result))
    check_machine(config)
    if decide is not None:
        check_bounds(config)
        check_scoring(config)
    if decide is None or config.adaptive.enabled:  # levels are searched in any case
        check_search(config)
    if config.adaptive.enabled:
        check_earlier_levels(config)
    sensor = find_energy_source(config)
    subject = subject or load_subject(config)
    check_amounts(config, subject)
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger, stages(_stages(config, subject)) as stage:
        store = TrialStore(run_dir.trials)
        if not subject.is_trained:
            stage.begin(BASELINE)
        model = _baseline(config, subject, run_dir, logger)
        stage.begin(SETTING_UP)
        open_target = config.drop_target
        prepared = prepare(config.at_ratio(1.0), model, subject.data, store=store, sensor=sensor)
        if config.adaptive.enabled:
            check_level_limits(prepared.problem, config, store)
        stage.begin(SEARCHING)
        if open_target is not None:
            decision, pruned = cheapest_within_drop(config, open_target, subject, prepared, run_dir, store)
        else:
            seed_everything(derive_seed(config.seed, "search"))
            decision = (decide or search_decision(config, logger))(prepared, run_dir, store)
            stage.begin(FINE_TUNING)
            pruned = finetuned(config, subject, prepared, decision.policy, run_dir, store, logger)
        stage.begin(MEASURING)
        measured = measured_within_target(
            config,
            subject,
            prepared,
            decision.policy,
            pruned,
            run_dir,
            store,
            may_narrow=open_target is None and decision.search.searcher != STORED_POLICY,
        )
        result = _result(config, subject, prepared, decision.search, measured, run_dir, sensor)
        if config.adaptive.enabled:
            static = PrunedModel(measured.policy, measured.model)
            adaptive = adaptive_model(config, subject, prepared, run_dir, store, logger, pruned=static, sensor=sensor)
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


def _baseline(config: RunConfig, subject: Subject, run_dir: RunDir, logger: RunLogger) -> nn.Module:
    if subject.is_trained:
        return subject.model
    return train_baseline(
        subject.model,
        subject.data,
        config.train,
        seed=config.seed,
        task=subject.task,
        compute=this_compute(own_kernels=config.own_kernels),
        state_path=run_dir.state / "baseline.pt",
        on_epoch=lambda log: logger.epoch("train", log),
    )


def _result(
    config: RunConfig,
    subject: Subject,
    prepared: Prepared,
    search: SearchFigures,
    measured: Measured,
    run_dir: RunDir,
    sensor: Sensor | None,
) -> RunResult:
    """Check the parity of the timed file, and measure all else."""
    info, problem = subject.data.info, prepared.problem
    flushed = measured.flushed_subnormals
    if flushed:
        say(f"{flushed} weights too small for a normal float32 (subnormal) were set to zero: they slow a CPU down")
    shown = normalise(subject.data.search.images[:PARITY_IMAGES], info)
    parity = check_parity(measured.model, run_dir.model_onnx, shown)
    comparison = compare_files(
        run_dir.original_onnx,
        run_dir.model_onnx,
        costs=(problem.original_cost, problem.predict(measured.policy)),
        latencies=(measured.original, measured.pruned),
        test=subject.test,
        info=info,
        config=config.measure,
        sensor=sensor,
        task=subject.task,
    )
    return run_result(
        comparison,
        parity_max_abs=parity,
        flushed_subnormals=flushed,
        targets=config.target,
        search=search,
        info=info,
        narrowed=measured.narrowed,
    )

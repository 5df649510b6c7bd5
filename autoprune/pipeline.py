"""The whole job: baseline, search, apply, fine-tune, export, measure, report; each stage goes on where it was."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

from torch import nn

from autoprune.config import FinetuneConfig, RunConfig
from autoprune.data import normalise
from autoprune.decision import Decide, Decision, check_search, search_decision
from autoprune.distill import finetune
from autoprune.elastic import ElasticModel
from autoprune.elastic_stage import elastic_distilled
from autoprune.energy_sensors import Sensor
from autoprune.energy_source import find_energy_source
from autoprune.export import export_onnx, parity_max_abs
from autoprune.files import read_json, write_json
from autoprune.final import compare_files, run_result
from autoprune.policy import PruningPolicy
from autoprune.prepare import Prepared, prepare
from autoprune.progress import say
from autoprune.repair import WeightRepair
from autoprune.report import write_report
from autoprune.result import RunResult, parse_result
from autoprune.run_dir import RunDir, check_run_dir, opened
from autoprune.seeding import derive_seed, seed_everything
from autoprune.structure import STRUCTURE_FILE, load_pruned, save_pruned
from autoprune.subject import Subject, load_subject
from autoprune.tensorboard import RunLogger
from autoprune.train import EpochLog, train_baseline
from autoprune.trials import TrialStore

PARITY_IMAGES = 256
FINETUNE_FACT = "finetune_log"


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
        return parse_result(read_json(run_dir.result), where=str(run_dir.result))
    if decide is None:
        check_search(config)
    sensor = find_energy_source(config)
    subject = subject or load_subject(config)
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger:
        store = TrialStore(run_dir.trials)
        model = _baseline(config, subject, run_dir, logger)
        prepared = prepare(config, model, subject.data, store=store, sensor=sensor)
        prepared = elastic_distilled(prepared, config, run_dir, logger)
        seed_everything(derive_seed(config.seed, "search"))
        decision = (decide or search_decision(config, logger))(prepared, run_dir, store)
        pruned = _finetuned(config, subject, prepared, decision.policy, run_dir, store, logger)
        return _measured(config, subject, prepared, decision, pruned, run_dir, sensor)


def cutting_steps(full: PruningPolicy, final: PruningPolicy, cut_per_step: float | None) -> tuple[PruningPolicy, ...]:
    """The policies on the way to `final`: one, or steps that each take at most `cut_per_step` of what is left."""
    if cut_per_step is None:
        return (final,)
    steps = []
    left = full.as_dict()
    goal = final.as_dict()
    while left != goal:
        left = {
            name: max(goal[name], min(kept - 1, math.ceil(kept * (1 - cut_per_step)))) if kept > goal[name] else kept
            for name, kept in left.items()
        }
        steps.append(PruningPolicy.of(left))
    return tuple(steps) or (final,)


def _baseline(config: RunConfig, subject: Subject, run_dir: RunDir, logger: RunLogger) -> nn.Module:
    if subject.is_trained:
        return subject.model
    say("no checkpoint is given: training a baseline first")
    return train_baseline(
        subject.model,
        subject.data,
        config.train,
        seed=config.seed,
        state_path=run_dir.state / "baseline.pt",
        on_epoch=lambda log: logger.epoch("train", log),
    )


def _finetuned(
    config: RunConfig,
    subject: Subject,
    prepared: Prepared,
    policy: PruningPolicy,
    run_dir: RunDir,
    store: TrialStore,
    logger: RunLogger,
) -> nn.Module:
    """Cut (in one step or many), repair, recalibrate, fine-tune; the result is on disk before the next stage."""
    if (run_dir.pruned / STRUCTURE_FILE).is_file():
        return load_pruned(run_dir.pruned, architecture=prepared.elastic.cut(prepared.elastic.full_policy))
    steps = cutting_steps(prepared.elastic.full_policy, policy, config.finetune.cut_per_step)
    logs: list[EpochLog] = []
    elastic = prepared.elastic
    teacher = elastic.original
    for index, (step_policy, epochs) in enumerate(zip(steps, _shares(config.finetune.epochs, len(steps)), strict=True)):
        elastic = repaired_cut(elastic, step_policy, prepared, repairs=config.search.repair)
        if epochs == 0:
            continue
        done = len(logs)

        def on_epoch(log: EpochLog, done: int = done) -> None:
            shifted = EpochLog(done + log.epoch, log.train_loss, log.search_accuracy, log.learning_rate)
            logs.append(shifted)
            logger.epoch("finetune", shifted)

        tuned = finetune(
            elastic.original,
            subject.data,
            teacher=teacher,
            config=_with_epochs(config.finetune, epochs),
            learning_rate=config.finetune_learning_rate,
            seed=derive_seed(config.seed, f"finetune {index}"),
            description="fine-tuning" if len(steps) == 1 else f"fine-tuning {index + 1}/{len(steps)}",
            state_path=run_dir.state / f"finetune-{index}.pt",
            on_epoch=on_epoch,
        )
        elastic = elastic.with_weights_of(tuned)
    store.set_fact(FINETUNE_FACT, json.dumps([asdict(log) for log in logs]))
    save_pruned(run_dir.pruned, elastic.original, subject.spec)
    return elastic.original


def repaired_cut(elastic: ElasticModel, policy: PruningPolicy, prepared: Prepared, *, repairs: bool) -> ElasticModel:
    """The cut as candidates are made: what is left makes up for what is gone, and training starts the nearer."""
    smaller = elastic.narrow(policy)
    if repairs:
        repair = WeightRepair(elastic, prepared.evaluator.calibration)
        repair.apply(smaller.original, elastic.kept_channels(policy))
    prepared.evaluator.recalibrate(smaller.original)
    return smaller


def _measured(
    config: RunConfig,
    subject: Subject,
    prepared: Prepared,
    decision: Decision,
    pruned: nn.Module,
    run_dir: RunDir,
    sensor: Sensor | None,
) -> RunResult:
    """Export both models, check parity, measure, and write `result.json` and `report.html`."""
    info = subject.data.info
    say("exporting and measuring")
    export_onnx(prepared.elastic.original, run_dir.original_onnx, info)
    flushed = export_onnx(pruned, run_dir.model_onnx, info).flushed_subnormals
    if flushed:
        say(f"{flushed} weights too small for a normal float32 (subnormal) were set to zero: they slow a CPU down")
    shown = normalise(subject.data.search.images[:PARITY_IMAGES], info)
    parity = parity_max_abs(pruned, run_dir.model_onnx, shown)
    problem = prepared.problem
    comparison = compare_files(
        run_dir.original_onnx,
        run_dir.model_onnx,
        costs=(problem.original_cost, problem.predict(decision.policy)),
        test=subject.test,
        info=info,
        config=config.measure,
        sensor=sensor,
    )
    result = run_result(
        comparison,
        parity_max_abs=parity,
        flushed_subnormals=flushed,
        targets=config.target,
        search=decision.search,
        info=info,
    )
    write_json(run_dir.result, result.as_json())
    write_report(run_dir.root)
    shutil.rmtree(run_dir.state, ignore_errors=True)
    return result


def _shares(total: int, parts: int) -> list[int]:
    """`total` epochs over `parts` steps, as even as can be, the last steps getting what is left over."""
    return [total // parts + (index >= parts - total % parts) for index in range(parts)]


def _with_epochs(config: FinetuneConfig, epochs: int) -> FinetuneConfig:
    return config.model_copy(update={"epochs": epochs})

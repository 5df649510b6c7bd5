"""`autoprune adapt`: an input-adaptive model of its own, without a pruned one beside it."""

import shutil
from pathlib import Path

from autoprune.adaptive.figures.schema import AdaptiveResult
from autoprune.adaptive.levels.kept import check_earlier_levels
from autoprune.adaptive.report.page import read_adaptive, write_adaptive_report
from autoprune.adaptive.steps import STAGES, adaptive_model
from autoprune.compute.machine import check_machine
from autoprune.config import CLASSIFICATION, ROUTES_BY_CLASS, RunConfig, TargetConfig
from autoprune.foundation.errors import ConfigError, InputError
from autoprune.foundation.progress import stages
from autoprune.measure.energy_source import find_energy_source
from autoprune.search.prepare import SETTING_UP, prepare
from autoprune.steps.amounts import check_amounts
from autoprune.steps.decision import check_search
from autoprune.steps.subject import load_subject
from autoprune.steps.tensorboard import RunLogger
from autoprune.store.run_dir import check_run_dir, clean_finished, opened
from autoprune.store.trials import TrialStore


def adapt(config: RunConfig, root: Path, *, resume: bool = False) -> AdaptiveResult:
    """Make and measure an input-adaptive model in `root`; a finished one is only read back.

    Raises `InputError` for an untrained model, `TargetError` for a level below the floor, before any long work.
    """
    run_dir = check_run_dir(root, config, resume=resume)
    if run_dir.adaptive.is_file():
        result = read_adaptive(run_dir)
        if not run_dir.adaptive_report.is_file():  # it was stopped between the two
            write_adaptive_report(run_dir)
        clean_finished(run_dir)
        return result
    if config.task != CLASSIFICATION:
        raise ConfigError(f"task={config.task}: {ROUTES_BY_CLASS}")
    check_machine(config)
    check_search(config)
    check_earlier_levels(config)
    sensor = find_energy_source(config)
    subject = load_subject(config)
    if not subject.is_trained:
        raise InputError("model.checkpoint: levels are taught by a trained model; make one with `autoprune train`")
    check_amounts(config, subject)
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger, stages([SETTING_UP, *STAGES]) as stage:
        stage.begin(SETTING_UP)
        store = TrialStore(run_dir.trials)
        smallest = TargetConfig(metric="latency", max_ratio=min(config.adaptive.max_ratios))
        at_smallest = config.model_copy(update={"target": (smallest,)})  # what is below the floor is refused at once
        prepared = prepare(at_smallest, subject.model, subject.data, store=store, sensor=sensor)
        result = adaptive_model(config, subject, prepared, run_dir, store, logger, sensor=sensor)
        shutil.rmtree(run_dir.state, ignore_errors=True)
    return result

"""`autoprune adapt`: an input-adaptive model of its own, without a pruned one beside it."""

import shutil
from pathlib import Path

from autoprune.adaptive.figures.schema import AdaptiveResult
from autoprune.adaptive.levels.choice import LEVELS, MIXTURES
from autoprune.adaptive.levels.kept import check_earlier_levels
from autoprune.adaptive.report.page import read_adaptive, write_adaptive_report
from autoprune.adaptive.steps import STAGES, adaptive_model
from autoprune.config import CLASSIFICATION_NAME, ROUTES_BY_CLASS, RunConfig, TargetConfig, check_options
from autoprune.config.unused import Job
from autoprune.errors import ConfigError
from autoprune.foundation.progress import stages
from autoprune.search.prepare import PREPARED, SETTING_UP
from autoprune.steps.choice import check_search
from autoprune.steps.context import checked, context_of, workspace
from autoprune.store.run_dir import check_run_dir, clean_finished


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
    if config.task != CLASSIFICATION_NAME:
        raise ConfigError(f"task={config.task}: {ROUTES_BY_CLASS}")
    check_options(config, adapts=True)
    check_search(config)
    check_earlier_levels(config)
    job = checked(config, needs_weights="levels are taught by a trained model")
    steps = (*PREPARED, LEVELS, MIXTURES)
    with workspace(config, run_dir, Job("adapt"), steps) as place, stages([SETTING_UP, *STAGES]) as stage:
        stage.begin(SETTING_UP)
        smallest = TargetConfig(metric="latency", max_ratio=min(config.adaptive.max_ratios))
        at_smallest = config.model_copy(update={"target": (smallest,)})  # what is below the floor is refused at once
        result = adaptive_model(context_of(place, job, at=at_smallest))
        shutil.rmtree(run_dir.state, ignore_errors=True)
    return result

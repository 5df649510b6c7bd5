"""Levels on disk: a run keeps those that it trained, and another starts from them without a search or a training."""

from torch import nn

from autoprune.adaptive.levels.choice import ChosenLevels
from autoprune.adaptive.report.page import read_adaptive
from autoprune.config import RunConfig, check_adaptive_runtime
from autoprune.config.file import load_config
from autoprune.errors import ConfigError
from autoprune.foundation.paths import user_path
from autoprune.pruning.structure import STRUCTURE_FILE, load_pruned, save_pruned
from autoprune.search.prepare import Prepared
from autoprune.space.policy import PruningPolicy, check_nested
from autoprune.steps.subject import Subject
from autoprune.store.run_dir import RunDir


def keep_levels(run_dir: RunDir, levels: ChosenLevels, subject: Subject, *, original: nn.Module) -> None:
    """Write each level as a pruned model of its own, but for the original."""
    for place, model in enumerate(levels.models):
        if model is not original:
            save_pruned(run_dir.level(place), model, subject.spec)


def check_earlier_levels(config: RunConfig) -> None:
    """Raises `ConfigError` if the run to take levels from holds none, or its model or data are others; or for a
    runtime that cannot run an input-adaptive file."""
    check_adaptive_runtime(config)
    start = config.adaptive.levels_from
    if start is None:
        return
    earlier = RunDir(user_path(start, field="adaptive.levels_from"))
    if not earlier.adaptive.is_file() or not (earlier.level(0) / STRUCTURE_FILE).is_file():
        raise ConfigError(
            f"adaptive.levels_from: {start}: no finished run with levels (adaptive.json or levels/0 is missing)"
        )
    theirs = load_config(earlier.config)
    for section in ("model", "data"):
        if getattr(theirs, section) != getattr(config, section):
            raise ConfigError(f"adaptive.levels_from: {start}: the run there has another {section}; choose its own")


def earlier_levels(start: str, prepared: Prepared) -> ChosenLevels:
    """The levels of the run in `start`. `ConfigError` if they are no cuts of this model."""
    earlier, elastic = RunDir(user_path(start, field="adaptive.levels_from")), prepared.elastic
    found = read_adaptive(earlier).levels
    policies = tuple(PruningPolicy.of(level.channels) for level in found)
    if any(policy.as_dict().keys() != elastic.full_policy.as_dict().keys() for policy in policies):
        raise ConfigError(f"adaptive.levels_from: {start}: holds no levels of a model with these groups")
    check_nested(policies)
    models = tuple(
        elastic.original
        if level.is_original
        else load_pruned(earlier.level(place), architecture=elastic.cut(elastic.full_policy))
        for place, level in enumerate(found)
    )
    return ChosenLevels(policies, models, sharing=sum(not (level.is_original or level.is_pruned) for level in found))

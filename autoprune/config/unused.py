"""Keys that have no effect beside others: a run goes on, but says so before the work.

What can only be a slip is refused where a section is read. Here is what a file or an override may well hold: settings
of a part that another key, or the command, leaves out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from autoprune.config.run import RunConfig
from autoprune.config.section import Section
from autoprune.foundation.progress import say


@dataclass(frozen=True)
class Job:
    """What a configuration is used for, and what comes as an argument in place of what is configured."""

    command: Literal["run", "compress", "apply", "adapt", "search", "compare"]
    has_model_object: bool = False
    has_data_object: bool = False
    has_checkpoint: bool = False

    @property
    def prunes(self) -> bool:
        """Whether a pruned model comes out."""
        return self.command in ("run", "compress", "apply")


@dataclass(frozen=True)
class Rule:
    keys: str  # separated by spaces; a section stands for all in it
    holds: Callable[[RunConfig, Job], bool]
    because: str


def _is_trained(config: RunConfig, job: Job) -> bool:
    is_configured = config.model.checkpoint is not None and job.command != "compress"
    return job.has_model_object or job.has_checkpoint or is_configured


def _tunes_nothing(config: RunConfig, job: Job) -> bool:
    return job.prunes and config.finetune.epochs == 0 and not config.adaptive.enabled


RULES = (
    Rule(
        "model data train target finetune adaptive measure search.importance search.score_images search.racing "
        "search.calibration_images search.repair search.trials_from search.start_share search.min_keep "
        "search.drop_branches search.max_rungs search.verify_top search.finalists search.finalist_epochs "
        "search.max_drop_trials",
        lambda config, job: config.problem == "toy",
        "problem is toy, which has neither model nor data, and a target of its own",
    ),
    Rule(
        "model.name model.checkpoint data.name",
        lambda config, job: job.command == "compress",
        "autoprune.compress takes it as an argument",
    ),
    Rule("model", lambda config, job: job.has_model_object, "the model comes as an object"),
    Rule(
        "data.search_images data.split_seed data.image_size data.max_train_images data.max_test_images",
        lambda config, job: job.has_data_object,
        "the data comes as an object",
    ),
    Rule(
        "train.epochs train.batch_size train.weight_decay train.label_smoothing train.ema_decay train.augment",
        _is_trained,
        "the model is trained, so no baseline is",
    ),
    Rule(
        "train.learning_rate",
        lambda config, job: _is_trained(config, job) and config.finetune.learning_rate is not None,
        "the model is trained, and finetune.learning_rate is given",
    ),
    Rule(
        "search.start_share",
        lambda config, job: job.command == "search" and config.search.trials_from is None,
        "a search without search.trials_from starts from nothing",
    ),
    Rule(
        "search.finalist_epochs",
        lambda config, job: job.prunes and config.search.finalists == 1,
        "search.finalists is 1, and there is nothing to choose",
    ),
    Rule("search.max_drop_trials", lambda config, job: config.drop_target is None, "no target has a max_drop"),
    Rule(
        "finetune.max_minutes finetune.batch_size finetune.learning_rate finetune.pruned_lr_factor finetune.muon_step "
        "finetune.weight_decay finetune.temperature finetune.distill_weight finetune.feature_weight "
        "finetune.ema_decay search.finalist_epochs",
        _tunes_nothing,
        "finetune.epochs is 0",
    ),
    Rule(
        "finetune.augment",
        lambda config, job: _tunes_nothing(config, job) and config.drop_target is None,
        "finetune.epochs is 0",
    ),
    Rule(
        "finetune.temperature",
        lambda config, job: config.finetune.distill_weight == 0,
        "finetune.distill_weight is 0, so no answers are compared",
    ),
    Rule("adaptive", lambda config, job: job.prunes and not config.adaptive.enabled, "adaptive.enabled is false"),
    Rule(
        "target search.verify_top search.finalists search.finalist_epochs finetune.pruned_lr_factor "
        "finetune.feature_weight finetune.cut_per_step measure.rounds measure.runs_per_round",
        lambda config, job: job.command == "adapt",
        "autoprune adapt makes levels at adaptive.max_ratios, and no pruned model beside them",
    ),
    Rule(
        "adaptive.max_ratios adaptive.max_levels adaptive.epochs adaptive.trial_epochs",
        lambda config, job: config.adaptive.levels_from is not None,
        "the levels are those of adaptive.levels_from",
    ),
    Rule(
        "adaptive.trial_epochs",
        lambda config, job: sum(ratio < 1 for ratio in config.adaptive.max_ratios) == 1,
        "adaptive.max_ratios has but one level to train, so none is chosen on trial",
    ),
    Rule(
        "measure.allow_estimated_energy",
        lambda config, job: not config.uses_energy,
        "neither a target nor the reward is on energy",
    ),
)


def say_unused(config: RunConfig, job: Job) -> None:
    """A line for each reason why keys that are set have no effect."""
    for keys, because in unused(config, job):
        say(f"{', '.join(keys)}: without effect here, because {because}")


def unused(config: RunConfig, job: Job) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys without effect and the reason, each key once; a key is set if it is not what the preset says."""
    told: set[str] = set()
    values = set_keys(config, RunConfig(preset=config.preset))
    for rule in RULES:
        if not rule.holds(config, job):
            continue
        ours = tuple(rule.keys.split())
        keys = tuple(key for key in values if key not in told and f"{key}.".startswith(tuple(f"{k}." for k in ours)))
        told.update(keys)
        if keys:
            yield keys, rule.because


def set_keys(config: Section, default: Section, name: str = "") -> list[str]:
    """The dotted keys whose values are not the default's."""
    found: list[str] = []
    for key in type(config).model_fields:
        ours, theirs = getattr(config, key), getattr(default, key)
        dotted = f"{name}.{key}" if name else key
        if isinstance(ours, Section):
            found += set_keys(ours, theirs, dotted)
        elif ours != theirs:
            found.append(dotted)
    return found

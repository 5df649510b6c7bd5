"""Keys that have no effect beside others: a run goes on, but says so before the work.

What can only be a slip is refused where a section is read. Here is what a file or an override may well hold: settings
of a part that another key, or the command, leaves out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.config.layout import keys_of
from autoprune.config.nni import AGENT_TUNER
from autoprune.config.run import RunConfig
from autoprune.foundation.progress import say

MOST_TOLD = 3  # keys of one section
Command = Literal["run", "apply", "adapt", "search", "compare", "nni"]


@dataclass(frozen=True)
class Job:
    """What a configuration is used for."""

    command: Command
    is_trained: bool = True  # the model, before the job
    on_ray: bool = False  # candidates are scored there

    @property
    def is_whole(self) -> bool:
        """Whether it ends in a pruned model that is measured."""
        return self.command in ("run", "apply", "nni")


@dataclass(frozen=True)
class Rule:
    keys: str  # separated by spaces; a section stands for all in it
    holds: Callable[[RunConfig, Job], bool]
    because: str


def _tunes_nothing(config: RunConfig, job: Job) -> bool:
    return job.is_whole and config.finetune.epochs == 0 and not config.adaptive.enabled


RULES = (
    Rule(
        "model data train target finetune adaptive measure search.importance search.score_images search.racing "
        "search.calibration_images search.repair search.trials_from search.start_share search.min_keep "
        "search.drop_branches search.max_rungs search.verify_top search.finalists search.finalist_epochs "
        "search.max_drop_trials search.options own_kernels",
        lambda config, job: config.problem == "toy",
        "problem is toy, which has neither model nor data, and a target of its own",
    ),
    Rule(
        "train.epochs train.batch_size train.weight_decay train.label_smoothing train.ema_decay train.augment",
        lambda config, job: job.is_trained,
        "the model is trained, and no baseline is made",
    ),
    Rule(
        "train.learning_rate",
        lambda config, job: job.is_trained and config.finetune.learning_rate is not None,
        "the model is trained, and finetune.learning_rate is given",
    ),
    Rule(
        "search.start_share",
        lambda config, job: job.command == "search" and config.search.trials_from is None,
        "a search without search.trials_from starts from nothing",
    ),
    Rule(
        "search.finalist_epochs",
        lambda config, job: job.is_whole and config.search.finalists == 1,
        "search.finalists is 1, and there is nothing to choose",
    ),
    Rule(
        "search.agent search.settings search.max_evaluations search.racing search.start_share search.finalists "
        "search.finalist_epochs search.study search.study_name",
        lambda config, job: job.command == "apply" and not config.adaptive.enabled,
        "autoprune apply does not search: it is given an agent or a policy, and fine-tunes one cut",
    ),
    Rule(
        "train finetune adaptive search.verify_top search.finalists search.finalist_epochs measure.rounds "
        "measure.runs_per_round",
        lambda config, job: job.command == "search",
        "autoprune search leaves the best policy as it is: it neither times files nor fine-tunes",
    ),
    Rule(
        "seed adaptive search.agent search.start_share search.verify_top search.finalists search.finalist_epochs "
        "finetune.cut_per_step",
        lambda config, job: job.command == "compare",
        "autoprune compare takes --searchers and --seeds, and each winner as its search found it",
    ),
    Rule("nni", lambda config, job: job.command != "nni", "`autoprune nni` alone starts experiments of NNI"),
    Rule(
        "nni.settings nni.assessor_settings",
        lambda config, job: job.command == "nni" and config.nni.tuner == AGENT_TUNER,
        "nni.tuner is agent, whose settings are search.settings",
    ),
    Rule(
        "nni.assessor_settings",
        lambda config, job: job.command == "nni" and config.nni.assessor is None,
        "nni.assessor is not given",
    ),
    Rule(
        "nni.machines",
        lambda config, job: job.command == "nni" and config.nni.platform == "local",
        "nni.platform is local",
    ),
    Rule(
        "search.racing",
        lambda config, job: job.command == "nni" and config.nni.tuner != AGENT_TUNER,
        "NNI's tuners want whole scores; nni.assessor ends trials early",
    ),
    Rule(
        "search.study search.study_name",
        lambda config, job: job.command == "compare",
        "autoprune compare keeps its searches apart",
    ),
    Rule("search.study_name", lambda config, job: config.search.study is None, "search.study is not given"),
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
    Rule(
        "adaptive",
        lambda config, job: job.is_whole and not config.adaptive.enabled,
        "adaptive.enabled is false",
    ),
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
        "workers",
        lambda config, job: not job.on_ray,
        "candidates are scored by processes of this machine; --executor ray is not given",
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
        say_no_effect(in_few_words(keys), because)


def in_few_words(keys: Sequence[str]) -> list[str]:
    """Many keys of one section are told as that."""
    sections = Counter(key.partition(".")[0] for key in keys)
    few = [key for key in keys if sections[key.partition(".")[0]] <= MOST_TOLD]
    return [*few, *(f"{name} ({count} keys)" for name, count in sections.items() if count > MOST_TOLD)]


def say_no_effect(keys: Sequence[str], because: str) -> None:
    say(f"{', '.join(keys)}: without effect here, because {because}")


def unused(config: RunConfig, job: Job) -> Iterator[tuple[Sequence[str], str]]:
    """The keys that are set and without effect, each once, and the reason."""
    told: set[str] = set()
    for rule in RULES:
        if rule.holds(config, job) and (keys := [key for key in set_among(config, rule.keys) if key not in told]):
            told.update(keys)
            yield keys, rule.because


def set_among(config: RunConfig, keys: str) -> list[str]:
    """Those of `keys`, written as in a `Rule`, whose values are not what the preset says."""
    ours = tuple(f"{key}." for key in keys.split())
    usual = dict(keys_of(RunConfig(preset=config.preset).model_dump()))
    set_keys = (".".join(path) for path, value in keys_of(config.model_dump()) if value != usual[path])
    return [key for key in set_keys if f"{key}.".startswith(ours)]

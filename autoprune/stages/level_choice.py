"""The levels of an input-adaptive model: searched one below the other, trained together, the best mixture kept.

The level at the original's full latency is the original as it is: what no smaller level can answer then loses nothing,
and only the smaller ones are trained.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import nn

from autoprune.adaptive.levels import Levels, train_levels
from autoprune.adaptive.mixture import LEAST_LEVELS, Mixture, mixtures
from autoprune.adaptive.routing import LevelAnswers, joined
from autoprune.adaptive.shared_weights import Cuts
from autoprune.config import RunConfig, TargetConfig
from autoprune.data import Augmentation, ImageSplit, normalise, views
from autoprune.errors import TargetError
from autoprune.policies.heuristics import nested
from autoprune.policy import AdaptivePolicy, PruningPolicy, check_nested
from autoprune.prepare import Prepared, search_limits
from autoprune.progress import bar, say
from autoprune.run_dir import RunDir
from autoprune.search.problem import Limit, SearchProblem
from autoprune.search.trials import TrialStore
from autoprune.seeding import derive_seed, seed_everything
from autoprune.stages.decision import searched
from autoprune.stages.tensorboard import RunLogger
from autoprune.training.scores import logits_of

LEVELS_FACT, MIXTURES_FACT = "levels", "mixtures"
RECALIBRATION_IMAGES = 2048


@dataclass(frozen=True)
class Candidates:
    """Levels to choose from, and under which of `adaptive.max_ratios` each was found."""

    policy: AdaptivePolicy
    max_ratios: tuple[float, ...]

    @classmethod
    def of(cls, max_ratios: Sequence[float], found: Sequence[PruningPolicy]) -> "Candidates":
        """The policies found under ascending ratios; one that two ratios found is one level, the smaller ratio's.

        Raises `TargetError` if only one is left.
        """
        distinct = [place for place, policy in enumerate(found) if place == 0 or policy != found[place - 1]]
        if len(distinct) < LEAST_LEVELS:
            asked = ", ".join(f"{ratio:g}" for ratio in max_ratios)
            raise TargetError(
                f"adaptive.max_ratios: the searches under {asked} of the latency "
                "found one and the same policy; ask for shares further apart, or for 1.0 too, which is the original"
            )
        return cls(AdaptivePolicy(tuple(found[place] for place in distinct)), tuple(max_ratios[p] for p in distinct))


@dataclass(frozen=True)
class LevelModels:
    """The levels as models of their own, in evaluation mode, the smallest first."""

    models: tuple[nn.Module, ...]
    cuts: tuple[Cuts, ...]  # of the first ones, which share weights: what each keeps of the last of these


def check_level_limits(problem: SearchProblem, config: RunConfig, store: TrialStore) -> None:
    """Raises `TargetError` if the smallest level of `adaptive.max_ratios` is below the floor."""
    limits = _limits(problem, min(config.adaptive.max_ratios))
    problem.within(limits, store=store, known=())


def candidate_levels(config: RunConfig, prepared: Prepared, store: TrialStore, logger: RunLogger) -> Candidates:
    """A policy under each of `adaptive.max_ratios`, searched from the largest on, each within the one above it.

    Agents of these searches are not kept: `agent/` is that of the run's own target. Raises `TargetError` if all of them
    find the same policy.
    """
    ratios = config.adaptive.max_ratios
    problem = prepared.problem
    done = store.parsed_fact(LEVELS_FACT, lambda text: _stored_levels(text, problem, len(ratios)))
    if done is not None:
        return Candidates.of(ratios, done)
    found: list[PruningPolicy] = []
    for number, ratio in sorted(enumerate(ratios), reverse=True):
        if ratio == 1.0:
            found.insert(0, problem.full_policy)
            continue
        seed_everything(derive_seed(config.seed, f"level {number}"))
        part = problem.within(
            _limits(problem, ratio), store=store.part(f"level {number}"), known=tuple(found[:1]) or problem.known
        )
        best = searched(part, config, logger, max_evaluations=config.search.evaluations).best.policy
        found.insert(0, nested(part, best, found[0]) if found else best)
    store.set_fact(LEVELS_FACT, json.dumps([level.as_dict() for level in found]))
    return Candidates.of(ratios, found)


def best_mixture(
    config: RunConfig,
    candidates: Candidates,
    prepared: Prepared,
    run_dir: RunDir,
    store: TrialStore,
    logger: RunLogger,
) -> tuple[AdaptivePolicy, tuple[Mixture, ...]]:
    """Those of `candidates` that work best together once all of them are trained for a moment, and all that were tried.

    Two candidates are both taken: there is nothing to choose, and nothing is tried.
    """
    policy = candidates.policy
    if len(policy.levels) == LEAST_LEVELS:
        return policy, ()
    stored = store.parsed_fact(MIXTURES_FACT, lambda text: _stored_mixtures(text, len(policy.levels)))
    if stored is None:
        settings = config.adaptive
        levels = trained_levels(
            config, policy, prepared, run_dir, logger, epochs=settings.trial_epochs, name="trial of levels"
        )
        latencies = [prepared.problem.predict(level).predicted_latency_ms for level in policy.levels]
        tried = mixtures(
            answers_to(prepared.data.search, levels.models, prepared, latencies),
            most_levels=settings.max_levels,
            max_drop=settings.max_drop,
        )
        store.set_fact(MIXTURES_FACT, json.dumps([asdict(mixture) for mixture in tried]))
    else:
        tried = stored
    shares = ", ".join(f"{candidates.max_ratios[place]:g}" for place in tried[0].levels)
    say(f"the best mixture of {len(tried)}: levels at {shares} of the original's latency")
    return AdaptivePolicy(tuple(policy.levels[place] for place in tried[0].levels)), tried


def trained_levels(
    config: RunConfig,
    policy: AdaptivePolicy,
    prepared: Prepared,
    run_dir: RunDir,
    logger: RunLogger,
    *,
    epochs: int,
    name: str,
) -> LevelModels:
    """Levels trained together as `finetune` says but for its epochs, taught by the original, which stays as it is where
    it is the largest level; a stopped training goes on."""
    original = (prepared.elastic.original,) if policy.levels[-1] == prepared.problem.full_policy else ()
    levels = Levels(prepared.elastic, policy.levels[: len(policy.levels) - len(original)])
    step = max(1, len(prepared.data.train) // RECALIBRATION_IMAGES)
    shown = prepared.data.train.images[::step][:RECALIBRATION_IMAGES]
    levels.recalibrate(normalise(shown, prepared.data.info))
    trained = train_levels(
        levels,
        prepared.data,
        teacher=prepared.teacher,
        config=config.finetune.for_epochs(epochs),
        learning_rate=config.finetune_learning_rate,
        seed=derive_seed(config.seed, name),
        description=name,
        state_path=run_dir.state / f"{name.replace(' ', '-')}.pt",
        on_epoch=lambda log: logger.epoch(name, log),
    )
    return LevelModels((*(trained.extracted(level) for level in range(len(trained))), *original), trained.layer_cuts)


def answers_to(
    split: ImageSplit, models: Sequence[nn.Module], prepared: Prepared, latency_ms: Sequence[float]
) -> LevelAnswers:
    """What levels and the original answer to images without augmentation; `latency_ms` is each level's, for one."""
    original = prepared.elastic.original
    answered = {model: logits_of(model, split, prepared.data.info).softmax(1).numpy() for model in {*models, original}}
    levels = np.stack([answered[model] for model in models])
    return LevelAnswers(levels, split.labels.numpy(), tuple(latency_ms), teacher=answered[original])


def answers_to_views(
    split: ImageSplit,
    augmentation: Augmentation,
    models: Sequence[nn.Module],
    prepared: Prepared,
    latency_ms: Sequence[float],
) -> LevelAnswers:
    """What they answer to all views of the images, one view after the other.

    Levels differ in one image of thirty: among 5,000 images a tenth of a point is five of them. Ten views of each tell
    what a threshold loses with 0.6 of the standard error (ResNet-20, Fashion-MNIST: 0.036 points instead of 0.063).
    """
    shown = views(split.images, augmentation)
    with bar("answers", augmentation.views) as progress:
        parts = []
        for images in shown:
            parts.append(answers_to(ImageSplit(images, split.labels), models, prepared, latency_ms))
            progress.advance(1)
    return joined(parts)


def _limits(problem: SearchProblem, max_ratio: float) -> tuple[Limit, ...]:
    target = TargetConfig(metric="latency", max_ratio=max_ratio)
    return search_limits((target,), problem.original_cost, floor=problem.predict(problem.floor_policy))


def _stored_levels(text: str, problem: SearchProblem, count: int) -> list[PruningPolicy]:
    """Raises `ValueError` unless they are `count` levels of the model, none wider than it or than the next one."""
    found = [PruningPolicy.of(channels) for channels in json.loads(text)]
    full = problem.full_policy.as_dict()
    if len(found) != count or any(level.as_dict().keys() != full.keys() for level in found):
        raise ValueError(f"{len(found)} levels, not {count} of this model's groups")
    for smaller, larger in itertools.pairwise([*found, problem.full_policy]):
        if smaller != larger:  # two ratios may have found the same
            check_nested([smaller, larger])
    return found


def _stored_mixtures(text: str, levels: int) -> tuple[Mixture, ...]:
    """Raises `ValueError` for one that is none of `levels` levels in ascending order."""
    found = tuple(Mixture(**{**raw, "levels": tuple(raw["levels"])}) for raw in json.loads(text))
    for mixture in found:
        places = mixture.levels
        if len(places) < LEAST_LEVELS or list(places) != sorted(set(places)) or places[-1] >= levels:
            raise ValueError(f"a mixture of {places}, of {levels} levels")
    return found

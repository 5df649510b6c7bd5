"""The levels of an input-adaptive model: searched one below the other, trained together, the best mixture kept.

The level at the original's full latency is the original as it is: what no smaller level can answer then loses nothing.
A run's pruned model is a level too, as it is, where all others are cuts of it. Only the smaller ones are trained.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import nn

from autoprune.adaptive.levels.training import Levels, train_levels
from autoprune.adaptive.routing.mixture import LEAST_LEVELS, Mixture, mixtures
from autoprune.adaptive.routing.routing import LevelAnswers, joined
from autoprune.adaptive.routing.trust import fitted_trust
from autoprune.config import AugmentConfig, TargetConfig
from autoprune.data import ImageSplit, normalise, views
from autoprune.errors import TargetError
from autoprune.foundation.progress import bar, begin, say
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.policies.heuristics import nested
from autoprune.search.prepare import Prepared, search_limits
from autoprune.search.problem import Limit, SearchProblem
from autoprune.space.policy import PruningPolicy, check_nested, is_nested
from autoprune.steps.choice import searched
from autoprune.steps.context import Context
from autoprune.steps.finetune import repaired_cut
from autoprune.store.kept import Kept, KeptPolicy
from autoprune.training.onnx_answers import OnnxAnswers
from autoprune.training.scores import EVALUATION_BATCH

LEVELS = Kept("levels", TypeAdapter(Annotated[tuple[KeptPolicy, ...], Field(min_length=1)]))
MIXTURES = Kept("mixtures", TypeAdapter(Annotated[tuple[Mixture, ...], Field(min_length=1)]))
SEARCHING_LEVELS, TRAINING_LEVELS = "searching levels", "training levels"
RECALIBRATION_IMAGES = 2048


@dataclass(frozen=True)
class PrunedModel:
    """A run's static model, fine-tuned already: measured beside the levels, and one of them where it fits."""

    policy: PruningPolicy
    model: nn.Module


@dataclass(frozen=True)
class Candidates:
    """Levels to choose from, the smallest first, and under which of `adaptive.max_ratios` each was found."""

    policies: tuple[PruningPolicy, ...]
    max_ratios: tuple[float, ...]
    ready: Mapping[PruningPolicy, nn.Module]  # the largest ones, which are trained already

    @classmethod
    def of(
        cls, max_ratios: Sequence[float], found: Sequence[PruningPolicy], ready: Mapping[PruningPolicy, nn.Module]
    ) -> "Candidates":
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
        return cls(tuple(found[place] for place in distinct), tuple(max_ratios[place] for place in distinct), ready)


@dataclass(frozen=True)
class ChosenLevels:
    """The levels of an adaptive model, the smallest first, and what they were chosen from."""

    policies: tuple[PruningPolicy, ...]
    models: tuple[nn.Module, ...]  # in evaluation mode
    sharing: int  # so many of the first ones were trained together and share their weights
    candidate_ratios: tuple[float, ...] = ()  # of `adaptive.max_ratios`: those that `tried` chose from
    tried: tuple[Mixture, ...] = ()


def check_level_limits(context: Context) -> None:
    """Raises `TargetError` if the smallest level of `adaptive.max_ratios` is below the floor."""
    problem = context.prepared.problem
    problem.within(_limits(problem, min(context.config.adaptive.max_ratios)), store=context.store, known=())


def chosen_levels(context: Context, pruned: PrunedModel | None) -> ChosenLevels:
    """Searched, trained, and the best mixture of them kept; one that was stopped goes on."""
    begin(SEARCHING_LEVELS)
    candidates = candidate_levels(context, pruned)
    begin(TRAINING_LEVELS)
    tried = mixtures_tried(context, candidates)
    places = tried[0].levels if tried else range(len(candidates.policies))
    policies = tuple(candidates.policies[place] for place in places)
    epochs = context.config.adaptive.epochs or context.config.finetune.epochs
    models = trained_levels(context, policies, candidates.ready, epochs=epochs, name="levels")
    if not tried and len(policies) > LEAST_LEVELS:  # there was but one to train, and now they can be chosen
        tried = mixtures_of(context, candidates, models)
        policies = tuple(policies[place] for place in tried[0].levels)
        models = tuple(models[place] for place in tried[0].levels)
    sharing = sum(policy not in candidates.ready for policy in policies)
    return ChosenLevels(policies, models, sharing, candidates.max_ratios, tried)


def candidate_levels(context: Context, pruned: PrunedModel | None = None) -> Candidates:
    """A policy under each of `adaptive.max_ratios`, searched from the largest on, each within the one above it.

    `pruned` is one more of them if all smaller ones are cuts of it. Where there is a policy above that did well, a
    search starts from it, and takes fewer evaluations.

    Agents of these searches are not kept: `agent/` is that of the run's own target. Raises `TargetError` if all of them
    find the same policy.
    """
    config, prepared, store = context.config, context.prepared, context.store
    ratios = config.adaptive.max_ratios
    problem, full = prepared.problem, prepared.elastic.full_policy
    above = pruned.policy if pruned is not None and _may_be_a_level(problem, pruned.policy, ratios) else None
    known = tuple(problem.pruning_of(policy) for policy in problem.known)
    stored = store.kept(LEVELS, lambda levels: _check_levels(levels, problem, len(ratios)))
    found = [] if stored is None else list(stored)
    if not found:
        for number, ratio in sorted(enumerate(ratios), reverse=True):
            if ratio == 1.0:
                found.insert(0, full)
                continue
            within = found[0] if found and found[0] != full else above
            seed_everything(derive_seed(config.seed, f"level {number}"))
            part = problem.within(
                _limits(problem, ratio),
                store=store.part(f"level {number}"),
                known=(within,) if within is not None else tuple(found[:1]) or known,
            )
            evaluations = config.search.evaluations if within is None else config.search.evaluations_from_known
            best = searched(part, context, max_evaluations=evaluations).best.pruning
            within = within or (found[0] if found else None)
            found.insert(0, best if within is None else _nested(part, best, within))
        store.keep(LEVELS, tuple(found))
    ready = {full: prepared.elastic.original}
    place = sum(ratio < 1.0 for ratio in ratios)
    if pruned is None or above is None or (place and not is_nested(found[place - 1], above)):
        return Candidates.of(ratios, found, ready)
    return Candidates.of(
        (*ratios[:place], _share(problem, above), *ratios[place:]),
        (*found[:place], above, *found[place:]),
        ready | {above: pruned.model},
    )


def mixtures_tried(context: Context, candidates: Candidates) -> tuple[Mixture, ...]:
    """The mixtures of `candidates`, the best first, once all are trained for a moment; none, and nothing is trained,
    where at most one of them is to be trained anyway, or there are but two."""
    policies = candidates.policies
    if len(policies) == LEAST_LEVELS or sum(policy not in candidates.ready for policy in policies) < 2:
        return ()

    def tried() -> tuple[Mixture, ...]:
        epochs = context.config.adaptive.trial_epochs
        models = trained_levels(context, policies, candidates.ready, epochs=epochs, name="trial of levels")
        return mixtures_of(context, candidates, models)

    return context.store.once(MIXTURES, tried, lambda kept: _check_mixtures(kept, len(policies)))


def mixtures_of(context: Context, candidates: Candidates, models: Sequence[nn.Module]) -> tuple[Mixture, ...]:
    """All mixtures of levels, the best first, as their models answer to the search split."""
    config, prepared = context.config, context.prepared
    latencies = [prepared.problem.cost_of(policy).predicted_latency_ms for policy in candidates.policies]
    answers = Answering(models, prepared).to(prepared.data.search, latencies)
    tried = mixtures(
        replace(answers, trust=fitted_trust(answers)),
        most_levels=config.adaptive.max_levels,
        max_drop=config.adaptive.max_drop,
    )
    shares = ", ".join(f"{candidates.max_ratios[place]:.3g}" for place in tried[0].levels)
    say(f"the best mixture of {len(tried)}: levels at {shares} of the original's latency")
    return tried


def trained_levels(
    context: Context,
    policies: Sequence[PruningPolicy],
    ready: Mapping[PruningPolicy, nn.Module],
    *,
    epochs: int,
    name: str,
) -> tuple[nn.Module, ...]:
    """Models of the levels, which are trained together as `finetune` says but for its epochs, taught by the original;
    those that are `ready`, the largest ones, stay as they are, and the smallest of them is what the others are cut
    from: it has learnt to do with less already. A stopped training goes on."""
    config, prepared = context.config, context.prepared
    wanted = [policy for policy in policies if policy not in ready]
    finished = tuple(ready[policy] for policy in policies if policy in ready)
    assert [*policies[: len(wanted)]] == wanted, "a level that is trained is larger than one that is not"
    if not wanted:
        return finished
    nearest = min(ready, key=lambda policy: sum(kept for _, kept in policy.channels))
    above = prepared.elastic.narrow(nearest).with_weights_of(ready[nearest])
    levels = Levels(repaired_cut(above, wanted[-1], prepared, repairs=config.search.repair), wanted)
    step = max(1, len(prepared.data.train) // RECALIBRATION_IMAGES)
    shown = prepared.data.train.images[::step][:RECALIBRATION_IMAGES]
    levels.recalibrate(normalise(shown, prepared.data.info), prepared.evaluator.compute)
    trained = train_levels(
        levels,
        prepared.data,
        teacher=prepared.teacher,
        config=config.finetune.for_epochs(epochs),
        learning_rate=config.finetune_learning_rate,
        seed=derive_seed(config.seed, "finetune 0"),  # what the pruned model saw, the teacher has answered already
        description=name,
        state_path=context.run_dir.state / f"{name.replace(' ', '-')}.pt",
        on_epoch=lambda log: context.logger.epoch(name, log),
    )
    return (*(trained.extracted(level) for level in range(len(trained))), *finished)


class Answering:
    """Levels and the original, in ONNX Runtime: they are shown many images."""

    def __init__(self, models: Sequence[nn.Module], prepared: Prepared) -> None:
        self._info, self._models, self._original = prepared.data.info, models, prepared.elastic.original
        self._answers = {model: OnnxAnswers(model, self._info) for model in {*models, self._original}}

    def to(self, split: ImageSplit, latency_ms: Sequence[float]) -> LevelAnswers:
        """What they answer to images as they are; `latency_ms` is each level's, for one."""
        answered = {model: self._probabilities(answers, split) for model, answers in self._answers.items()}
        levels = np.stack([answered[model] for model in self._models])
        return LevelAnswers(levels, split.labels.numpy(), answered[self._original], tuple(latency_ms))

    def to_views(self, split: ImageSplit, augmentation: AugmentConfig, latency_ms: Sequence[float]) -> LevelAnswers:
        """What they answer to all views of the images, one view after the other.

        Levels differ in one image of thirty: among 5,000 images a tenth of a point is five of them. Ten views of each
        tell what a threshold loses with 0.6 of the standard error (ResNet-20, Fashion-MNIST: 0.036 points, not 0.063).
        """
        shown = views(split.images, augmentation)
        with bar("answers", augmentation.views) as progress:
            parts = []
            for images in shown:
                parts.append(self.to(ImageSplit(images, split.labels), latency_ms))
                progress.advance(1)
        return joined(parts)

    def _probabilities(self, answers: OnnxAnswers, split: ImageSplit) -> NDArray[np.float32]:
        starts = range(0, len(split), EVALUATION_BATCH)
        batches = (normalise(split.images[start : start + EVALUATION_BATCH], self._info) for start in starts)
        found: NDArray[np.float32] = torch.cat([answers(images) for images in batches]).softmax(1).numpy()
        return found


def _nested(problem: SearchProblem, policy: PruningPolicy, within: PruningPolicy) -> PruningPolicy:
    return problem.pruning_of(nested(problem, problem.policy_of(policy), problem.policy_of(within)))


def _may_be_a_level(problem: SearchProblem, policy: PruningPolicy, ratios: Sequence[float]) -> bool:
    """Whether a policy of the ladders' widths costs more than all levels that are asked for but the original."""
    widths = zip(policy.channels, problem.decisions, strict=True)
    is_known = all(kept in decision.ladder for (_, kept), decision in widths)
    is_full = policy == problem.pruning_of(problem.full_policy)
    share = _share(problem, policy)
    return is_known and not is_full and all(ratio < share for ratio in ratios if ratio < 1.0)


def _share(problem: SearchProblem, policy: PruningPolicy) -> float:
    return problem.cost_of(policy).predicted_latency_ms / problem.original_cost.predicted_latency_ms


def _limits(problem: SearchProblem, max_ratio: float) -> tuple[Limit, ...]:
    target = TargetConfig(metric="latency", max_ratio=max_ratio)
    return search_limits((target,), problem.original_cost, floor=problem.predict(problem.floor_policy))


def _check_levels(found: Sequence[PruningPolicy], problem: SearchProblem, count: int) -> None:
    """Raises `ValueError` unless they are `count` levels of the model, none wider than it or than the next one."""
    whole = problem.pruning_of(problem.full_policy)
    full = whole.as_dict()
    if len(found) != count or any(level.as_dict().keys() != full.keys() for level in found):
        raise ValueError(f"{len(found)} levels, not {count} of this model's groups")
    for smaller, larger in itertools.pairwise([*found, whole]):
        if smaller != larger:  # two ratios may have found the same
            check_nested([smaller, larger])


def _check_mixtures(found: Sequence[Mixture], levels: int) -> None:
    """Raises `ValueError` for one that is none of `levels` levels in ascending order."""
    for mixture in found:
        places = mixture.levels
        if len(places) < LEAST_LEVELS or list(places) != sorted(set(places)) or places[-1] >= levels:
            raise ValueError(f"a mixture of {places}, of {levels} levels")

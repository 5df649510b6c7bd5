"""The stage of a run after its search: the policy is cut out, in one step or in many, and what is left fine-tuned."""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from autoprune.foundation.seeding import derive_seed
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.structure import STRUCTURE_FILE, load_pruned, save_pruned
from autoprune.results.kept import FINETUNE, FRAME, FinetuneFrame
from autoprune.search.prepare import Prepared
from autoprune.space.layer_option import apply_options
from autoprune.space.policy import PruningPolicy
from autoprune.steps.context import Context
from autoprune.store.run_dir import RunDir
from autoprune.training.distill import finetune
from autoprune.training.repair import WeightRepair
from autoprune.training.scores import Judge
from autoprune.training.train import EpochLog, Settle, spent_s


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


def finetuned(context: Context, policy: PruningPolicy) -> nn.Module:
    """Cut (in one step or many), repair, recalibrate, fine-tune; the result is on disk before the next stage."""
    config, prepared, run_dir, store = context.config, context.prepared, context.run_dir, context.store
    if (run_dir.pruned / STRUCTURE_FILE).is_file():
        return load_pruned(run_dir.pruned, architecture=prepared.elastic.cut(prepared.elastic.full_policy))
    steps = cutting_steps(prepared.elastic.full_policy, policy, config.finetune.cut_per_step)
    logs: list[EpochLog] = []
    elastic = prepared.elastic
    for index, (step_policy, epochs) in enumerate(zip(steps, _shares(config.finetune.epochs, len(steps)), strict=True)):
        elastic = repaired_cut(elastic, step_policy, prepared, repairs=config.search.repair)
        if epochs == 0:
            continue
        frame = store.once(FRAME, partial(_frame, elastic.original, context))
        reached = prepared.evaluator.told(frame.original)
        done = len(logs)

        def on_epoch(log: EpochLog, done: int = done) -> None:
            shifted = EpochLog(done + log.epoch, log.train_loss, log.search_accuracy, log.learning_rate)
            logs.append(shifted)
            context.logger.epoch("finetune", shifted)

        tuned = training_of(
            context,
            elastic.original,
            step_policy,
            name=f"finetune {index}",
            epochs=epochs,
            description=f"fine-tuning{f' {index + 1}/{len(steps)}' if len(steps) > 1 else ''} (original {reached})",
            on_epoch=on_epoch,
        )
        elastic = elastic.with_weights_of(tuned)
    store.keep(FINETUNE, tuple(logs))
    save_pruned(run_dir.pruned, elastic.original, context.subject.spec)
    return elastic.original


def finalist_training(context: Context, policy: PruningPolicy, *, description: str) -> nn.Module:
    """The first `search.finalist_epochs` of the fine-tuning that `policy` would get, which goes on from there if it is
    the one that is taken. Where a cut is made in steps they are a short training of its own, thrown away."""
    config, prepared = context.config, context.prepared
    cut = repaired_cut(prepared.elastic, policy, prepared, repairs=config.search.repair).original
    trained, epochs = partial(training_of, context, cut, policy, description=description), config.search.finalist_epochs
    if cutting_steps(prepared.elastic.full_policy, policy, config.finetune.cut_per_step) == (policy,):
        return trained(name="finetune 0", epochs=config.finetune.epochs, until_epoch=epochs)
    return trained(name="finalist", epochs=epochs)


def training_of(
    context: Context,
    cut: nn.Module,
    policy: PruningPolicy,
    *,
    name: str,
    epochs: int,
    description: str,
    until_epoch: int | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> nn.Module:
    """Fine-tune `cut`, the cut at `policy`; its state is kept by `name` and policy, and gone on with.

    Trainings of one name see the same batches, and where time is short they are planned alike, so that they compare.
    """
    config, run_dir = context.config, context.run_dir
    return finetune(
        cut,
        context.subject.data,
        teacher=context.prepared.teacher,
        config=config.finetune.for_epochs(epochs),
        learning_rate=config.finetune_learning_rate,
        settle=settling(context, policy),
        seed=derive_seed(config.seed, name),
        description=description,
        state_path=state_of(run_dir, name, policy),
        plan_path=run_dir.state / f"{name.replace(' ', '-')}.json",
        until_epoch=until_epoch,
        on_epoch=on_epoch,
    )


def settling(context: Context, policy: PruningPolicy) -> Settle | None:
    """What keeps the weights of a cut as the options of its layers would have them, after each step."""
    options = context.prepared.elastic.options
    return partial(apply_options, options, policy=policy) if options else None


def finalist_s(policy: PruningPolicy, run_dir: RunDir) -> float:
    """Seconds that a finalist's training has taken, also if it was stopped in between; 0 if it has made no epoch."""
    return max(spent_s(state_of(run_dir, name, policy)) for name in ("finetune 0", "finalist"))


def state_of(run_dir: RunDir, name: str, policy: PruningPolicy) -> Path:
    """Where the state of a training is kept."""
    return run_dir.state / f"{hashlib.sha256(policy.key.encode()).hexdigest()[:12]}-{name.replace(' ', '-')}.pt"


def _frame(cut: nn.Module, context: Context) -> FinetuneFrame:
    original, data = context.prepared.elastic.original, context.subject.data
    judge = Judge(data.search, data.info, context.subject.task, original=original)
    return FinetuneFrame(judge(original), judge(cut), context.config.finetune.epochs)


def repaired_cut(elastic: ElasticModel, policy: PruningPolicy, prepared: Prepared, *, repairs: bool) -> ElasticModel:
    """The cut as candidates are made: what is left makes up for what is gone, and training starts the nearer."""
    smaller = elastic.narrow(policy)
    if repairs:
        repair = WeightRepair(elastic, prepared.evaluator.calibration)
        repair.apply(smaller.original, elastic.kept_channels(policy))
        apply_options(elastic.options, smaller.original, policy)
    prepared.evaluator.recalibrate(smaller.original)
    return smaller


def _shares(total: int, parts: int) -> list[int]:
    """`total` epochs over `parts` steps, as even as can be, the last steps getting what is left over."""
    return [total // parts + (index >= parts - total % parts) for index in range(parts)]

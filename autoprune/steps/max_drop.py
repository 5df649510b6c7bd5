"""The stage of a run that finds the cheapest cut within `target.max_drop`: search and fine-tune, at one limit after
another.

Each trial is a small run of its own: its folder below `state/` has the files of a run, its searches and facts are a
part of the run's `trials.sqlite`. It ends when its verdict is written there, so that a killed run repeats none. The
model that is kept is fine-tuned already; its files are copied to where those of any run lie.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from autoprune.config import RunConfig, TargetConfig
from autoprune.errors import TargetError
from autoprune.foundation.progress import say
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.reports.tensorboard import RunLogger
from autoprune.results.kept import FINETUNE, VERDICT
from autoprune.results.max_drop import kept_trial, next_ratio, paired_drop, part_name
from autoprune.results.run import DropTrial
from autoprune.search.prepare import Prepared, search_limits
from autoprune.search.problem import KNOWN_POLICIES, SearchProblem
from autoprune.space.decision import narrowest
from autoprune.space.policy import PruningPolicy
from autoprune.steps.choice import Chosen, search_choice
from autoprune.steps.context import Context
from autoprune.steps.finetune import finetuned
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore
from autoprune.tasks.judging import mean_of
from autoprune.training.scores import merits_in_views


@dataclass(frozen=True)
class Trial:
    """A finished trial: what it came to, and the context that it worked in, with a folder and a store of its own."""

    figures: DropTrial
    chosen: Chosen
    context: Context


def cheapest_within_drop(context: Context, target: TargetConfig) -> tuple[Chosen, nn.Module]:
    """The policy and fine-tuned model of the cheapest trial within `target.max_drop`.

    If none is, that of the trial that comes nearest; `Chosen.search` says so. Raises `TargetError` if there is
    nothing to be had by cutting.
    """
    floor = floor_ratio(context.prepared.problem, target)
    original_merits = drop_merits(context, context.prepared.elastic.original)
    trials: list[Trial] = []
    while True:
        figures = [trial.figures for trial in trials]
        ratio = next_ratio(figures, floor=floor, max_trials=context.config.search.max_drop_trials)
        if ratio is None:
            break
        trials.append(tried(context, target, ratio, trials, original_merits=original_merits))
    place = kept_trial(figures)
    kept = trials[place]
    say(f"{part_name(place + 1)} is the result" + ("" if kept.figures.accepted else ": none holds, it comes nearest"))
    model = tuned_model(kept.context)
    _copy_files(context, kept, model)
    summary = kept.chosen.search.model_copy(
        update={
            "evaluations": sum(trial.chosen.search.evaluations for trial in trials),
            "wall_s": sum(trial.chosen.search.wall_s for trial in trials),
            "max_drop_trials": tuple(
                trial.model_copy(update={"kept": index == place}) for index, trial in enumerate(figures)
            ),
        }
    )
    return Chosen(kept.chosen.policy, summary), model


def tried(
    context: Context, target: TargetConfig, ratio: float, earlier: Sequence[Trial], *, original_merits: Tensor
) -> Trial:
    """Search below `ratio` of the original's cost, fine-tune what is found, compare it with the original, whose merits
    are those of `drop_merits`. Each step goes on where it was."""
    prepared, name = context.prepared, part_name(len(earlier) + 1)
    run_dir = RunDir(context.run_dir.state / name.replace(" ", "-"))
    store = context.store.part(name)
    say(f"{name}: {target.metric} at most {ratio:.3f} of the original's")
    config = context.config.at_ratio(ratio)
    problem = problem_at(prepared, config, store, known=known_policies(prepared.problem, earlier, ratio))
    with RunLogger(context.run_dir.logs / run_dir.root.name) as logger:
        seed_everything(derive_seed(config.seed, "search"))
        own = replace(context, config=config, run_dir=run_dir, store=store, logger=logger)
        chosen = search_choice(replace(own, prepared=replace(prepared, problem=problem)))

        def verdict() -> DropTrial:
            """A policy that an earlier trial has fine-tuned has its verdict already."""
            for trial in earlier:
                if trial.chosen.policy == chosen.policy:
                    return trial.figures.model_copy(update={"ratio": ratio})
            finetuned(own, chosen.policy)
            merits = drop_merits(context, tuned_model(own))
            drop = paired_drop(original_merits, merits)
            assert target.max_drop is not None
            return DropTrial(
                ratio=ratio,
                reached=cost_ratio(prepared.problem, chosen.policy, target),
                search_accuracy=mean_of(merits[0]),
                drop=drop.share,
                drop_se=drop.se,
                accepted=drop.within(target.max_drop),
            )

        figures = store.once(VERDICT, verdict)
    shutil.rmtree(run_dir.state, ignore_errors=True)
    said = "holds" if figures.accepted else "is too much"
    say(f"{name}: search {prepared.evaluator.told(figures.search_accuracy)}, a drop of {figures.drop:.4f}: {said}")
    return Trial(figures, chosen, own)


def tuned_model(trial: Context) -> nn.Module:
    """The fine-tuned model from its files: the same whether the run was stopped in between or not."""
    elastic = trial.prepared.elastic
    return load_pruned(trial.run_dir.pruned, architecture=elastic.cut(elastic.full_policy))


def drop_merits(context: Context, model: nn.Module) -> Tensor:
    """(views, N): which views of the search split's images `model` gets right, or how good it is at them; the first is
    the image itself."""
    data, augmentation = context.subject.data, context.config.finetune.augment
    original = context.prepared.elastic.original
    return merits_in_views(model, data.search, augmentation, data.info, context.subject.task, original=original)


def problem_at(
    prepared: Prepared, config: RunConfig, store: TrialStore, *, known: tuple[PruningPolicy, ...]
) -> SearchProblem:
    """The problem below the bounds of `config`."""
    problem = prepared.problem
    limits = search_limits(config.target, problem.original_cost, floor=problem.predict(problem.floor_policy))
    return problem.within(limits, store=store, known=known)


def floor_ratio(problem: SearchProblem, target: TargetConfig) -> float:
    """The share of the original's cost to which it can be cut at most; `TargetError` if that is all of it."""
    floor = cost_ratio(problem, problem.pruning_of(problem.floor_policy), target)
    if floor >= 1:
        helps = cost_ratio(problem, narrowest(problem.decisions), target) < 1
        raise TargetError(
            f"target: no cut of this model has a lower {target.metric} (the smallest: {floor:.3f} of the original's); "
            f"{'lower search.min_keep or ' if helps else ''}choose another metric"
        )
    return floor


def cost_ratio(problem: SearchProblem, policy: PruningPolicy, target: TargetConfig) -> float:
    return problem.cost_of(policy).of(target.metric) / problem.original_cost.of(target.metric)


def known_policies(problem: SearchProblem, earlier: Sequence[Trial], ratio: float) -> tuple[PruningPolicy, ...]:
    """What a search below `ratio` starts from: the policies that earlier trials chose, the nearest first, then the best
    of the nearest one's search. The first trial starts from what the run itself was given."""
    if not earlier:
        return tuple(problem.pruning_of(policy) for policy in problem.known)
    nearest = sorted(earlier, key=lambda trial: abs(math.log(trial.figures.ratio / ratio)))
    episodes = nearest[0].context.store.episodes()
    rows = sorted((row for row in episodes if row.on_search_split), key=lambda row: -row.reward)
    best = [PruningPolicy.of(row.channels) for row in rows]
    return tuple(dict.fromkeys([*(trial.chosen.policy for trial in nearest), *best]))[:KNOWN_POLICIES]


def _copy_files(context: Context, kept: Trial, model: nn.Module) -> None:
    run_dir, theirs = context.run_dir, kept.context
    context.save_policy(kept.chosen.policy)
    if theirs.run_dir.agent.is_dir():
        shutil.copytree(theirs.run_dir.agent, run_dir.agent, dirs_exist_ok=True)
    save_pruned(run_dir.pruned, model, context.subject.spec)
    context.store.keep(FINETUNE, theirs.store.kept(FINETUNE) or ())

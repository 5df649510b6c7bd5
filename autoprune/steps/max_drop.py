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
from autoprune.foundation.errors import TargetError
from autoprune.foundation.progress import say
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.results.max_drop import kept_trial, next_ratio, paired_drop, part_name
from autoprune.results.run import DropTrial, SearchFigures
from autoprune.search.prepare import Prepared, search_limits
from autoprune.search.problem import SearchProblem
from autoprune.space.policy import PruningPolicy, save_policy
from autoprune.steps.decision import Decision, search_decision
from autoprune.steps.finetune import FINETUNE_FACT, finetuned
from autoprune.steps.subject import Subject
from autoprune.steps.tensorboard import RunLogger
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore
from autoprune.tasks.judging import mean_of
from autoprune.training.batches import augmentation_of
from autoprune.training.scores import merits_in_views

VERDICT_FACT = "verdict"
KNOWN_POLICIES = 6


@dataclass(frozen=True)
class Trial:
    """A finished trial: what it came to, and where its files are."""

    figures: DropTrial
    policy: PruningPolicy
    search: SearchFigures
    run_dir: RunDir
    store: TrialStore


@dataclass(frozen=True)
class DropStage:
    """What all trials share."""

    config: RunConfig
    target: TargetConfig
    subject: Subject
    prepared: Prepared
    run_dir: RunDir
    original_merits: Tensor  # (views, N), of the search split

    def trial(self, ratio: float, earlier: Sequence[Trial]) -> Trial:
        """Search below `ratio` of the original's cost, fine-tune what is found, compare it with the original.

        Each step goes on where it was. A policy that an earlier trial has fine-tuned has its verdict already.
        """
        number = len(earlier) + 1
        run_dir = RunDir(self.run_dir.state / part_name(number).replace(" ", "-"))
        store = TrialStore(self.run_dir.trials).part(part_name(number))
        say(f"{part_name(number)}: {self.target.metric} at most {ratio:.3f} of the original's")
        config = self.config.at_ratio(ratio)
        problem = problem_at(self.prepared, config, store, known=known_policies(self.prepared.problem, earlier, ratio))
        with RunLogger(self.run_dir.logs / run_dir.root.name) as logger:
            seed_everything(derive_seed(config.seed, "search"))
            decision = search_decision(config, logger)(replace(self.prepared, problem=problem), run_dir, store)
            done = figures = store.parsed_fact(VERDICT_FACT, DropTrial.model_validate_json)
            same = next((trial for trial in earlier if trial.policy == decision.policy), None)
            if figures is None and same is not None:
                figures = same.figures.model_copy(update={"ratio": ratio})
            if figures is None:
                finetuned(config, self.subject, self.prepared, decision.policy, run_dir, store, logger)
                figures = self._verdict(ratio, decision.policy, self.model_of(run_dir))
        if done is None:
            store.set_fact(VERDICT_FACT, figures.model_dump_json())
        shutil.rmtree(run_dir.state, ignore_errors=True)
        said = "holds" if figures.accepted else "is too much"
        say(f"{part_name(number)}: search accuracy {figures.search_accuracy:.4f}, a drop of {figures.drop:.4f}: {said}")
        return Trial(figures, decision.policy, decision.search, run_dir, store)

    def model_of(self, run_dir: RunDir) -> nn.Module:
        """The fine-tuned model from its files: the same whether the run was stopped in between or not."""
        elastic = self.prepared.elastic
        return load_pruned(run_dir.pruned, architecture=elastic.cut(elastic.full_policy))

    def _verdict(self, ratio: float, policy: PruningPolicy, model: nn.Module) -> DropTrial:
        merits = drop_merits(self.config, self.subject, model, original=self.prepared.elastic.original)
        drop = paired_drop(self.original_merits, merits)
        assert self.target.max_drop is not None
        return DropTrial(
            ratio=ratio,
            reached=cost_ratio(self.prepared.problem, policy, self.target),
            search_accuracy=mean_of(merits[0]),
            drop=drop.share,
            drop_se=drop.se,
            accepted=drop.within(self.target.max_drop),
        )


def cheapest_within_drop(
    config: RunConfig, target: TargetConfig, subject: Subject, prepared: Prepared, run_dir: RunDir, store: TrialStore
) -> tuple[Decision, nn.Module]:
    """The policy and fine-tuned model of the cheapest trial within `target.max_drop`.

    If none is, that of the trial that comes nearest; `Decision.search` says so. Raises `TargetError` if there is
    nothing to be had by cutting.
    """
    floor = floor_ratio(prepared.problem, target)
    stage = DropStage(
        config,
        target,
        subject,
        prepared,
        run_dir,
        drop_merits(config, subject, prepared.elastic.original, original=prepared.elastic.original),
    )
    trials: list[Trial] = []
    while True:
        figures = [trial.figures for trial in trials]
        ratio = next_ratio(figures, floor=floor, max_trials=config.search.max_drop_trials)
        if ratio is None:
            break
        trials.append(stage.trial(ratio, trials))
    place = kept_trial(figures)
    kept = trials[place]
    say(f"{part_name(place + 1)} is the result" + ("" if kept.figures.accepted else ": none holds, it comes nearest"))
    model = stage.model_of(kept.run_dir)
    _copy_files(config, subject, prepared, kept, model, run_dir, store)
    summary = kept.search.model_copy(
        update={
            "evaluations": sum(trial.search.evaluations for trial in trials),
            "wall_s": sum(trial.search.wall_s for trial in trials),
            "max_drop_trials": tuple(
                trial.model_copy(update={"kept": index == place}) for index, trial in enumerate(figures)
            ),
        }
    )
    return Decision(kept.policy, summary), model


def drop_merits(config: RunConfig, subject: Subject, model: nn.Module, *, original: nn.Module) -> Tensor:
    """(views, N): which views of the search split's images `model` gets right, or how good it is at them; the first is
    the image itself."""
    data, augmentation = subject.data, augmentation_of(config.finetune.augment)
    return merits_in_views(model, data.search, augmentation, data.info, subject.task, original=original)


def problem_at(
    prepared: Prepared, config: RunConfig, store: TrialStore, *, known: tuple[PruningPolicy, ...]
) -> SearchProblem:
    """The problem below the bounds of `config`."""
    problem = prepared.problem
    limits = search_limits(config.target, problem.original_cost, floor=problem.predict(problem.floor_policy))
    return problem.within(limits, store=store, known=known)


def floor_ratio(problem: SearchProblem, target: TargetConfig) -> float:
    """The share of the original's cost to which it can be cut at most; `TargetError` if that is all of it."""
    floor = cost_ratio(problem, problem.floor_policy, target)
    if floor >= 1:
        raise TargetError(
            f"target: no cut of this model has a lower {target.metric} (the smallest: {floor:.3f} of the original's); "
            f"lower search.min_keep or choose another metric"
        )
    return floor


def cost_ratio(problem: SearchProblem, policy: PruningPolicy, target: TargetConfig) -> float:
    return problem.predict(policy).of(target.metric) / problem.original_cost.of(target.metric)


def known_policies(problem: SearchProblem, earlier: Sequence[Trial], ratio: float) -> tuple[PruningPolicy, ...]:
    """What a search below `ratio` starts from: the policies that earlier trials chose, the nearest first, then the best
    of the nearest one's search. The first trial starts from what the run itself was given."""
    if not earlier:
        return problem.known
    nearest = sorted(earlier, key=lambda trial: abs(math.log(trial.figures.ratio / ratio)))
    rows = sorted((row for row in nearest[0].store.episodes() if row.on_search_split), key=lambda row: -row.reward)
    best = [PruningPolicy.of(row.channels) for row in rows]
    return tuple(dict.fromkeys([*(trial.policy for trial in nearest), *best]))[:KNOWN_POLICIES]


def _copy_files(
    config: RunConfig,
    subject: Subject,
    prepared: Prepared,
    kept: Trial,
    model: nn.Module,
    run_dir: RunDir,
    store: TrialStore,
) -> None:
    original = prepared.elastic.full_policy.as_dict()
    save_policy(run_dir.policy, kept.policy, model=config.model.name, original=original)
    if kept.run_dir.agent.is_dir():
        shutil.copytree(kept.run_dir.agent, run_dir.agent, dirs_exist_ok=True)
    save_pruned(run_dir.pruned, model, subject.spec)
    store.set_fact(FINETUNE_FACT, kept.store.fact(FINETUNE_FACT) or "[]")

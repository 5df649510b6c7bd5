"""The whole job: baseline, search, apply, fine-tune, export, measure, report; each stage goes on where it was."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.config import FinetuneConfig, RunConfig
from autoprune.data import normalise
from autoprune.distill import finetune
from autoprune.export import export_onnx, parity_max_abs
from autoprune.files import read_json, write_json
from autoprune.final import compare_files, run_result
from autoprune.latency import measure_interleaved
from autoprune.policies.searcher import SearchResult
from autoprune.policies.table import SEARCHERS
from autoprune.policies.trained import TrainingInfo
from autoprune.policy import PruningPolicy, load_policy, save_policy
from autoprune.prepare import Prepared, prepare
from autoprune.problem import Outcome, SearchProblem
from autoprune.progress import bar, say
from autoprune.report import write_report
from autoprune.result import RunResult, SearchFigures, parse_result
from autoprune.run_dir import RunDir, check_run_dir, opened
from autoprune.seeding import derive_seed, seed_everything
from autoprune.structure import STRUCTURE_FILE, load_pruned, save_pruned
from autoprune.subject import Subject, load_subject
from autoprune.tensorboard import RunLogger
from autoprune.train import EpochLog, train_baseline
from autoprune.trials import TrialStore

PARITY_IMAGES = 256
VERIFY_ROUNDS, VERIFY_RUNS = 20, 15
SEARCH_FACT, FINETUNE_FACT = "search", "finetune_log"


@dataclass(frozen=True)
class Decision:
    """The policy that a run applies, and what `result.json` says of where it comes from."""

    policy: PruningPolicy
    search: SearchFigures


# From the prepared problem to a policy: a search, a trained agent, or a policy from a file.
Decide = Callable[[Prepared, RunDir, TrialStore], Decision]


def run(
    config: RunConfig,
    root: Path,
    *,
    resume: bool = False,
    subject: Subject | None = None,
    decide: Decide | None = None,
) -> RunResult:
    """Do the whole job in `root` and return the contents of `result.json`; a finished run is only read back.

    `subject` replaces the model and data of the configuration, `decide` its search.
    """
    run_dir = check_run_dir(root, config, resume=resume)
    if run_dir.finished:
        if not run_dir.report.is_file():  # it was stopped between the two
            write_report(root)
        return parse_result(read_json(run_dir.result), where=str(run_dir.result))
    subject = subject or load_subject(config)
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger:
        store = TrialStore(run_dir.trials)
        model = _baseline(config, subject, run_dir, logger)
        prepared = prepare(config, model, subject.data, store=store)
        seed_everything(derive_seed(config.seed, "search"))
        decision = (decide or search_decision(config, logger))(prepared, run_dir, store)
        pruned = _finetuned(config, subject, prepared, decision.policy, run_dir, store, logger)
        return _measured(config, subject, prepared, decision, pruned, run_dir)


def search_only(problem: SearchProblem, config: RunConfig, run_dir: RunDir, logger: RunLogger) -> SearchResult:
    """Search with the configured agent; its trained actor, if it has one, is written to `agent/`."""
    search = config.search
    searcher = SEARCHERS[search.agent]()
    episode = 0
    best: Outcome | None = None
    with bar(f"search ({search.agent})", search.max_evaluations) as progress:

        def on_outcome(outcome: Outcome) -> None:
            nonlocal episode, best
            episode += 1
            logger.search_outcome(episode, outcome)
            is_new = outcome.policy.key not in seen
            seen.add(outcome.policy.key)
            if best is None or outcome.reward > best.reward:
                best = outcome
            progress.advance(int(is_new), f"best reward {best.reward:.4f}, top-1 {best.score.top1:.3f}")

        seen: set[str] = set()
        result = searcher.search(
            problem, max_evaluations=search.max_evaluations, seed=config.seed, on_outcome=on_outcome
        )
    if result.agent is not None:
        target = ", ".join(f"{limit.metric} <= {limit.max_value:.4g}" for limit in problem.limits)
        model = config.model.name if config.problem == "model" else config.problem
        result.agent.save(run_dir.agent, TrainingInfo(model, target, result.evaluations, float(result.best.reward)))
    return result


def search_decision(config: RunConfig, logger: RunLogger) -> Decide:
    """Search, then time the best candidates' exported files and take the best that meets the target as measured."""

    def decide(prepared: Prepared, run_dir: RunDir, store: TrialStore) -> Decision:
        done = store.fact(SEARCH_FACT)
        if done is not None and run_dir.policy.is_file():
            return Decision(load_policy(run_dir.policy), SearchFigures.model_validate_json(done))
        result = search_only(prepared.problem, config, run_dir, logger)
        policy = fastest_true(prepared, result.outcomes, config)
        save_policy(run_dir.policy, policy, model=config.model.name, original=prepared.elastic.full_policy.as_dict())
        summary = SearchFigures(
            searcher=result.searcher,
            evaluations=result.evaluations,
            wall_s=result.wall_s,
            seed=result.seed,
            best_reward=result.best.reward,
        )
        store.set_fact(SEARCH_FACT, summary.model_dump_json())
        return Decision(policy, summary)

    return decide


def fastest_true(prepared: Prepared, outcomes: tuple[Outcome, ...], config: RunConfig) -> PruningPolicy:
    """The outcome with the highest reward whose exported file meets the latency targets as measured.

    If none of the `verify_top` best does, the fastest of them.
    """
    distinct = {outcome.policy.key: outcome for outcome in sorted(outcomes, key=lambda outcome: outcome.reward)}
    best_first = sorted(distinct.values(), key=lambda outcome: -outcome.reward)[: config.search.verify_top]
    targets = [target for target in config.target if target.metric == "latency"]
    if not targets:
        return best_first[0].policy
    elastic, info = prepared.elastic, prepared.evaluator.info
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        files = []
        for index, policy in enumerate([elastic.full_policy, *(outcome.policy for outcome in best_first)]):
            files.append(Path(folder) / f"{index}.onnx")
            export_onnx(elastic.cut(policy), files[-1], info)
        images = torch.zeros(config.measure.batch_size, *info.input_shape).numpy()
        original, *candidates = measure_interleaved(
            files, images, threads=config.measure.threads, rounds=VERIFY_ROUNDS, runs_per_round=VERIFY_RUNS
        )
    bound_ms = min(target.bound(original.latency_ms_p50) for target in targets)
    for outcome, latency in zip(best_first, candidates, strict=True):
        if latency.latency_ms_p50 <= bound_ms:
            return outcome.policy
    fastest = min(range(len(candidates)), key=lambda index: candidates[index].latency_ms_p50)
    say(
        f"no candidate meets {bound_ms:.4f} ms as measured; taking the fastest of the best "
        f"({candidates[fastest].latency_ms_p50:.4f} ms)"
    )
    return best_first[fastest].policy


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


def _baseline(config: RunConfig, subject: Subject, run_dir: RunDir, logger: RunLogger) -> nn.Module:
    if subject.is_trained:
        return subject.model
    say("no checkpoint is given: training a baseline first")
    return train_baseline(
        subject.model,
        subject.data,
        config.train,
        seed=config.seed,
        state_path=run_dir.state / "baseline.pt",
        on_epoch=lambda log: logger.epoch("train", log),
    )


def _finetuned(
    config: RunConfig,
    subject: Subject,
    prepared: Prepared,
    policy: PruningPolicy,
    run_dir: RunDir,
    store: TrialStore,
    logger: RunLogger,
) -> nn.Module:
    """Cut (in one step or many), recalibrate, fine-tune; the result is on disk before the next stage."""
    if (run_dir.pruned / STRUCTURE_FILE).is_file():
        return load_pruned(run_dir.pruned, architecture=prepared.elastic.cut(prepared.elastic.full_policy))
    steps = cutting_steps(prepared.elastic.full_policy, policy, config.finetune.cut_per_step)
    logs: list[EpochLog] = []
    elastic = prepared.elastic
    teacher = elastic.original
    for index, (step_policy, epochs) in enumerate(zip(steps, _shares(config.finetune.epochs, len(steps)), strict=True)):
        elastic = elastic.narrow(step_policy)
        prepared.evaluator.recalibrate(elastic.original)
        if epochs == 0:
            continue
        done = len(logs)

        def on_epoch(log: EpochLog, done: int = done) -> None:
            shifted = EpochLog(done + log.epoch, log.train_loss, log.search_accuracy, log.learning_rate)
            logs.append(shifted)
            logger.epoch("finetune", shifted)

        tuned = finetune(
            elastic.original,
            subject.data,
            teacher=teacher,
            config=_with_epochs(config.finetune, epochs),
            learning_rate=config.finetune.learning_rate or config.train.learning_rate / 10,
            seed=derive_seed(config.seed, f"finetune {index}"),
            description="fine-tuning" if len(steps) == 1 else f"fine-tuning {index + 1}/{len(steps)}",
            state_path=run_dir.state / f"finetune-{index}.pt",
            on_epoch=on_epoch,
        )
        elastic = elastic.with_weights_of(tuned)
    store.set_fact(FINETUNE_FACT, json.dumps([asdict(log) for log in logs]))
    save_pruned(run_dir.pruned, elastic.original, subject.spec)
    return elastic.original


def _measured(
    config: RunConfig, subject: Subject, prepared: Prepared, decision: Decision, pruned: nn.Module, run_dir: RunDir
) -> RunResult:
    """Export both models, check parity, measure, and write `result.json` and `report.html`."""
    info = subject.data.info
    say("exporting and measuring")
    export_onnx(prepared.elastic.original, run_dir.original_onnx, info)
    export_onnx(pruned, run_dir.model_onnx, info)
    shown = normalise(subject.data.search.images[:PARITY_IMAGES], info)
    parity = parity_max_abs(pruned, run_dir.model_onnx, shown)
    problem = prepared.problem
    comparison = compare_files(
        run_dir.original_onnx,
        run_dir.model_onnx,
        costs=(problem.original_cost, problem.predict(decision.policy)),
        test=subject.test,
        info=info,
        config=config.measure,
    )
    result = run_result(comparison, parity_max_abs=parity, targets=config.target, search=decision.search, info=info)
    write_json(run_dir.result, result.as_json())
    write_report(run_dir.root)
    shutil.rmtree(run_dir.state, ignore_errors=True)
    return result


def _shares(total: int, parts: int) -> list[int]:
    """`total` epochs over `parts` steps, as even as can be, the last steps getting what is left over."""
    return [total // parts + (index >= parts - total % parts) for index in range(parts)]


def _with_epochs(config: FinetuneConfig, epochs: int) -> FinetuneConfig:
    return config.model_copy(update={"epochs": epochs})

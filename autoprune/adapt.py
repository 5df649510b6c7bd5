"""`autoprune adapt`: levels are searched and trained, a router learned, all of it joined in one file and measured."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.adaptive_export import RouterNodes, export_adaptive
from autoprune.adaptive_measurement import ImageTimes, measure_by_image
from autoprune.adaptive_result import AdaptiveResult, CurvePoint, RouteFigures
from autoprune.config import RunConfig, TargetConfig
from autoprune.data import ImageSplit, normalise
from autoprune.decision import check_search, search_only
from autoprune.errors import InputError
from autoprune.export import export_onnx
from autoprune.files import read_json, write_json
from autoprune.final import environment
from autoprune.latency import measure_interleaved
from autoprune.levels import Levels, level_logits, train_levels
from autoprune.policies.router import LearnedRouter, RouterSettings, train_router
from autoprune.policies.router_graph import CascadeNodes, LearnedNodes
from autoprune.policy import AdaptivePolicy, PruningPolicy
from autoprune.prepare import Prepared, prepare, search_limits
from autoprune.progress import bar, say
from autoprune.routing import (
    LevelAnswers,
    RoutedFigures,
    cascade_points,
    figures_of,
    follow,
    oracle,
)
from autoprune.run_dir import RunDir, check_run_dir, opened
from autoprune.seeding import derive_seed, seed_everything
from autoprune.subject import Subject, load_subject
from autoprune.tensorboard import RunLogger
from autoprune.train import logits_of
from autoprune.trials import TrialStore

LEVELS_FACT = "levels"
RECALIBRATION_IMAGES = 2048
PRICES = 60  # of time, at which the learned router is tried
TIMED_ROUNDS, TIMED_RUNS = 30, 20


@dataclass(frozen=True)
class OperatingPoint:
    """A router and what it comes to on the search split, on which it was chosen."""

    name: str
    nodes: RouterNodes
    figures: RoutedFigures


def adapt(config: RunConfig, root: Path, *, resume: bool = False) -> AdaptiveResult:
    """Make and measure an input-adaptive model in `root`; a finished one is only read back.

    Raises `InputError` for an untrained model, `TargetError` for a level below the floor, before any long work.
    """
    run_dir = check_run_dir(root, config, resume=resume)
    if run_dir.adaptive.is_file():
        return AdaptiveResult.parsed(read_json(run_dir.adaptive), where=str(run_dir.adaptive))
    check_search(config)
    subject = load_subject(config)
    if not subject.is_trained:
        raise InputError("model.checkpoint: levels are taught by a trained model; make one with `autoprune train`")
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger:
        store = TrialStore(run_dir.trials)
        smallest = at_ratio(config, min(config.adaptive.max_ratios))  # what is below the floor is refused at once
        prepared = prepare(smallest, subject.model, subject.data, store=store)
        policy = level_policies(config, prepared, run_dir, store, logger)
        levels = _trained(config, prepared, policy, run_dir, logger)
        files = _exported(levels, prepared, run_dir, subject)
        answers = search_answers(levels, files, prepared, config)
        points = operating_points(answers, config)
        chosen = chosen_point(points, answers, max_drop=config.adaptive.max_drop)
        export_adaptive(files, chosen.nodes, run_dir.adaptive_onnx)
        times = measure_by_image(
            [run_dir.original_onnx, run_dir.adaptive_onnx],
            subject.test,
            subject.data.info,
            threads=config.measure.threads,
        )
        result = _result(config, policy, chosen, points, answers, times, files, subject.test, run_dir)
        write_json(run_dir.adaptive, result.as_json())
        shutil.rmtree(run_dir.state, ignore_errors=True)
    return result


def at_ratio(config: RunConfig, max_ratio: float) -> RunConfig:
    """The configuration with a limit on the latency in place of its target."""
    return config.model_copy(update={"target": (TargetConfig(metric="latency", max_ratio=max_ratio),)})


def level_policies(
    config: RunConfig, prepared: Prepared, run_dir: RunDir, store: TrialStore, logger: RunLogger
) -> AdaptivePolicy:
    """A policy under each of `adaptive.max_ratios`, searched from the largest on; smaller ones are cut to be nested."""
    done = store.fact(LEVELS_FACT)
    if done is not None:
        return AdaptivePolicy(tuple(PruningPolicy.of(channels) for channels in json.loads(done)))
    problem, full = prepared.problem, prepared.problem.full_policy
    found: list[PruningPolicy] = []
    for number, ratio in sorted(enumerate(config.adaptive.max_ratios), reverse=True):
        if ratio == 1.0:
            found.insert(0, full)
            continue
        targets = at_ratio(config, ratio).target
        limits = search_limits(targets, problem.original_cost, floor=problem.predict(problem.floor_policy))
        seed_everything(derive_seed(config.seed, f"level {number}"))
        part = problem.within(limits, store=store.part(f"level {number}"), known=tuple(found[:1]))
        best = search_only(part, config, run_dir, logger).best.policy
        found.insert(0, narrowed(best, found[0]) if found else best)
    policy = AdaptivePolicy(tuple(found))
    store.set_fact(LEVELS_FACT, json.dumps([level.as_dict() for level in policy.levels]))
    return policy


def narrowed(policy: PruningPolicy, within: PruningPolicy) -> PruningPolicy:
    """`policy`, no group wider than in `within`."""
    widest = within.as_dict()
    return PruningPolicy.of({name: min(kept, widest[name]) for name, kept in policy.channels})


def search_answers(levels: Levels, files: Sequence[Path], prepared: Prepared, config: RunConfig) -> LevelAnswers:
    """What the levels and the original answer to the search split, and what each level's file takes for one image."""
    data, original = prepared.data, prepared.elastic.original
    black = np.zeros((1, *data.info.input_shape), dtype=np.float32)
    latencies = measure_interleaved(
        files, black, threads=config.measure.threads, rounds=TIMED_ROUNDS, runs_per_round=TIMED_RUNS
    )
    probabilities = level_logits(levels, data.search, data).softmax(2).numpy()
    return LevelAnswers(
        probabilities,
        data.search.labels.numpy(),
        tuple(latency.latency_ms_p50 for latency in latencies),
        teacher=logits_of(original, data.search, data.info).softmax(1).numpy(),
    )


def operating_points(answers: LevelAnswers, config: RunConfig) -> tuple[OperatingPoint, ...]:
    """Every cascade that no other one beats, and the learned router at many prices of time."""
    points = [
        OperatingPoint("cascade", CascadeNodes(point.thresholds), point.figures) for point in cascade_points(answers)
    ]
    with bar("router", config.adaptive.router_rounds) as progress:
        router = train_router(
            answers,
            seed=derive_seed(config.seed, "router"),
            settings=RouterSettings(rounds=config.adaptive.router_rounds),
            on_round=lambda _, found: progress.advance(1, f"return {found:.4f}"),
        )
    return (*points, *(_learned_point(router, price, answers) for price in prices(router)))


def prices(router: LearnedRouter) -> list[float]:
    """From none to all of the router's range, finer where they are low."""
    return [router.max_price * (step / (PRICES - 1)) ** 2 for step in range(PRICES)]


def chosen_point(points: Sequence[OperatingPoint], answers: LevelAnswers, *, max_drop: float) -> OperatingPoint:
    """The fastest that loses at most `max_drop` of the original's accuracy on the search split.

    If none holds that, the most accurate one; of equals the fastest.
    """
    assert answers.teacher is not None
    wanted = float((answers.teacher.argmax(1) == answers.labels).mean()) - max_drop
    allowed = [point for point in points if point.figures.accuracy >= wanted - 1e-9]
    if allowed:
        return min(allowed, key=lambda point: (point.figures.estimated_latency_ms, -point.figures.accuracy))
    say(f"no router holds {100 * wanted:.2f}% on the search split: taking the most accurate one")
    return min(points, key=lambda point: (-point.figures.accuracy, point.figures.estimated_latency_ms))


def _learned_point(router: LearnedRouter, price: float, answers: LevelAnswers) -> OperatingPoint:
    return OperatingPoint(
        "learned", LearnedNodes(router, price), figures_of(follow(router.at_price(price), answers), answers)
    )


def _trained(
    config: RunConfig, prepared: Prepared, policy: AdaptivePolicy, run_dir: RunDir, logger: RunLogger
) -> Levels:
    levels = Levels(prepared.elastic, policy)
    step = max(1, len(prepared.data.train) // RECALIBRATION_IMAGES)
    shown = prepared.data.train.images[::step][:RECALIBRATION_IMAGES]
    levels.recalibrate(normalise(shown, prepared.data.info))
    return train_levels(
        levels,
        prepared.data,
        teacher=prepared.teacher,
        config=config.finetune,
        learning_rate=config.finetune_learning_rate,
        seed=derive_seed(config.seed, "levels"),
        state_path=run_dir.state / "levels.pt",
        on_epoch=lambda log: logger.epoch("levels", log),
    )


def _exported(levels: Levels, prepared: Prepared, run_dir: RunDir, subject: Subject) -> list[Path]:
    """The original's file, and one for each level."""
    info = subject.data.info
    export_onnx(prepared.elastic.original, run_dir.original_onnx, info)
    files = [run_dir.level_onnx(level) for level in range(len(levels))]
    for level, file in enumerate(files):
        export_onnx(levels.extracted(level), file, info)
    return files


def _result(
    config: RunConfig,
    policy: AdaptivePolicy,
    chosen: OperatingPoint,
    points: Sequence[OperatingPoint],
    answers: LevelAnswers,
    times: Sequence[ImageTimes],
    files: Sequence[Path],
    test: ImageSplit,
    run_dir: RunDir,
) -> AdaptiveResult:
    labels = test.labels.numpy()
    original, adaptive = times
    shares = np.bincount(adaptive.levels, minlength=len(files)) / len(labels)
    return AdaptiveResult(
        original=_measured(original, labels),
        adaptive=_measured(adaptive, labels),
        latency_ratio=adaptive.latency_ms_mean / original.latency_ms_mean,
        router=chosen.name,
        level_share=tuple(shares.tolist()),
        level_channels=tuple(level.as_dict() for level in policy.levels),
        level_latency_ms=answers.latency_ms,
        level_search_accuracy=tuple(answers.right.mean(1).tolist()),
        oracle_on_search=_point("oracle", figures_of(oracle(answers), answers)),
        curve_on_search=tuple(_point(point.name, point.figures) for point in points),
        onnx_bytes=run_dir.adaptive_onnx.stat().st_size,
        largest_level_onnx_bytes=max(file.stat().st_size for file in files),
        seed=config.seed,
        environment=environment(),
    )


def _measured(times: ImageTimes, labels: np.ndarray) -> RouteFigures:
    p50, p95 = np.percentile(times.latency_ms, [50, 95])
    return RouteFigures(
        test_accuracy=times.accuracy(labels),
        latency_ms_mean=times.latency_ms_mean,
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
        latency_ms_max=float(times.latency_ms.max()),
    )


def _point(router: str, figures: RoutedFigures) -> CurvePoint:
    return CurvePoint(
        router=router,
        search_accuracy=figures.accuracy,
        estimated_latency_ms=figures.estimated_latency_ms,
        level_share=figures.level_share,
    )

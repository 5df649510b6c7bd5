"""The stage that makes an input-adaptive model: levels, router, one file, and what it was measured to do."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.adaptive.figures.examples import write_examples
from autoprune.adaptive.figures.figures import (
    agreement,
    class_figures,
    curve_point,
    route_figures,
    shares,
    static_at_equal_accuracy,
)
from autoprune.adaptive.figures.schema import AdaptiveResult, CurvePoint, LevelFigures, MixtureFigures, RouterName
from autoprune.adaptive.file.export import export_adaptive
from autoprune.adaptive.file.measurement import measure_by_image, measured_decision_ms, running
from autoprune.adaptive.levels.choice import (
    SEARCHING_LEVELS,
    TRAINING_LEVELS,
    Answering,
    ChosenLevels,
    PrunedModel,
    chosen_levels,
)
from autoprune.adaptive.levels.kept import earlier_levels, keep_levels
from autoprune.adaptive.levels.shared_weights import cuts_of_largest
from autoprune.adaptive.report.page import read_adaptive, write_adaptive_report
from autoprune.adaptive.routing.calibration import calibrations
from autoprune.adaptive.routing.learner import RouterSettings, train_router
from autoprune.adaptive.routing.operating_point import (
    OperatingPoint,
    at_budgets,
    chosen_point,
    operating_points,
)
from autoprune.adaptive.routing.routers import Cascade
from autoprune.adaptive.routing.routing import LevelAnswers, figures_of, follow, oracle
from autoprune.adaptive.routing.trust import fitted_trust
from autoprune.data import DataInfo, ImageSplit, normalise
from autoprune.export.onnx_file import ONNX_RUNTIME, export_onnx
from autoprune.foundation.files import write_json
from autoprune.foundation.progress import begin
from autoprune.foundation.seeding import derive_seed
from autoprune.measure.device import environment
from autoprune.measure.latency import measure_interleaved
from autoprune.measure.matched import change_of_accuracy
from autoprune.measure.timing import Call
from autoprune.steps.context import Context
from autoprune.steps.final import energies, input_figures
from autoprune.store.run_dir import RunDir
from autoprune.training.scores import outputs_of

ROUTING = "router, and measuring"
STAGES = (SEARCHING_LEVELS, TRAINING_LEVELS, ROUTING)
TIMED_ROUNDS, TIMED_RUNS = 30, 20
ROUTER_IMAGES = 20_000  # of the train split, at most, from which the router learns
ENERGY_IMAGES = 256  # over and over while a sensor counts


@dataclass(frozen=True)
class Built:
    """An exported adaptive model, and what is known of it before the test split is read."""

    levels: ChosenLevels
    answers: LevelAnswers  # to views of the search split
    original_ms: float  # median of a call of the original's file
    decision_ms: Mapping[RouterName, float]
    points: tuple[OperatingPoint, ...]
    chosen: OperatingPoint


def adaptive_model(context: Context, *, pruned: PrunedModel | None = None) -> AdaptiveResult:
    """Make and measure it; `adaptive.json`, `adaptive.html` and the files in `export` are written.

    `pruned` is the run's static model, whose file is measured beside the others. A finished adaptive model is only read
    back.
    """
    run_dir = context.run_dir
    if run_dir.adaptive.is_file():
        return read_adaptive(run_dir)
    levels = _levels(context, pruned)
    begin(ROUTING)
    built = _built(context, levels)
    result = _measured(context, built, pruned=pruned)
    write_json(run_dir.adaptive, result.as_json())
    write_adaptive_report(run_dir)
    return result


def _levels(context: Context, pruned: PrunedModel | None) -> ChosenLevels:
    """Searched and trained, or those of an earlier run; on disk before the router is learned."""
    start = context.config.adaptive.levels_from
    chosen = chosen_levels(context, pruned) if start is None else earlier_levels(start, context.prepared)
    keep_levels(context.run_dir, chosen, context.subject, original=context.prepared.elastic.original)
    return chosen


def _built(context: Context, levels: ChosenLevels) -> Built:
    """Learn the router from the levels, choose its operating point, write the file."""
    config, prepared, run_dir, info = context.config, context.prepared, context.run_dir, context.subject.data.info
    threads = config.measure.threads
    files = _level_files(run_dir, levels)
    original_ms, *level_ms = _exported_and_timed(context, levels)
    search, train = prepared.data.search, prepared.data.train
    augmentation = config.finetune.augment
    answering = Answering(levels.models, prepared)
    answers = answering.to_views(search, augmentation, level_ms)
    answers = replace(answers, trust=fitted_trust(answers, views=augmentation.views))
    shown = train.select(torch.arange(0, len(train), -(-len(train) // ROUTER_IMAGES)))
    learnt = replace(answering.to(shown, level_ms), trust=answers.trust)
    settings = RouterSettings(rounds=config.adaptive.router_rounds)
    router = train_router(learnt, answers, seed=derive_seed(config.seed, "router"), settings=settings)
    # Each where it stops if it can: what it costs then is the decision.
    stopping = (Cascade((0.0,) * (len(files) - 1)), router.at_price(router.max_price))
    decision_ms = measured_decision_ms(files, stopping, search, info, threads=threads)
    points = operating_points(answers, router, decision_ms)
    chosen = chosen_point(points, answers, max_drop=config.adaptive.max_drop, original_ms=original_ms)
    calibration = calibrations(follow(chosen.router, answers), answers)
    sharing = levels.policies[: levels.sharing]
    cuts = cuts_of_largest(prepared.elastic, sharing) if sharing else ()
    export_adaptive(files, chosen.router, run_dir.adaptive_onnx, cuts=cuts, calibration=calibration)
    return Built(levels, answers, original_ms, decision_ms, points, chosen)


def _exported_and_timed(context: Context, levels: ChosenLevels) -> list[float]:
    """Write the original's file and one for each level; the median latencies of their calls, for one image."""
    run_dir, info = context.run_dir, context.subject.data.info
    files = [run_dir.original_onnx, *_level_files(run_dir, levels)]
    for model, file in zip((context.prepared.elastic.original, *levels.models), files, strict=True):
        export_onnx(model, file, info)
    measured = measure_interleaved(
        files,
        np.zeros((1, *info.input_shape), dtype=np.float32),
        runtime=ONNX_RUNTIME,
        threads=context.config.measure.threads,
        rounds=TIMED_ROUNDS,
        runs_per_round=TIMED_RUNS,
    )
    return [latency.latency_ms_p50 for latency in measured]


def _measured(context: Context, built: Built, *, pruned: PrunedModel | None) -> AdaptiveResult:
    """All files on every test image in turn: the one look at the test split."""
    config, subject, prepared, run_dir = context.config, context.subject, context.prepared, context.run_dir
    test, info, problem = subject.test, subject.data.info, prepared.problem
    labels = test.labels.numpy()
    policies, models = built.levels.policies, built.levels.models
    level_files = _level_files(run_dir, built.levels)
    named = {prepared.elastic.original: "original", **({pruned.model: "pruned"} if pruned is not None else {})}
    names = [named.get(model, f"level {place}") for place, model in enumerate(models)]
    level_mj = [problem.cost_of(level).estimated_energy_mj for level in policies]
    # Each file, and the estimated energy of an image. A level that is the original has no file of its own here.
    measured = {
        "original": (run_dir.original_onnx, problem.original_cost.estimated_energy_mj),
        "adaptive": (run_dir.adaptive_onnx, float(np.dot(built.chosen.figures.run_share, level_mj))),
    }
    for name, file, energy_mj in zip(names, level_files, level_mj, strict=True):
        measured.setdefault(name, (file, energy_mj))
    if pruned is not None:
        measured.setdefault("pruned", (run_dir.model_onnx, problem.cost_of(pruned.policy).estimated_energy_mj))
    files, estimates_mj = zip(*measured.values(), strict=True)
    times = dict(zip(measured, measure_by_image(files, test, info, threads=config.measure.threads), strict=True))
    calls = [image_calls(file, test, info, threads=config.measure.threads) for file in files]
    consumed = energies(calls, estimates_mj, images_a_call=1, sensor=context.sensor)
    figures = {
        name: route_figures(times[name], labels, energy) for name, energy in zip(measured, consumed, strict=True)
    }
    right = {name: time.answers == labels for name, time in times.items()}
    original, adaptive = figures["original"], figures["adaptive"]
    easy, hard = write_examples(run_dir.examples, test, times["adaptive"], info.classes)
    *level_answers, teacher = (torch.from_numpy(times[name].logits).softmax(1).numpy() for name in (*names, "original"))
    test_answers = LevelAnswers(np.stack(level_answers), labels, teacher, built.answers.latency_ms)
    return AdaptiveResult(
        original=original,
        adaptive=adaptive,
        pruned=figures.get("pruned"),
        latency_ratio=adaptive.latency_ms_mean / original.latency_ms_mean,
        static_at_equal_accuracy=static_at_equal_accuracy(figures, right),
        accuracy_change_ci95=change_of_accuracy(right["original"], right["adaptive"])[1],
        input=input_figures(info),
        router=built.chosen.router.name,
        level_share=shares(times["adaptive"].levels, levels=len(models)),
        agreement=agreement(times["adaptive"], _level_logits(models, times["adaptive"].levels, test, info)),
        levels=tuple(
            LevelFigures(
                channels=level.as_dict(),
                on_search=CurvePoint(
                    router=f"level {place}",
                    search_accuracy=float(built.answers.right[place].mean()),
                    estimated_latency_ms=built.answers.latency_ms[place],
                ),
                alone=figures[name],
                is_original=name == "original",
                is_pruned=name == "pruned",
            )
            for place, (level, name) in enumerate(zip(policies, names, strict=True))
        ),
        classes=class_figures(times["original"], times["adaptive"], labels, info.classes, levels=len(models)),
        easy=easy,
        hard=hard,
        mixtures=_mixtures(built, problem.original_cost.predicted_latency_ms),
        chosen_on_search=curve_point(built.chosen.router.name, built.chosen.figures),
        estimated_drop_on_search=built.answers.original_worth - built.chosen.figures.worth,
        original_on_search=CurvePoint(
            router="original",
            search_accuracy=float(built.answers.original_right.mean()),
            estimated_latency_ms=built.original_ms,
        ),
        oracle_on_search=curve_point("oracle", figures_of(oracle(built.answers), built.answers)),
        curve_on_search=tuple(curve_point(point.router.name, point.figures) for point in built.points),
        budgets=at_budgets(built.points, test_answers, built.decision_ms),
        decision_ms=dict(built.decision_ms),
        onnx_bytes=run_dir.adaptive_onnx.stat().st_size,
        largest_level_onnx_bytes=max(file.stat().st_size for file in level_files),
        model=config.model.name,
        data=info.name,
        threads=config.measure.threads,
        seed=config.seed,
        environment=environment(ONNX_RUNTIME),
    )


def _level_logits(
    models: Sequence[nn.Module], answered: NDArray[np.int64], test: ImageSplit, info: DataInfo
) -> NDArray[np.float32]:
    """(N, classes): for each image what the level that `answered` it answers in PyTorch."""
    logits = np.zeros((len(test), len(info.classes)), dtype=np.float32)
    for level, model in enumerate(models):
        own = np.flatnonzero(answered == level)
        if len(own):
            logits[own] = outputs_of(model, test.select(torch.from_numpy(own)), info).numpy()
    return logits


def image_calls(file: Path, test: ImageSplit, info: DataInfo, *, threads: int) -> Call:
    """Run `file` on the next image when called, in a circle: what a call takes then depends on the images."""
    run = running(file, ONNX_RUNTIME, threads=threads)
    images = itertools.cycle(normalise(test.images[:ENERGY_IMAGES], info).contiguous().numpy())
    return lambda: run(next(images)[None])


def _level_files(run_dir: RunDir, levels: ChosenLevels) -> list[Path]:
    return [run_dir.level_onnx(level) for level in range(len(levels.models))]


def _mixtures(built: Built, original_ms: float) -> tuple[MixtureFigures, ...]:
    return tuple(
        MixtureFigures(
            max_ratios=tuple(built.levels.candidate_ratios[place] for place in mixture.levels),
            holds=mixture.holds,
            search_worth=mixture.worth,
            estimated_latency_ratio=mixture.estimated_latency_ms / original_ms,
        )
        for mixture in built.levels.tried
    )

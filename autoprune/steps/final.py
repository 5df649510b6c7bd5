"""The last step of a run: the exported files, original and pruned, scored on the test split and timed side by side."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from autoprune.config import AugmentConfig, MeasureConfig, TargetConfig
from autoprune.data import DataInfo, ImageSplit, normalise, views
from autoprune.foundation.progress import say
from autoprune.measure.device import environment
from autoprune.measure.energy_measurement import compare_energy
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.latency import Latency, measure_interleaved, speedup
from autoprune.measure.matched import change_of, interval_of
from autoprune.measure.memory import measure_peak_rss_bytes
from autoprune.measure.stats import PairedRatio
from autoprune.measure.timing import Call
from autoprune.results.run import (
    AccuracyFigures,
    Checks,
    Figures,
    InputFigures,
    MetricFigures,
    Ratios,
    RunResult,
    SearchFigures,
)
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.runtime import Runtime
from autoprune.search.problem import PredictedCost
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import main_metric, mean_of, targets_of
from autoprune.tasks.task import PerExample, Task

SCORING_BATCH = 200
ENERGY_SECONDS = 2.0  # of load for each file, and of idling in all
METRIC_KEYS = {"latency": "latency_ms_p50", "energy": "energy_mj", "macs": "macs", "params": "params"}


@dataclass(frozen=True)
class BeforeAndAfter:
    original: Figures
    pruned: Figures
    speedup: PairedRatio
    accuracy: AccuracyFigures | None = None
    metric: MetricFigures = field(default_factory=MetricFigures)


@dataclass(frozen=True)
class Energy:
    """Of one image, in millijoules."""

    mj: float
    source: Literal["measured", "estimated"]
    sensor: str | None = None
    ci95_mj: tuple[float, float] | None = None


@dataclass(frozen=True)
class FileJudge:
    """The main metric of a task, of files in a runtime. Where the task needs no labels, the `original`'s file says what
    is right."""

    info: DataInfo
    original: Path
    runtime: Runtime
    task: Task = CLASSIFICATION

    def __call__(self, file: Path, split: ImageSplit) -> float:
        """The mean over `split`."""
        return mean_of(self.each(file, split)[1].values)

    def each(self, file: Path, split: ImageSplit) -> tuple[str, PerExample]:
        """What it comes to for each image of `split`, (N,), and the metric's name."""
        outputs = file_outputs(file, split, self.info, self.runtime)
        asks_original = not self.task.needs_labels and file != self.original
        original = file_outputs(self.original, split, self.info, self.runtime) if asks_original else outputs
        return main_metric(self.task, outputs, targets_of(self.task, split.labels, original))

    def in_views(self, file: Path, split: ImageSplit, augmentation: AugmentConfig) -> float:
        """The mean over all `autoprune.data.views` of the images, too."""
        shown = views(split.images, augmentation)
        return statistics.fmean(self(file, ImageSplit(images, split.labels)) for images in shown)


def file_outputs(file: Path, split: ImageSplit, info: DataInfo, runtime: Runtime) -> Tensor:
    """What the file puts out in `runtime` for the images of `split`, (N, ...)."""
    model = runtime.open_model(file, threads=torch.get_num_threads())
    outputs = []
    for start in range(0, len(split), SCORING_BATCH):
        images = normalise(split.images[start : start + SCORING_BATCH], info).contiguous().numpy()
        outputs.append(torch.from_numpy(np.asarray(model(images))))
    return torch.cat(outputs)


def timed_images(split: ImageSplit, info: DataInfo, config: MeasureConfig) -> np.ndarray[Any, Any]:
    """The batch (N, C, H, W) that files are timed on: the first images of `split`, normalised, over and over if there
    are too few."""
    places = torch.arange(config.batch_size) % len(split)
    return normalise(split.images[places], info).contiguous().numpy()


def timed_together(files: Sequence[Path], images: np.ndarray[Any, Any], config: MeasureConfig) -> list[Latency]:
    """All files on the same images (N, C, H, W), in turn."""
    return measure_interleaved(
        files,
        images,
        runtime=find_runtime(config.runtime),
        threads=config.threads,
        rounds=config.rounds,
        runs_per_round=config.runs_per_round,
    )


def compare_files(
    original: Path,
    pruned: Path,
    *,
    costs: tuple[PredictedCost, PredictedCost],
    latencies: tuple[Latency, Latency],
    test: ImageSplit,
    info: DataInfo,
    config: MeasureConfig,
    sensor: Sensor | None = None,
    task: Task = CLASSIFICATION,
) -> BeforeAndAfter:
    """Measure both files; `costs` gives MACs, parameters and the estimated energy of (original, pruned), `latencies`
    what their latency was measured to be.

    Energy is measured with `sensor`, and estimated without one.
    """
    runtime = find_runtime(config.runtime)
    images = timed_images(test, info, config)
    consumed = energies(
        [runtime.open_model(file, threads=config.threads).bind(images) for file in (original, pruned)],
        [cost.estimated_energy_mj for cost in costs],
        images_a_call=len(images),
        sensor=sensor,
    )
    judge = FileJudge(info, original, runtime, task)
    name, judged = judge.each(original, test)
    metric = MetricFigures(name=name, higher_is_better=judged.higher_is_better, is_share=judged.is_share)
    values = [judged.values, judge.each(pruned, test)[1].values]
    figures = [
        _figures(file, cost, latency, energy, mean_of(found), info, config, is_accuracy=task is CLASSIFICATION)
        for file, cost, latency, energy, found in zip(
            (original, pruned), costs, latencies, consumed, values, strict=True
        )
    ]
    before, after = (found.numpy() for found in values)
    change, change_ci95 = change_of(before, after)
    accuracy = AccuracyFigures(
        images=len(test),
        original_ci95=interval_of(before),
        pruned_ci95=interval_of(after),
        change=change,
        change_ci95=change_ci95,
    )
    return BeforeAndAfter(figures[0], figures[1], speedup(*latencies), accuracy, metric)


def target_met(target: TargetConfig, comparison: BeforeAndAfter, search: SearchFigures) -> bool:
    """Whether the pruned file's measured figure (of energy without a sensor: the estimate) is within the target.

    A target with `max_drop` is met by a file that costs less than the original's and whose model lost no more.
    """
    key = METRIC_KEYS[target.metric]
    before, after = float(getattr(comparison.original, key)), float(getattr(comparison.pruned, key))
    if target.max_drop is not None:
        return search.kept_trial is not None and search.kept_trial.accepted and after < before
    return after <= target.bound(before)


def run_result(
    comparison: BeforeAndAfter,
    *,
    parity_max_abs: float,
    flushed_subnormals: int,
    targets: tuple[TargetConfig, ...],
    search: SearchFigures,
    info: DataInfo,
    runtime: Runtime,
    narrowed: tuple[str, ...] = (),
) -> RunResult:
    """The contents of `result.json`."""
    before, after = comparison.original, comparison.pruned
    assert before.energy_mj is not None and after.energy_mj is not None
    assert before.latency_ms_quiet is not None and after.latency_ms_quiet is not None
    return RunResult(
        original=before,
        pruned=after,
        ratios=Ratios(
            params=after.params / before.params,
            macs=after.macs / before.macs,
            latency=after.latency_ms_p50 / before.latency_ms_p50,
            energy=after.energy_mj / before.energy_mj,
            speedup=comparison.speedup.ratio,
            speedup_ci95=comparison.speedup.ci95,
            speedup_quiet=before.latency_ms_quiet / after.latency_ms_quiet,
        ),
        checks=Checks(
            onnx_parity_max_abs=parity_max_abs,
            flushed_subnormals=flushed_subnormals,
            target_met=all(target_met(target, comparison, search) for target in targets),
            narrowed=narrowed,
        ),
        search=search,
        metric=comparison.metric,
        accuracy=comparison.accuracy,
        input=input_figures(info),
        environment=environment(runtime),
    )


def input_figures(info: DataInfo) -> InputFigures:
    return InputFigures(shape=info.input_shape, mean=info.mean, std=info.std, classes=info.classes)


def energies(
    calls: Sequence[Call], estimates_mj: Sequence[float], *, images_a_call: int, sensor: Sensor | None
) -> list[Energy]:
    """Measured above idle, all calls in turn; estimated without a sensor, or where it cannot tell work from idling."""
    estimated = [Energy(estimate_mj, "estimated") for estimate_mj in estimates_mj]
    if sensor is None:
        return estimated
    readings = compare_energy(calls, sensor, seconds=ENERGY_SECONDS, idle_seconds=ENERGY_SECONDS)
    if not all(reading.net_resolved for reading in readings):
        say(f"{sensor.name} cannot tell these models from idling: their energy is estimated")
        return estimated
    return [
        Energy(
            reading.net_mj / images_a_call,
            "measured",
            reading.sensor,
            (reading.net_ci95_mj[0] / images_a_call, reading.net_ci95_mj[1] / images_a_call),
        )
        for reading in readings
    ]


def _figures(
    file: Path,
    cost: PredictedCost,
    latency: Latency,
    energy: Energy,
    metric: float,
    info: DataInfo,
    config: MeasureConfig,
    *,
    is_accuracy: bool,
) -> Figures:
    return Figures(
        test_accuracy=metric if is_accuracy else None,
        test_metric=metric,
        params=cost.params,
        macs=cost.macs,
        latency_ms_p50=latency.latency_ms_p50,
        latency_ms_p95=latency.latency_ms_p95,
        latency_ms_quiet=latency.latency_ms_quiet,
        energy_mj=energy.mj,
        energy_source=energy.source,
        energy_sensor=energy.sensor,
        energy_mj_ci95=energy.ci95_mj,
        onnx_bytes=file.stat().st_size,
        peak_rss_bytes=measure_peak_rss_bytes(
            str(file), (config.batch_size, *info.input_shape), runtime=config.runtime, threads=config.threads
        ),
    )

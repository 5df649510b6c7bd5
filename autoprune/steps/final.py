"""The last step of a run: the exported files, original and pruned, scored on the test split and timed side by side."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoprune.config import AugmentConfig, TargetConfig
from autoprune.data import DataInfo, ImageSplit, normalise, views
from autoprune.export.onnx_file import check_parity
from autoprune.foundation.progress import say
from autoprune.measure.device import environment
from autoprune.measure.energy_measurement import compare_energy
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.latency import speedup
from autoprune.measure.matched import change_of, interval_of
from autoprune.measure.memory import measure_peak_rss_bytes
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
from autoprune.steps.context import Context
from autoprune.steps.met import timed_images
from autoprune.steps.narrowing import Measured
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import main_metric, mean_of, targets_of
from autoprune.tasks.task import PerExample, Task

SCORING_BATCH = 200
PARITY_IMAGES = 256
ENERGY_SECONDS = 2.0  # of load for each file, and of idling in all


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


def final_result(context: Context, search: SearchFigures, measured: Measured) -> RunResult:
    """The contents of `result.json`: the parity of the timed file is checked, and all else measured of both files.

    The test split is read here. Energy is measured with the context's sensor, and estimated without one.
    """
    config, subject, run_dir, problem = context.config, context.subject, context.run_dir, context.prepared.problem
    info, test, runtime = subject.data.info, subject.test, find_runtime(config.measure.runtime)
    flushed = measured.flushed_subnormals
    if flushed:
        say(f"{flushed} weights too small for a normal float32 (subnormal) were set to zero: they slow a CPU down")
    shown = normalise(subject.data.search.images[:PARITY_IMAGES], info)
    parity = check_parity(measured.model, run_dir.model_onnx, shown, runtime=runtime)
    files = (run_dir.original_onnx, run_dir.model_onnx)
    costs = (problem.original_cost, problem.cost_of(measured.policy))
    images = timed_images(test, info, config.measure)
    consumed = energies(
        [runtime.open_model(file, threads=config.measure.threads).bind(images) for file in files],
        [cost.estimated_energy_mj for cost in costs],
        images_a_call=len(images),
        sensor=context.sensor,
    )
    judge = FileJudge(info, run_dir.original_onnx, runtime, subject.task)
    (name, judged), (_, judged_pruned) = (judge.each(file, test) for file in files)
    values = (judged.values, judged_pruned.values)
    before, after = (
        Figures(
            test_accuracy=mean_of(found) if subject.task is CLASSIFICATION else None,
            test_metric=mean_of(found),
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
                str(file), images.shape, runtime=config.measure.runtime, threads=config.measure.threads
            ),
        )
        for file, cost, latency, energy, found in zip(
            files, costs, (measured.original, measured.pruned), consumed, values, strict=True
        )
    )
    faster = speedup(measured.original, measured.pruned)
    change, change_ci95 = change_of(values[0].numpy(), values[1].numpy())
    return RunResult(
        original=before,
        pruned=after,
        ratios=Ratios(
            params=after.params / before.params,
            macs=after.macs / before.macs,
            latency=after.latency_ms_p50 / before.latency_ms_p50,
            energy=consumed[1].mj / consumed[0].mj,
            speedup=faster.ratio,
            speedup_ci95=faster.ci95,
            speedup_quiet=measured.original.latency_ms_quiet / measured.pruned.latency_ms_quiet,
        ),
        checks=Checks(
            onnx_parity_max_abs=parity,
            flushed_subnormals=flushed,
            target_met=all(target_met(target, before, after, search) for target in config.target),
            narrowed=measured.narrowed,
        ),
        search=search,
        metric=MetricFigures(name=name, higher_is_better=judged.higher_is_better, is_share=judged.is_share),
        accuracy=AccuracyFigures(
            images=len(test),
            original_ci95=interval_of(values[0].numpy()),
            pruned_ci95=interval_of(values[1].numpy()),
            change=change,
            change_ci95=change_ci95,
        ),
        input=input_figures(info),
        environment=environment(runtime),
    )


def target_met(target: TargetConfig, original: Figures, pruned: Figures, search: SearchFigures) -> bool:
    """Whether the pruned file's measured figure (of energy without a sensor: the estimate) is within the target.

    A target with `max_drop` is met by a file that costs less than the original's and whose model lost no more.
    """
    before, after = original.of(target.metric), pruned.of(target.metric)
    if target.max_drop is not None:
        return search.kept_trial is not None and search.kept_trial.accepted and after < before
    return after <= target.bound(before)


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

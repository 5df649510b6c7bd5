"""The last step of a run: the exported files, original and pruned, scored on the test split and timed side by side."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from autoprune import __version__
from autoprune.config import MeasureConfig, TargetConfig
from autoprune.data import Augmentation, DataInfo, ImageSplit, normalise, views
from autoprune.foundation.progress import say
from autoprune.measure.device import cpu_name
from autoprune.measure.energy_measurement import compare_energy
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.latency import Latency, measure_interleaved, speedup
from autoprune.measure.matched import Right, accuracy_interval, change_of_accuracy
from autoprune.measure.memory import measure_peak_rss_bytes
from autoprune.measure.stats import PairedRatio
from autoprune.measure.timing import Call
from autoprune.results.run import AccuracyFigures, Checks, Figures, InputFigures, Ratios, RunResult, SearchFigures
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.onnxruntime import onnxruntime
from autoprune.runtimes.runtime import Runtime
from autoprune.search.problem import PredictedCost

SCORING_BATCH = 200
ENERGY_SECONDS = 2.0  # of load for each file, and of idling in all
METRIC_KEYS = {"latency": "latency_ms_p50", "energy": "energy_mj", "macs": "macs", "params": "params"}


@dataclass(frozen=True)
class Comparison:
    original: Figures
    pruned: Figures
    speedup: PairedRatio
    accuracy: AccuracyFigures | None = None


@dataclass(frozen=True)
class Energy:
    """Of one image, in millijoules."""

    mj: float
    source: Literal["measured", "estimated"]
    sensor: str | None = None
    ci95_mj: tuple[float, float] | None = None


def score_onnx(file: Path, split: ImageSplit, info: DataInfo, *, runtime: Runtime) -> float:
    """Share of `split` that the file classifies right."""
    return float(right_answers(file, split, info, runtime=runtime).mean())


def right_answers(file: Path, split: ImageSplit, info: DataInfo, *, runtime: Runtime) -> Right:
    """Which images of `split` (N,) the file classifies right."""
    model = runtime.open_model(file, threads=torch.get_num_threads())
    right = []
    for start in range(0, len(split), SCORING_BATCH):
        images = normalise(split.images[start : start + SCORING_BATCH], info).contiguous().numpy()
        right.append(model(images).argmax(1) == split.labels[start : start + SCORING_BATCH].numpy())
    return np.concatenate(right)


def score_in_views(
    file: Path, split: ImageSplit, augmentation: Augmentation, info: DataInfo, *, runtime: Runtime
) -> float:
    """The same share over all `autoprune.data.views` of the images."""
    shown = views(split.images, augmentation)
    return statistics.fmean(
        score_onnx(file, ImageSplit(images, split.labels), info, runtime=runtime) for images in shown
    )


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
) -> Comparison:
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
    right = [right_answers(file, test, info, runtime=runtime) for file in (original, pruned)]
    figures = [
        _figures(file, cost, latency, energy, float(answers.mean()), info, config)
        for file, cost, latency, energy, answers in zip(
            (original, pruned), costs, latencies, consumed, right, strict=True
        )
    ]
    change, change_ci95 = change_of_accuracy(*right)
    accuracy = AccuracyFigures(
        images=len(test),
        original_ci95=accuracy_interval(right[0]),
        pruned_ci95=accuracy_interval(right[1]),
        change=change,
        change_ci95=change_ci95,
    )
    return Comparison(figures[0], figures[1], speedup(*latencies), accuracy)


def target_met(target: TargetConfig, comparison: Comparison, search: SearchFigures) -> bool:
    """Whether the pruned file's measured figure (of energy without a sensor: the estimate) is within the target.

    A target with `max_drop` is met by a file that costs less than the original's and whose model lost no more.
    """
    key = METRIC_KEYS[target.metric]
    before, after = float(getattr(comparison.original, key)), float(getattr(comparison.pruned, key))
    if target.max_drop is not None:
        return search.kept_trial is not None and search.kept_trial.accepted and after < before
    return after <= target.bound(before)


def run_result(
    comparison: Comparison,
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
        accuracy=comparison.accuracy,
        input=input_figures(info),
        environment=environment(runtime),
    )


def input_figures(info: DataInfo) -> InputFigures:
    return InputFigures(shape=info.input_shape, mean=info.mean, std=info.std, classes=info.classes)


def environment(runtime: Runtime) -> dict[str, str]:
    """Versions and machine: what a figure depends on beside the model."""
    return {
        "autoprune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "runtime": f"{runtime.key}, {runtime.device}",
        "cpu": cpu_name(),
        "system": platform.platform(terse=True),
    }


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
    accuracy: float,
    info: DataInfo,
    config: MeasureConfig,
) -> Figures:
    return Figures(
        test_accuracy=accuracy,
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

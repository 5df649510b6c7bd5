"""Time model files against each other: interleaved, in sittings, with everything else that a user asks of a file (size,
load time, memory, subnormal weights, throughput by batch size).
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.bench.inputs import bind_and_run, only_input, random_inputs, resolve_shape
from autoprune.bench.result import BenchResult, FileResult, Machine, SweepPoint
from autoprune.compute.memory import memory_limited
from autoprune.errors import InputError
from autoprune.foundation import progress
from autoprune.measure.device import Device, this_device
from autoprune.measure.energy_measurement import EnergyReading, compare_energy
from autoprune.measure.energy_sensors import NoSensorError, Sensor, open_sensor
from autoprune.measure.memory import measure_peak_rss_bytes
from autoprune.measure.sittings import WARM_UP_S, time_in_sittings
from autoprune.measure.stats import BLOCKS, median_interval, paired_ratio, quiet_interval
from autoprune.measure.timing import NOISY_SHARE, Call, quiet_time, time_once_ms, time_rounds
from autoprune.measure.yardstick import yardstick
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.runtime import InputSpec, Runtime

Array = np.ndarray[Any, Any]

GPU_PROVIDERS = ("CUDA", "Tensorrt", "TensorRT")
DEFAULT_SECONDS = 5.0  # for each file
QUICK_SECONDS = 1.0
BURST_S = 0.004
LEAST_RUNS, MOST_RUNS = 5, 12  # calls of a burst: of several, one at least is not interrupted
LONGEST_BURST_S = 0.1  # for slow models there are fewer than LEAST_RUNS
SITTINGS = (6, 16)  # least and most
LOADING_SHARE = 0.3  # of the time, at most, unless there are the fewest sittings
LEAST_ROUNDS, MOST_ROUNDS = 2, 200  # of a sitting; even, because a round's order is turned round in the next one
SWEEP_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SWEEP_RUNS = 2
SWEEP_ROUNDS = (6, 400)


@dataclass(frozen=True)
class BenchSettings:
    """How to measure; `shape` is one image without the batch (None: the files say)."""

    backend: str = "onnxruntime"
    provider: str | None = None
    threads: int = 1
    batch_size: int = 1
    shape: tuple[int, ...] | None = None
    seconds: float = DEFAULT_SECONDS
    sweep: bool = False
    energy: bool = False


@dataclass(frozen=True)
class Subject:
    """A file that has been loaded and run once."""

    name: str
    source: str
    spec: InputSpec
    images: Array
    call: Call
    load_s: float


def device_of(settings: BenchSettings) -> Device:
    return this_device(runtime_of(settings), threads=settings.threads, batch_size=settings.batch_size)


def runtime_of(settings: BenchSettings) -> Runtime:
    """Raises `InputError` naming the option of what is not there."""
    return find_runtime(settings.backend, device=settings.provider, field="--backend", device_field="--provider")


def energy_sensor(settings: BenchSettings) -> Sensor | None:
    """The sensor of what the files run on, if energy is asked for. Raises `InputError` with the reason without one."""
    if not settings.energy:
        return None
    device = runtime_of(settings).device
    try:
        return open_sensor("cuda" if any(name in device for name in GPU_PROVIDERS) else "cpu")
    except NoSensorError as error:
        raise InputError(f"--energy: {error}") from None


def prepare(sources: Sequence[str], settings: BenchSettings) -> list[Subject]:
    """Load every file and run it once. Raises `InputError` naming the file, or the setting, and what does not fit."""
    runtime = runtime_of(settings)
    subjects = []
    for name, source in zip(unique_names(sources), sources, strict=True):
        started = time.perf_counter()
        with memory_limited():
            loaded = runtime.open_model(Path(source), threads=settings.threads)
        spec = only_input(source, loaded)
        shape = resolve_shape(source, spec, batch_size=settings.batch_size, shape=settings.shape)
        if settings.sweep and spec.dims[0] is not None:
            raise InputError(
                f"{source}: its batch is fixed at {spec.dims[0]}, so --sweep cannot change it; "
                "export it with a dynamic batch"
            )
        images = random_inputs(spec, shape)
        call = bind_and_run(source, loaded, images)
        subjects.append(Subject(name, source, spec, images, call, time.perf_counter() - started))
    return subjects


def measure(subjects: Sequence[Subject], settings: BenchSettings, sensor: Sensor | None = None) -> BenchResult:
    """Time the files in turn, and measure all else; energy if there is a `sensor`."""
    runtime = runtime_of(settings)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    sittings, rounds, runs = plan(
        load_s=sum(subject.load_s for subject in subjects),
        calls_s=[_call_s(subject.call) for subject in subjects],
        seconds=settings.seconds * len(subjects),
    )
    with progress.bar("timing", sittings) as bar:
        timed = time_in_sittings(
            # In the only sitting what is there is timed: loading takes too long to be done again.
            [_loading(runtime, subject, settings.threads, anew=sittings > 1) for subject in subjects],
            sittings=sittings,
            rounds=sittings * rounds,
            runs=runs,
            beside=[yardstick()],
            on_sitting=bar.advance,
        )
    load_ms = np.median(timed.load_ms, axis=0) if sittings > 1 else [subject.load_s * 1e3 for subject in subjects]
    blocks = sittings if sittings > 1 else BLOCKS
    *samples_ms, yardstick_ms = timed.samples_ms  # (rounds, runs) of each file, and of the yardstick
    sweep = _sweep(subjects, runtime, settings) if settings.sweep else None
    energies: Sequence[EnergyReading | None] = [None] * len(subjects)
    if sensor is not None:
        with progress.bar("measuring energy", 1):
            calls = [subject.call for subject in subjects]
            energies = compare_energy(calls, sensor, seconds=settings.seconds, idle_seconds=settings.seconds)
    files = []
    with progress.bar("measuring memory", len(subjects)) as bar:
        for index, subject in enumerate(subjects):
            peak = measure_peak_rss_bytes(
                subject.source, subject.images.shape,
                runtime=settings.backend, device=settings.provider, threads=settings.threads,
            )  # fmt: skip
            files.append(
                file_result(
                    subject,
                    samples_ms[index],
                    first_ms=samples_ms[0] if index else None,
                    blocks=blocks,
                    load_ms=float(load_ms[index]),
                    peak_rss_bytes=peak,
                    energy=energies[index],
                )
            )
            bar.advance()
    disturbed = float(np.mean([quiet_time(samples).disturbed_share for samples in samples_ms]))
    machine = machine_beside(disturbed, load_average, yardstick_ms, blocks=blocks)
    return BenchResult(settings.backend, device_of(settings), machine, tuple(files), sweep, tuple(samples_ms))


def file_result(
    subject: Subject,
    samples_ms: Array,
    *,
    first_ms: Array | None,
    blocks: int,
    load_ms: float,
    peak_rss_bytes: int,
    energy: EnergyReading | None,
) -> FileResult:
    """From samples (rounds, runs), the rounds in `blocks` contiguous sittings; `first_ms` are those of the first file,
    None for that one."""
    speedup = paired_ratio(first_ms, samples_ms, blocks=blocks) if first_ms is not None else None
    p50, p95 = (float(value) for value in np.percentile(samples_ms, [50, 95]))
    return FileResult(
        name=subject.name,
        path=subject.source,
        input_shape=subject.images.shape,
        calls=samples_ms.size,
        rounds=len(samples_ms),
        latency_ms_p50=p50,
        latency_ms_p50_ci95=median_interval(samples_ms, blocks=blocks),
        latency_ms_p95=p95,
        quiet_ms=quiet_time(samples_ms).quiet_ms,
        quiet_ms_ci95=quiet_interval(samples_ms, blocks=blocks),
        images_per_s=len(subject.images) / p50 * 1e3,
        speedup=speedup.ratio if speedup is not None else None,
        speedup_ci95=speedup.ci95 if speedup is not None else None,
        load_ms=load_ms,
        file_bytes=_size_bytes(Path(subject.source)),
        peak_rss_bytes=peak_rss_bytes,
        subnormal_weights=_subnormal_weights(subject.source),
        energy=energy,
    )


def machine_beside(
    disturbed_share: float, load_average_1min: float | None, yardstick_ms: Array, *, blocks: int
) -> Machine:
    return Machine(
        disturbed_share,
        load_average_1min,
        cpus=os.cpu_count() or 1,
        yardstick_quiet_ms=quiet_time(yardstick_ms).quiet_ms,
        yardstick_quiet_ms_ci95=quiet_interval(yardstick_ms, blocks=blocks),
        noisy=disturbed_share > NOISY_SHARE,
    )


def plan(*, load_s: float, calls_s: Sequence[float], seconds: float) -> tuple[int, int, int]:
    """Sittings, rounds of each and runs of a burst that fill `seconds`, or the fewest that make sense.

    `load_s` is the time to load all files once, `calls_s` that of one call of each.
    """
    least, most = SITTINGS
    if load_s * least > seconds:  # as when a model is compiled for half a minute
        sittings, loading_s = 1, 0.0
    else:
        sittings = max(least, min(most, int(LOADING_SHARE * seconds / max(load_s, 1e-9))))
        loading_s = load_s * sittings
    slowest_s = max(calls_s)
    runs = int(max(1, min(MOST_RUNS, max(LEAST_RUNS, BURST_S / slowest_s), LONGEST_BURST_S / slowest_s)))
    round_s = sum(calls_s) * (runs + 1)
    warming_s = WARM_UP_S * len(calls_s) * sittings
    pairs = int((seconds - loading_s - warming_s) / sittings / (2 * round_s))
    least_rounds, most_rounds = LEAST_ROUNDS, MOST_ROUNDS
    if sittings == 1:
        least_rounds, most_rounds = LEAST_ROUNDS * least, MOST_ROUNDS * most
    return sittings, max(least_rounds, min(most_rounds, 2 * pairs)), runs


def unique_names(sources: Sequence[str]) -> list[str]:
    """File names, or whole paths where different files share one; the same file again is `a.onnx (2)`."""
    paths = [Path(source) for source in sources]
    shared = {path.name for path in paths if len({str(other) for other in paths if other.name == path.name}) > 1}
    names: list[str] = []
    for path in paths:
        name = str(path) if path.name in shared else path.name
        seen = sum(other == path for other in paths[: len(names)])
        names.append(f"{name} ({seen + 1})" if seen else name)
    return names


def _loading(runtime: Runtime, subject: Subject, threads: int, *, anew: bool) -> Callable[[], Call]:
    if not anew:
        return lambda: subject.call
    return lambda: runtime.open_model(Path(subject.source), threads=threads).bind(subject.images)


def _sweep(subjects: Sequence[Subject], runtime: Runtime, settings: BenchSettings) -> tuple[SweepPoint, ...]:
    cells = []
    for subject in subjects:
        loaded = runtime.open_model(Path(subject.source), threads=settings.threads)
        for batch_size in SWEEP_BATCH_SIZES:
            image = subject.images.shape[1:]
            shape = resolve_shape(subject.source, subject.spec, batch_size=batch_size, shape=image)
            call = bind_and_run(subject.source, loaded, random_inputs(subject.spec, shape))
            cells.append((subject.name, batch_size, call))
    least, most = SWEEP_ROUNDS
    with progress.bar("batch sizes", most) as bar:
        samples_ms = time_rounds(
            [call for _, _, call in cells], rounds=most, runs=SWEEP_RUNS, rng=np.random.default_rng(0),
            limit_s=settings.seconds * len(subjects), least_rounds=least, on_round=bar.advance,
        )  # fmt: skip
        bar.advance(most - samples_ms.shape[1])
    points = []
    for (name, size, _), samples in zip(cells, samples_ms, strict=True):
        quiet_ms = quiet_time(samples).quiet_ms
        points.append(
            SweepPoint(name, size, float(np.median(samples)), quiet_ms, quiet_ms / size, size / quiet_ms * 1e3)
        )
    return tuple(points)


def _call_s(call: Call) -> float:
    return max(1e-6, float(np.median([time_once_ms(call) for _ in range(5)])) / 1e3)


def _size_bytes(path: Path) -> int | None:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None


def _subnormal_weights(source: str) -> int | None:
    if not Path(source).is_file():
        return None
    import onnx

    from autoprune.export.subnormals import count_subnormals

    return count_subnormals(onnx.load(source))

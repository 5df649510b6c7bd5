"""Time model files against each other: interleaved, loaded anew several times, with everything else that a user asks of
a file (size, load time, memory, subnormal weights, throughput by batch size).

One load of a file may run a little faster than the next for as long as it lives (where its memory happens to lie), so
the measurement is made of *sittings*: each loads all files anew, in random order, and times some rounds. The intervals
take a sitting as their unit and so contain that luck.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.bench.backends import Backend, InputSpec, Runner, find_backend
from autoprune.bench.inputs import bind_and_run, random_inputs, resolve_shape
from autoprune.bench.probe import measure_peak_rss_bytes
from autoprune.bench.stats import BLOCKS, quiet_interval
from autoprune.bench.yardstick import yardstick
from autoprune.foundation import progress
from autoprune.foundation.bounds import real_number, thread_count, whole_number
from autoprune.foundation.errors import InputError
from autoprune.measure.device import Device, this_device
from autoprune.measure.energy_measurement import EnergyReading, compare_energy
from autoprune.measure.energy_sensors import NoSensorError, Sensor, open_sensor
from autoprune.measure.memory_limit import memory_limited
from autoprune.measure.timing import NOISY_SHARE, Call, no_garbage_collection, quiet_time, time_once_ms

Array = np.ndarray[Any, Any]

GPU_PROVIDERS = ("CUDA", "Tensorrt", "TensorRT")
DEFAULT_SECONDS = 5.0  # for each file
QUICK_SECONDS = 1.0
MOST_SECONDS = 86_400.0
WARM_UP_S = 0.03  # in each sitting
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
class FileBench:
    """One file's measurement; samples_ms is (rounds, runs), its rounds in `blocks` contiguous sittings."""

    name: str
    source: str
    input_shape: tuple[int, ...]
    samples_ms: Array
    blocks: int
    load_ms: float  # median: until it is ready to run
    file_bytes: int | None  # None: a built-in architecture
    peak_rss_bytes: int
    subnormal_weights: int | None  # None: not a file of which they can be counted
    energy: EnergyReading | None = None  # of a call; None: not asked for


@dataclass(frozen=True)
class SweepPoint:
    name: str
    batch_size: int
    samples_ms: Array  # (rounds, runs), of a call on the whole batch


@dataclass(frozen=True)
class Machine:
    """What else went on while it was measured."""

    disturbed_share: float
    load_average_1min: float | None  # before the measurement, which adds to it; None: the system has none
    cpus: int
    yardstick_quiet_ms: float  # of `autoprune.bench.yardstick`, timed in the same rounds
    yardstick_quiet_ms_ci95: tuple[float, float]

    @property
    def noisy(self) -> bool:
        return self.disturbed_share > NOISY_SHARE


@dataclass(frozen=True)
class Bench:
    device: Device
    settings: BenchSettings
    files: tuple[FileBench, ...]
    sweep: tuple[SweepPoint, ...]
    machine: Machine


@dataclass(frozen=True)
class Subject:
    """A file that has been loaded and run once."""

    name: str
    source: str
    spec: InputSpec
    images: Array
    call: Call
    load_s: float


def bench(sources: Sequence[str], settings: BenchSettings) -> Bench:
    """Measure `sources`. Raises `InputError` before anything is timed if one cannot be measured so."""
    sensor = energy_sensor(settings)
    return measure(prepare(sources, settings), settings, sensor)


def device_of(settings: BenchSettings) -> Device:
    backend, provider = find_backend(settings.backend, settings.provider)
    device = this_device(threads=settings.threads, batch_size=settings.batch_size, provider=provider)
    return replace(device, runtime=backend.runtime())


def energy_sensor(settings: BenchSettings) -> Sensor | None:
    """The sensor of what the files run on, if energy is asked for. Raises `InputError` with the reason without one."""
    if not settings.energy:
        return None
    _, provider = find_backend(settings.backend, settings.provider)
    try:
        return open_sensor("cuda" if any(name in provider for name in GPU_PROVIDERS) else "cpu")
    except NoSensorError as error:
        raise InputError(f"--energy: {error}") from None


def prepare(sources: Sequence[str], settings: BenchSettings) -> list[Subject]:
    """Load every file and run it once. Raises `InputError` naming the file, or the setting, and what does not fit."""
    _check_settings(settings)
    backend, provider = find_backend(settings.backend, settings.provider)
    subjects = []
    for name, source in zip(unique_names(sources), sources, strict=True):
        started = time.perf_counter()
        with memory_limited():
            runner = backend.open_model(source, threads=settings.threads, provider=provider)
        shape = resolve_shape(source, runner.input, batch_size=settings.batch_size, shape=settings.shape)
        if settings.sweep and runner.input.dims[0] is not None:
            raise InputError(
                f"{source}: its batch is fixed at {runner.input.dims[0]}, so --sweep cannot change it; "
                "export it with a dynamic batch"
            )
        images = random_inputs(runner.input, shape)
        call = bind_and_run(source, runner, images)
        subjects.append(Subject(name, source, runner.input, images, call, time.perf_counter() - started))
    return subjects


def measure(subjects: Sequence[Subject], settings: BenchSettings, sensor: Sensor | None = None) -> Bench:
    """Time the files in turn, and measure all else; energy if there is a `sensor`."""
    backend, provider = find_backend(settings.backend, settings.provider)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    sittings, rounds, runs = plan(
        load_s=sum(subject.load_s for subject in subjects),
        calls_s=[_call_s(subject.call) for subject in subjects],
        seconds=settings.seconds * len(subjects),
    )
    rng = np.random.default_rng(0)
    parts, loads_ms = [], []
    with progress.bar("timing", sittings) as bar:
        for _ in range(sittings):
            if sittings == 1:  # loading takes too long to be done again
                calls, load_ms = [subject.call for subject in subjects], [subject.load_s * 1e3 for subject in subjects]
            else:
                calls, load_ms = _load_anew(subjects, backend, settings.threads, provider, rng)
            calls = [*calls, yardstick()]
            warm_up(calls)
            parts.append(time_rounds(calls, rounds=rounds, runs=runs, rng=rng))
            loads_ms.append(load_ms)
            bar.advance()
    blocks = sittings if sittings > 1 else BLOCKS
    *samples_ms, yardstick_ms = np.concatenate(parts, axis=1)  # (rounds, runs) of each file, and of the yardstick
    sweep = _sweep(subjects, backend, provider, settings, rng) if settings.sweep else ()
    energies: Sequence[EnergyReading | None] = [None] * len(subjects)
    if sensor is not None:
        with progress.bar("measuring energy", 1):
            calls = [subject.call for subject in subjects]
            energies = compare_energy(calls, sensor, seconds=settings.seconds, idle_seconds=settings.seconds)
    files = []
    with progress.bar("measuring memory", len(subjects)) as bar:
        for index, subject in enumerate(subjects):
            peak = measure_peak_rss_bytes(
                subject.source, subject.spec, subject.images.shape,
                backend=settings.backend, provider=provider, threads=settings.threads,
            )  # fmt: skip
            files.append(
                FileBench(
                    name=subject.name,
                    source=subject.source,
                    input_shape=subject.images.shape,
                    samples_ms=samples_ms[index],
                    blocks=blocks,
                    load_ms=float(np.median([row[index] for row in loads_ms])),
                    file_bytes=_size_bytes(Path(subject.source)),
                    peak_rss_bytes=peak,
                    subnormal_weights=_subnormal_weights(subject.source),
                    energy=energies[index],
                )
            )
            bar.advance()
    disturbed = float(np.mean([quiet_time(samples).disturbed_share for samples in samples_ms]))
    machine = Machine(
        disturbed_share=disturbed,
        load_average_1min=load_average,
        cpus=os.cpu_count() or 1,
        yardstick_quiet_ms=quiet_time(yardstick_ms).quiet_ms,
        yardstick_quiet_ms_ci95=quiet_interval(yardstick_ms, blocks=blocks),
    )
    return Bench(device_of(settings), settings, tuple(files), sweep, machine)


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


def time_rounds(
    calls: Sequence[Call],
    *,
    rounds: int,
    runs: int,
    rng: np.random.Generator,
    limit_s: float | None = None,
    least_rounds: int = 0,
    on_round: Callable[[], None] | None = None,
) -> Array:
    """Milliseconds (calls, rounds, runs): a burst of each in turn, in random order, turned round in the next round.

    Each call then comes as often early as late and after each other one, and keeps in step with no neighbour's rhythm.
    Stops early after `limit_s`, with at least `least_rounds`.
    """
    samples_ms = np.empty((len(calls), rounds, runs))
    started = time.perf_counter()
    order = np.arange(len(calls))
    with no_garbage_collection():
        for index in range(rounds):
            order = rng.permutation(len(calls)) if index % 2 == 0 else order[::-1]
            for which in order:
                call = calls[int(which)]
                call()  # brings the weights back into the cache
                for run in range(runs):
                    samples_ms[which, index, run] = time_once_ms(call)
            if on_round is not None:
                on_round()
            if limit_s is not None and index + 1 >= least_rounds and time.perf_counter() - started > limit_s:
                return samples_ms[:, : index + 1]
    return samples_ms


def warm_up(calls: Sequence[Call]) -> None:
    for call in calls:
        deadline = time.perf_counter() + WARM_UP_S
        while time.perf_counter() < deadline:
            call()


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


def _check_settings(settings: BenchSettings) -> None:
    thread_count("--threads", settings.threads)
    whole_number("--batch", settings.batch_size, least=1)
    real_number("--seconds", settings.seconds, least=0, most=MOST_SECONDS, above_least=True)


def _load_anew(
    subjects: Sequence[Subject], backend: Backend, threads: int, provider: str, rng: np.random.Generator
) -> tuple[list[Call], list[float]]:
    calls: list[Call] = [subject.call for subject in subjects]
    load_ms = [0.0] * len(subjects)
    for index in rng.permutation(len(subjects)):
        subject = subjects[index]
        started = time.perf_counter()
        calls[index] = backend.open_model(subject.source, threads=threads, provider=provider).bind(subject.images)
        load_ms[index] = (time.perf_counter() - started) * 1e3
    return calls, load_ms


def _sweep(
    subjects: Sequence[Subject], backend: Backend, provider: str, settings: BenchSettings, rng: np.random.Generator
) -> tuple[SweepPoint, ...]:
    cells = []
    for subject in subjects:
        runner: Runner = backend.open_model(subject.source, threads=settings.threads, provider=provider)
        for batch_size in SWEEP_BATCH_SIZES:
            images = random_inputs(subject.spec, (batch_size, *subject.images.shape[1:]))
            cells.append((subject.name, batch_size, bind_and_run(subject.source, runner, images)))
    least, most = SWEEP_ROUNDS
    with progress.bar("batch sizes", most) as bar:
        samples_ms = time_rounds(
            [call for _, _, call in cells], rounds=most, runs=SWEEP_RUNS, rng=rng,
            limit_s=settings.seconds * len(subjects), least_rounds=least, on_round=bar.advance,
        )  # fmt: skip
        bar.advance(most - samples_ms.shape[1])
    return tuple(SweepPoint(name, size, samples) for (name, size, _), samples in zip(cells, samples_ms, strict=True))


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

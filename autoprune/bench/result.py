"""The figures of a measurement, and the JSON that `autoprune bench --json` and `--save` write.

```
{"schema": 1, "kind": "bench", "backend": "onnxruntime",
 "device":   {"cpu", "instruction_sets", "runtime", "provider", "threads", "batch_size", "precision"},
 "machine":  {"disturbed_share": 0..1, "noisy", "load_average_1min" | null, "cpus",
              "yardstick_quiet_ms", "yardstick_quiet_ms_ci95": [low, high]},
 "files":    [{"name", "path", "input_shape": [batch, ...], "calls", "rounds",
               "latency_ms_p50", "latency_ms_p50_ci95": [low, high], "latency_ms_p95", "quiet_ms", "quiet_ms_ci95",
               "images_per_s", "speedup" | null, "speedup_ci95" | null, "load_ms", "file_bytes" | null,
               "peak_rss_bytes", "subnormal_weights" | null,
               "energy": null | {"sensor", "energy_source": "measured", "net_mj", "net_ci95_mj", "gross_mj", ...}}],
 "sweep":    null | [{"name", "batch_size", "latency_ms_p50", "quiet_ms", "ms_per_image", "images_per_s"}],
 "warnings": [text],
 "against":  null | {"path", "machine_ratio", "machine_ratio_ci95", "allowed_ratio", "not_saved": [name],
               "changes": [{"name", "slower", "quiet_ms", "saved_quiet_ms", "quiet_ratio", "quiet_ratio_ci95",
                            "latency_ms_p50", "saved_latency_ms_p50", "latency_ratio", "latency_ratio_ci95"}]}}
```

p50 and p95 are over all calls; `quiet_ms` is the time of a call that nothing disturbed. A file's throughput follows
from p50, that of the sweep from quiet times. Energies are of a call, `net_mj` above the idle power of the device.
`speedup` is against the first file, which has none. `against` ratios are today's time by the saved one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autoprune.bench.measurement import Bench, FileBench, Machine
from autoprune.measure.energy_measurement import EnergyReading
from autoprune.measure.stats import median_interval, paired_ratio, quiet_interval
from autoprune.measure.timing import quiet_time

SCHEMA = 1
KIND = "bench"
Interval = tuple[float, float]


@dataclass(frozen=True)
class FileResult:
    """One file's line of the results; `path` is as the user gave it."""

    name: str
    path: str
    input_shape: tuple[int, ...]
    calls: int
    rounds: int
    latency_ms_p50: float
    latency_ms_p50_ci95: Interval
    latency_ms_p95: float
    quiet_ms: float
    quiet_ms_ci95: Interval
    images_per_s: float
    speedup: float | None
    speedup_ci95: Interval | None
    load_ms: float
    file_bytes: int | None
    peak_rss_bytes: int
    subnormal_weights: int | None
    energy: EnergyReading | None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "energy": self.energy.as_json() if self.energy is not None else None}


@dataclass(frozen=True)
class BenchResult:
    """All figures of a measurement."""

    bench: Bench
    files: tuple[FileResult, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Of schema 1, without `against`."""
        machine = self.bench.machine
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "backend": self.bench.settings.backend,
            "device": self.bench.device.as_json(),
            "machine": {**asdict(machine), "noisy": machine.noisy},
            "files": [file.as_json() for file in self.files],
            "sweep": [asdict(point) for point in self.bench.sweep] or None,
            "warnings": list(self.warnings),
            "against": None,
        }


def results(bench: Bench) -> BenchResult:
    files = tuple(_file_result(file, bench.files[0], bench.settings.batch_size) for file in bench.files)
    return BenchResult(bench, files, tuple(_warnings(bench.machine, files)))


def _file_result(file: FileBench, first: FileBench, batch_size: int) -> FileResult:
    samples_ms = file.samples_ms
    speedup = paired_ratio(first.samples_ms, samples_ms, blocks=first.blocks) if file is not first else None
    p50, p95 = (float(value) for value in np.percentile(samples_ms, [50, 95]))
    return FileResult(
        name=file.name,
        path=file.source,
        input_shape=file.input_shape,
        calls=samples_ms.size,
        rounds=len(samples_ms),
        latency_ms_p50=p50,
        latency_ms_p50_ci95=median_interval(samples_ms, blocks=file.blocks),
        latency_ms_p95=p95,
        quiet_ms=quiet_time(samples_ms).quiet_ms,
        quiet_ms_ci95=quiet_interval(samples_ms, blocks=file.blocks),
        images_per_s=batch_size / p50 * 1e3,
        speedup=speedup.ratio if speedup is not None else None,
        speedup_ci95=speedup.ci95 if speedup is not None else None,
        load_ms=file.load_ms,
        file_bytes=file.file_bytes,
        peak_rss_bytes=file.peak_rss_bytes,
        subnormal_weights=file.subnormal_weights,
        energy=file.energy,
    )


def _warnings(machine: Machine, files: Sequence[FileResult]) -> Iterator[str]:
    if machine.noisy:
        average = machine.load_average_1min
        busy = f", load average {average:.1f} on {machine.cpus} CPUs" if average else ""
        yield (
            f"the machine is noisy: {machine.disturbed_share:.0%} of the calls were disturbed{busy}; "
            "p50 and p95 also measure its neighbours; the speed-up and its interval allow for them"
        )
    for file in files:
        if file.subnormal_weights:
            yield (
                f"{file.name}: {file.subnormal_weights} subnormal weights, which can slow it several times where "
                "denormals are not set to zero (here they are); export the model again with autoprune, which sets such "
                "weights to zero"
            )
        if file.energy is not None and not file.energy.net_resolved:
            yield f"{file.name}: {file.energy.sensor} cannot tell it from idling; measure for longer (--seconds)"

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
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from autoprune.foundation.bounds import LARGEST_WHOLE
from autoprune.measure.device import Device
from autoprune.measure.energy_measurement import EnergyReading

SCHEMA = 1
KIND = "bench"
Interval = tuple[float, float]
# What is said of types here holds for what is read.
Figure = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Ends = tuple[Figure, Figure]
Size = Annotated[int, Field(gt=0, le=LARGEST_WHOLE, strict=True)]


@dataclass(frozen=True)
class FileResult:
    """One file's line of the results; `path` is as the user gave it."""

    name: str
    path: str
    input_shape: tuple[Size, ...]
    calls: int
    rounds: int
    latency_ms_p50: Figure
    latency_ms_p50_ci95: Ends
    latency_ms_p95: float
    quiet_ms: Figure
    quiet_ms_ci95: Ends
    images_per_s: float
    speedup: float | None
    speedup_ci95: Interval | None
    load_ms: float  # median: until it is ready to run
    file_bytes: int | None  # None: a built-in architecture
    peak_rss_bytes: int
    subnormal_weights: int | None  # None: not a file of which they can be counted
    energy: EnergyReading | None = None  # of a call; None: not asked for


@dataclass(frozen=True)
class SweepPoint:
    """Throughput of a file at one batch size, from the quiet time: neighbours interrupt long calls more often."""

    name: str
    batch_size: int
    latency_ms_p50: float  # of a call on the whole batch
    quiet_ms: float
    ms_per_image: float
    images_per_s: float


@dataclass(frozen=True)
class Machine:
    """What else went on while it was measured."""

    disturbed_share: float
    load_average_1min: float | None  # before the measurement, which adds to it; None: the system has none
    cpus: int
    yardstick_quiet_ms: Figure  # of `autoprune.measure.yardstick`, timed in the same rounds
    yardstick_quiet_ms_ci95: Ends
    noisy: bool


def _in_intervals(read: Any) -> Any:
    """Raises `ValueError` for a figure that does not lie in its interval."""
    for name, figure in vars(read).items():
        if (interval := getattr(read, f"{name}_ci95", None)) and not interval[0] <= figure <= interval[1]:
            raise ValueError(f"{name} {figure} is not in its interval {interval[0]} to {interval[1]}")
    return read


@dataclass(frozen=True)
class BenchResult:
    """All figures of a measurement."""

    backend: str
    device: Device
    machine: Annotated[Machine, AfterValidator(_in_intervals)]
    files: Annotated[tuple[Annotated[FileResult, AfterValidator(_in_intervals)], ...], Field(min_length=1)]
    sweep: tuple[SweepPoint, ...] | None = None  # None: not asked for
    samples_ms: tuple[Any, ...] = ()  # (rounds, runs) of each file; not kept
    path: Path | None = None  # where it was kept; None: measured now

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(_warnings(self.machine, self.files))

    def as_json(self) -> dict[str, Any]:
        """Of schema 1, without `against`."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "backend": self.backend,
            "device": asdict(self.device),
            "machine": asdict(self.machine),
            "files": [asdict(file) for file in self.files],
            "sweep": [asdict(point) for point in self.sweep] if self.sweep else None,
            "warnings": list(self.warnings),
            "against": None,
        }


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

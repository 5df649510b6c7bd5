"""Today's measurement against a saved one: is a file slower than it was?

Two runs of one file on one machine at different times differ by more than each run's interval shows: clock speed,
temperature, neighbours. So a file counts as slower only if both hold:

* its *quiet time*, which neighbours move least: the interval of today's by the saved one lies above 1 + DRIFT (or
  NOISY_DRIFT, if one of the runs was on a noisy machine), times the machine's own slowdown, if there is one. That is
  the upper end of the same ratio for the yardstick, a fixed piece of arithmetic timed in the same rounds.
* its *median*: the interval of the ratio lies above 1. On a noisy machine it need not, for there medians measure the
  neighbours.

Ratios combine the intervals of the two runs, which are independent, on the logarithmic scale. What needs a sharper eye
is better measured side by side: `autoprune bench OLD.onnx NEW.onnx`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoprune.bench.measurement import Subject
from autoprune.bench.result import KIND, SCHEMA, BenchResult, FileResult, Interval
from autoprune.errors import InputError, cut
from autoprune.foundation.files import read_json
from autoprune.measure.device import Device

DRIFT = 0.02  # of the quiet time between two runs of one file, beyond what a run's own interval shows
NOISY_DRIFT = 0.1  # the same where hardly any call was undisturbed: seen here between runs a minute apart: up to 8%
# What makes times incomparable; another version of the runtime is often the very thing to be compared.
COMPARED = ("cpu", "instruction_sets", "provider", "threads", "batch_size", "precision")
RESULT = TypeAdapter(BenchResult)


@dataclass(frozen=True)
class Change:
    """A file's times today by its saved ones (above 1: slower today)."""

    name: str
    slower: bool
    quiet_ms: float
    saved_quiet_ms: float
    quiet_ratio: float
    quiet_ratio_ci95: Interval
    latency_ms_p50: float
    saved_latency_ms_p50: float
    latency_ratio: float
    latency_ratio_ci95: Interval


def read_saved(path: Path) -> BenchResult:
    """What `autoprune bench --save` wrote. Raises `InputError` naming the file and what is wrong with it."""
    raw = read_json(path)
    if isinstance(raw, dict) and (raw.get("kind"), raw.get("schema")) != (KIND, SCHEMA):
        kind, schema = (cut(str(raw.get(key))) for key in ("kind", "schema"))
        raise InputError(f"{path}: is {kind} of schema {schema}; this version reads {KIND} of {SCHEMA}")
    try:
        return replace(RESULT.validate_python(raw), path=path)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: not a result of `autoprune bench --save` ({key}: {first['msg']})") from None


def check_comparable(saved: BenchResult, *, backend: str, device: Device, subjects: Sequence[Subject]) -> None:
    """Raise `InputError` naming what differs between today's measurement and the saved one."""
    compared = [("backend", saved.backend, backend)]
    compared += [(key, getattr(saved.device, key), getattr(device, key)) for key in COMPARED]
    for key, then, now in compared:
        if then != now:
            raise InputError(f"{saved.path}: saved with another {key} ({_shown(then)}, now {_shown(now)})")
    files = {file.name: file for file in saved.files}
    matched = [subject for subject in subjects if subject.name in files]
    if not matched:
        raise InputError(
            f"{saved.path}: none of the files is in it; it has {', '.join(files)}, "
            f"now there are {', '.join(subject.name for subject in subjects)}"
        )
    for subject in matched:
        before, shape = files[subject.name].input_shape, subject.images.shape
        if before != shape:
            raise InputError(f"{saved.path}: {subject.name} was saved with inputs {before}, now {shape}")


@dataclass(frozen=True)
class BenchComparison:
    """All files that are in both runs, in today's order, and how much slower the machine itself is."""

    changes: tuple[Change, ...]
    not_saved: tuple[str, ...]
    machine_ratio: float
    machine_ratio_ci95: Interval
    allowed_ratio: float  # quiet times may differ by this much

    @property
    def slower(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.slower)


def compare(saved: BenchResult, result: BenchResult) -> BenchComparison:
    now, then = result.machine, saved.machine
    ratio, ratio_ci95 = ratio_of_intervals(
        now.yardstick_quiet_ms, now.yardstick_quiet_ms_ci95, then.yardstick_quiet_ms, then.yardstick_quiet_ms_ci95
    )
    noisy = now.noisy or then.noisy
    files = {file.name: file for file in saved.files}
    allowed = (1 + (NOISY_DRIFT if noisy else DRIFT)) * max(1.0, ratio_ci95[1])
    changes = tuple(
        judge(file, files[file.name], allowed_ratio=allowed, noisy=noisy) for file in result.files if file.name in files
    )
    not_saved = tuple(file.name for file in result.files if file.name not in files)
    return BenchComparison(changes, not_saved, ratio, ratio_ci95, allowed)


def against_json(saved: BenchResult, comparison: BenchComparison) -> dict[str, Any]:
    return {"path": str(saved.path), **asdict(comparison)}


def describe(change: Change, comparison: BenchComparison, saved: BenchResult) -> str:
    """One line with both figures, then and now."""
    verdict = "slower than" if change.slower else "not slower than"
    machine = (
        f"; the machine itself {_ratio(comparison.machine_ratio, comparison.machine_ratio_ci95)}"
        if comparison.machine_ratio_ci95[0] > 1
        else ""
    )
    return (
        f"{change.name}: {verdict} in {saved.path}: "
        f"quiet {change.quiet_ms:.4g} ms, was {change.saved_quiet_ms:.4g} "
        f"({_ratio(change.quiet_ratio, change.quiet_ratio_ci95)}; up to {comparison.allowed_ratio:.3f}× is drift"
        f"{machine}), p50 {change.latency_ms_p50:.4g} ms, was {change.saved_latency_ms_p50:.4g} "
        f"({_ratio(change.latency_ratio, change.latency_ratio_ci95)})"
    )


def judge(now: FileResult, before: FileResult, *, allowed_ratio: float, noisy: bool) -> Change:
    """The rule above, for one file."""
    quiet, quiet_ci95 = ratio_of_intervals(now.quiet_ms, now.quiet_ms_ci95, before.quiet_ms, before.quiet_ms_ci95)
    median, median_ci95 = ratio_of_intervals(
        now.latency_ms_p50, now.latency_ms_p50_ci95, before.latency_ms_p50, before.latency_ms_p50_ci95
    )
    return Change(
        name=now.name,
        slower=quiet_ci95[0] > allowed_ratio and (noisy or median_ci95[0] > 1),
        quiet_ms=now.quiet_ms,
        saved_quiet_ms=before.quiet_ms,
        quiet_ratio=quiet,
        quiet_ratio_ci95=quiet_ci95,
        latency_ms_p50=now.latency_ms_p50,
        saved_latency_ms_p50=before.latency_ms_p50,
        latency_ratio=median,
        latency_ratio_ci95=median_ci95,
    )


def ratio_of_intervals(now: float, now_ci95: Interval, before: float, before_ci95: Interval) -> tuple[float, Interval]:
    """`now / before` of two independent figures; each side's distances add up as squares, in logarithms."""
    ratio = now / before
    down = math.hypot(math.log(now / now_ci95[0]), math.log(before_ci95[1] / before))
    up = math.hypot(math.log(now_ci95[1] / now), math.log(before / before_ci95[0]))
    return ratio, (ratio * math.exp(-down), ratio * math.exp(up))


def _ratio(ratio: float, interval: Interval) -> str:
    return f"{ratio:.3f}×, {interval[0]:.3f}–{interval[1]:.3f}"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

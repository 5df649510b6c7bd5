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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprune.bench.measurement import Subject
from autoprune.bench.result import KIND, SCHEMA, BenchResult, FileResult, Interval
from autoprune.errors import InputError
from autoprune.foundation.bounds import LONGEST_SHOWN, real_number
from autoprune.foundation.files import read_json
from autoprune.measure.device import Device

DRIFT = 0.02  # of the quiet time between two runs of one file, beyond what a run's own interval shows
NOISY_DRIFT = 0.1  # the same where hardly any call was undisturbed: seen here between runs a minute apart: up to 8%
# What makes times incomparable; another version of the runtime is often the very thing to be compared.
COMPARED = ("cpu", "instruction_sets", "provider", "threads", "batch_size", "precision")


@dataclass(frozen=True)
class SavedFile:
    name: str
    input_shape: tuple[int, ...]
    latency_ms_p50: float
    latency_ms_p50_ci95: Interval
    quiet_ms: float
    quiet_ms_ci95: Interval


@dataclass(frozen=True)
class SavedBench:
    path: Path
    backend: str
    device: dict[str, Any]
    noisy: bool
    yardstick_ms: float
    yardstick_ms_ci95: Interval
    files: dict[str, SavedFile]


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


def read_saved(path: Path) -> SavedBench:
    """What `autoprune bench --save` wrote. Raises `InputError` naming the file and what is wrong with it."""
    raw = read_json(path)
    try:
        kind, schema = (str(raw[key])[:LONGEST_SHOWN] for key in ("kind", "schema"))
        if (raw["kind"], raw["schema"]) != (KIND, SCHEMA):
            raise InputError(f"{path}: is {kind} of schema {schema}; this version reads {KIND} of {SCHEMA}")
        files = [_saved_file(file) for file in raw["files"]]
        device = dict(raw["device"])
        missing = [key for key in COMPARED if key not in device]
        if missing or not files:
            raise KeyError(missing[0] if missing else "files")
        return SavedBench(
            path,
            str(raw["backend"]),
            device,
            bool(raw["machine"]["noisy"]),
            *_figure(raw["machine"], "yardstick_quiet_ms"),
            {file.name: file for file in files},
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: not a result of `autoprune bench --save` ({error!r})") from None


def check_comparable(saved: SavedBench, *, backend: str, device: Device, subjects: Sequence[Subject]) -> None:
    """Raise `InputError` naming what differs between today's measurement and the saved one."""
    today = {"backend": backend, **{key: device.as_json()[key] for key in COMPARED}}
    then = {"backend": saved.backend, **{key: saved.device[key] for key in COMPARED}}
    for key, value in today.items():
        if then[key] != value:
            raise InputError(f"{saved.path}: saved with another {key} ({_shown(then[key])}, now {_shown(value)})")
    matched = [subject for subject in subjects if subject.name in saved.files]
    if not matched:
        raise InputError(
            f"{saved.path}: none of the files is in it; it has {', '.join(saved.files)}, "
            f"now there are {', '.join(subject.name for subject in subjects)}"
        )
    for subject in matched:
        before, now = saved.files[subject.name].input_shape, subject.images.shape
        if before != now:
            raise InputError(f"{saved.path}: {subject.name} was saved with inputs {before}, now {now}")


@dataclass(frozen=True)
class Comparison:
    """All files that are in both runs, in today's order, and how much slower the machine itself is."""

    changes: tuple[Change, ...]
    not_saved: tuple[str, ...]
    machine_ratio: float
    machine_ratio_ci95: Interval
    allowed_ratio: float  # quiet times may differ by this much

    @property
    def slower(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.slower)


def compare(saved: SavedBench, result: BenchResult) -> Comparison:
    machine = result.bench.machine
    ratio, ratio_ci95 = ratio_of_intervals(
        machine.yardstick_quiet_ms, machine.yardstick_quiet_ms_ci95, saved.yardstick_ms, saved.yardstick_ms_ci95
    )
    noisy = saved.noisy or machine.noisy
    allowed = (1 + (NOISY_DRIFT if noisy else DRIFT)) * max(1.0, ratio_ci95[1])
    changes = tuple(
        judge(file, saved.files[file.name], allowed_ratio=allowed, noisy=noisy)
        for file in result.files
        if file.name in saved.files
    )
    not_saved = tuple(file.name for file in result.files if file.name not in saved.files)
    return Comparison(changes, not_saved, ratio, ratio_ci95, allowed)


def against_json(saved: SavedBench, comparison: Comparison) -> dict[str, Any]:
    return {"path": str(saved.path), **asdict(comparison)}


def describe(change: Change, comparison: Comparison, saved: SavedBench) -> str:
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


def judge(now: FileResult, before: SavedFile, *, allowed_ratio: float, noisy: bool) -> Change:
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


def _saved_file(raw: dict[str, Any]) -> SavedFile:
    return SavedFile(
        str(raw["name"]),
        tuple(int(_positive("input_shape", size)) for size in raw["input_shape"]),
        *_figure(raw, "latency_ms_p50"),
        *_figure(raw, "quiet_ms"),
    )


def _positive(name: str, value: object) -> float:
    """Raises `ValueError` as the other readers here do."""
    try:
        return real_number(name, value, least=0, most=math.inf, above_least=True)
    except InputError as error:
        raise ValueError(str(error)) from None


def _figure(raw: dict[str, Any], key: str) -> tuple[float, Interval]:
    value, (low, high) = _positive(key, raw[key]), [_positive(f"{key}_ci95", end) for end in raw[f"{key}_ci95"]]
    if not low <= value <= high:
        raise ValueError(f"{key} {value} is not in its interval {low} to {high}")
    return value, (low, high)


def _ratio(ratio: float, interval: Interval) -> str:
    return f"{ratio:.3f}×, {interval[0]:.3f}–{interval[1]:.3f}"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

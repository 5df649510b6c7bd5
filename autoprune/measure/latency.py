"""Measured latency in ONNX Runtime: files interleaved in one process, medians, and an interval for the speed-up."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.foundation.errors import InputError, RunError
from autoprune.measure.device import CPU_PROVIDER
from autoprune.measure.timing import QUIET_PERCENTILE, Call, QuietTime, time_bursts, time_until_quiet
from autoprune.runtimes.onnx_runtime import onnxruntime

WARM_UP_S = 0.1
QUIET_LIMIT_S = 0.7  # for each file, on a machine that is never quiet
BOOTSTRAP_SAMPLES = 2000
RSS_PROBE = Path(__file__).with_name("rss_probe.py")
RSS_PROBE_TIMEOUT_S = 120


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one call: p50 and p95 over all the timed calls of all rounds, and of an undisturbed call."""

    latency_ms_p50: float
    latency_ms_p95: float
    round_medians_ms: tuple[float, ...]
    latency_ms_quiet: float


@dataclass(frozen=True)
class Speedup:
    """How many times faster than the reference, with a 95% interval bootstrapped over paired rounds."""

    speedup: float
    ci95: tuple[float, float]


def make_session(
    model: Path | bytes, *, threads: int, provider: str = CPU_PROVIDER, gives_way: bool = False
) -> onnxruntime.InferenceSession:
    """A session with denormals set to zero. Raises `InputError` if the file is missing or no ONNX model.

    Between calls its threads wait for the next one busily, unless it `gives_way` to other work on the same cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1" if gives_way else "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        name = "model" if isinstance(model, bytes) else model
        raise InputError(f"{name}: ONNX Runtime cannot load it ({error})") from None


def session_call(session: onnxruntime.InferenceSession, images: np.ndarray[Any, Any]) -> Call:
    """Run `session` on `images` (N, C, H, W) when called."""
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


def measure_interleaved(
    files: Sequence[Path], images: np.ndarray[Any, Any], *, threads: int, rounds: int, runs_per_round: int
) -> list[Latency]:
    """Time all `files` on the same images (N, C, H, W), a short burst of each in turn, `rounds` times.

    Slow spells of the machine then fall on all alike. The order within a round alternates.
    """
    calls = [session_call(make_session(file, threads=threads), images) for file in files]
    for call in calls:
        deadline = time.perf_counter() + WARM_UP_S
        while time.perf_counter() < deadline:
            call()
    samples_ms = time_bursts(calls, rounds=rounds, runs_per_round=runs_per_round)
    quiet_ms = undisturbed_ms(samples_ms, time_until_quiet(calls, limit_s=QUIET_LIMIT_S * len(calls)))
    return [
        Latency(
            float(np.median(samples)),
            float(np.percentile(samples, 95)),
            tuple(np.median(samples, axis=1).tolist()),
            undisturbed,
        )
        for samples, undisturbed in zip(samples_ms, quiet_ms, strict=True)
    ]


def undisturbed_ms(samples_ms: np.ndarray[Any, Any], quiet: Sequence[QuietTime]) -> list[float]:
    """What an undisturbed call of each file takes, from samples (files, rounds, runs) and the times found after them.

    If those came out slower than the samples' medians, or did not settle, the machine was busier than before. The
    fast end of the samples then stands in, for all files alike, so that their ratios still compare like with like.
    """
    medians = np.median(samples_ms, axis=(1, 2))
    if all(found.settled and found.quiet_ms <= median for found, median in zip(quiet, medians, strict=True)):
        return [found.quiet_ms for found in quiet]
    return [float(value) for value in np.percentile(samples_ms, QUIET_PERCENTILE, axis=(1, 2))]


def paired_speedup(reference: Latency, candidate: Latency, *, seed: int = 0) -> Speedup:
    """Ratio of the medians of all calls; the interval resamples medians of rounds, two halves of a round together.

    It is widened to hold the ratio, which on a machine of two speeds can lie outside.
    """
    before, after = np.array(reference.round_medians_ms), np.array(candidate.round_medians_ms)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(before), (BOOTSTRAP_SAMPLES, len(before)))
    ratios = np.median(before[chosen], axis=1) / np.median(after[chosen], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    speedup = reference.latency_ms_p50 / candidate.latency_ms_p50
    return Speedup(speedup, (min(float(low), speedup), max(float(high), speedup)))


def peak_rss_bytes(file: Path, input_shape: tuple[int, ...], *, threads: int) -> int:
    """Peak resident memory of a fresh process that loads `file` in ONNX Runtime and runs it a few times.

    Raises `RunError` if that process fails.
    """
    request = json.dumps({"file": str(file), "shape": list(input_shape), "threads": threads})
    command = [sys.executable, "-I", str(RSS_PROBE), request]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=RSS_PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{file}: measuring its memory took longer than {RSS_PROBE_TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RunError(f"{file}: measuring its memory failed ({reason})")
    return int(done.stdout)

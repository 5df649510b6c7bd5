"""How often a run's interval of the speed-up holds what `autoprune bench` finds of the same files later.

    python benchmarks/speedup_interval.py runs/demo/export

Times `original.onnx` and `model.onnx` of the folder as the last measurement of a run does, then runs the bench command
ten times, with the other core as it happens to be and, with `--busy`, loaded by a process that computes all the time.
Prints the interval, its half-width and what each bench found; exits 1 if fewer than nine of ten lie within.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from check_bench_coverage import benched, busy_core

from autoprune.config import MeasureConfig
from autoprune.measure.latency import speedup
from autoprune.measure.stats import PairedRatio
from autoprune.steps.met import timed_together

LEAST_SHARE = 9 / 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="a run's folder of exported files")
    parser.add_argument("--runs", type=int, default=10, help="of the bench command")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each file of a bench")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--busy", action="store_true", help="load the other core while the bench runs")
    arguments = parser.parse_args()
    files = [arguments.export / name for name in ("original.onnx", "model.onnx")]
    started = time.perf_counter()
    found = as_a_run_measures(files, MeasureConfig(runtime=arguments.runtime))
    low, high = found.ci95
    print(
        f"run: {found.ratio:.3f}x, 95% interval {low:.3f}-{high:.3f} (half-width {math.log(high / low) / 2:.2%}), "
        f"{found.blocks} sittings, {time.perf_counter() - started:.1f} s, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    within = 0
    with busy_core() if arguments.busy else contextlib.nullcontext():
        for number in range(1, arguments.runs + 1):
            later, interval = benched(*files, seconds=arguments.seconds, backend=arguments.runtime)
            within += low <= later <= high
            print(
                f"bench {number}: {later:.3f}x ({interval[0]:.3f}-{interval[1]:.3f}), load {os.getloadavg()[0]:.1f}"
                f"{'' if low <= later <= high else ' OUTSIDE'}",
                flush=True,
            )
    print(f"within the run's interval: {within}/{arguments.runs}")
    sys.exit(0 if within >= LEAST_SHARE * arguments.runs else 1)


def as_a_run_measures(files: list[Path], config: MeasureConfig) -> PairedRatio:
    sizes = [dim.dim_value for dim in onnx.load(files[0]).graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).standard_normal((config.batch_size, *sizes[1:]), dtype=np.float32)
    return speedup(*timed_together(files, images, config))


if __name__ == "__main__":
    main()

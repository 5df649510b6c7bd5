"""How often `autoprune bench` is right about two files: one file against itself, and against one with 10% more work.

    python benchmarks/check_bench_coverage.py --runs 20 --seconds 2

Runs the command on each pair with the other core idle and loaded. Prints how many of the speed-up's intervals contain
1.00 and how many tell the larger file apart; exits 1 if fewer than 19 of 20 do.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx

INFO = DataInfo("made up", ("a", "b"), 1, 28, 28, mean=(0.0,), std=(1.0,))
CHANNELS, LAYERS = 32, 10  # one layer more is 10% more work
LEAST_SHARE = 19 / 20
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # no longer than this script is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file of a run")
    parser.add_argument(
        "--first", type=Path, help="another file than the built-in network, for the runs against itself"
    )
    arguments = parser.parse_args()
    enough = math.ceil(LEAST_SHARE * arguments.runs)
    with tempfile.TemporaryDirectory() as folder:
        small, large = (write_network(Path(folder) / f"{layers}.onnx", layers) for layers in (LAYERS, LAYERS + 1))
        first = arguments.first or small
        all_well = True
        for label, loaded in (("other core idle", False), ("other core loaded", True)):
            with busy_core() if loaded else contextlib.nullcontext():
                same = [benched(first, first, seconds=arguments.seconds)[1] for _ in range(arguments.runs)]
                more = [benched(large, small, seconds=arguments.seconds)[1] for _ in range(arguments.runs)]
            contains = sum(low <= 1 <= high for low, high in same)
            apart = sum(low > 1 for low, high in more)
            all_well &= contains >= enough and apart >= enough
            for what, count, intervals in (
                ("against itself, containing 1.00", contains, same),
                ("against 10% more work, told apart", apart, more),
            ):
                print(f"{label}: {what}: {count}/{arguments.runs}, half-width ±{half_width(intervals):.2%}", flush=True)
    sys.exit(0 if all_well else 1)


def write_network(path: Path, layers: int) -> Path:
    body: list[nn.Module] = [nn.Conv2d(1, CHANNELS, 3, padding=1), nn.ReLU()]
    for _ in range(layers):
        body += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, len(INFO.classes))]
    export_onnx(nn.Sequential(*body, *head), path, INFO)
    return path


def benched(
    first: Path, second: Path, *, seconds: float, backend: str = "onnxruntime"
) -> tuple[float, tuple[float, float]]:
    """How many times faster the second file is than the first, and the 95% interval, as the command finds it."""
    command = [sys.executable, "-m", "autoprune.cli", "bench", str(first), str(second), "--backend", backend]
    command += ["--seconds", str(seconds), "--json", "-", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    file = json.loads(done.stdout)["files"][1]
    return file["speedup"], tuple(file["speedup_ci95"])


def half_width(intervals: list[tuple[float, float]]) -> float:
    """Of the middling interval, as a share of its centre."""
    return statistics.median(math.log(high / low) / 2 for low, high in intervals)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that computes all the time, as a neighbour would."""
    neighbour = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


if __name__ == "__main__":
    main()

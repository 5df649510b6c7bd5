"""A picture of a measurement: the share of calls by the time they took, and throughput by batch size."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autoprune.bench.result import BenchResult, SweepPoint
from autoprune.foundation.files import atomic_path

SHOWN_PERCENTILE = 99  # the few slowest calls would squeeze the rest together
COLOURS = ("#2563b0", "#c2571a", "#2f8f4e", "#8a4fb0", "#666666")
WIDTH_IN, HEIGHT_IN = 6.4, 3.6
STYLE: Any = {
    "svg.hashsalt": "autoprune",
    "text.parse_math": False,  # names are data; a dollar sign is a dollar sign
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def write_plot(result: BenchResult, path: Path) -> None:
    """Draw `result` as PNG or SVG, by the file's ending."""
    with rc_context(STYLE):
        panels = 2 if result.sweep else 1
        figure = Figure(figsize=(WIDTH_IN * panels, HEIGHT_IN), layout="constrained")
        _calls(figure.add_subplot(1, panels, 1), result)
        if result.sweep:
            _throughput(figure.add_subplot(1, panels, 2), result.sweep)
        kind = path.suffix.lower().removeprefix(".")
        # Equal results make equal files.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)


def _calls(axes: Axes, result: BenchResult) -> None:
    longest = 0.0
    for samples_ms, file, colour in zip(result.samples_ms, result.files, cycle(COLOURS), strict=False):
        times_ms = np.sort(samples_ms, axis=None)
        longest = max(longest, float(np.percentile(times_ms, SHOWN_PERCENTILE)))
        axes.plot(times_ms, np.arange(1, len(times_ms) + 1) / len(times_ms), color=colour, label=file.name)
        axes.axvline(file.quiet_ms, color=colour, linestyle=":", linewidth=1)
    axes.set(xlim=(None, longest), ylim=(0, 1))
    axes.set(xlabel="time of a call (ms); dotted: undisturbed", ylabel="share of calls as fast or faster")
    axes.legend(loc="lower right")


def _throughput(axes: Axes, sweep: Sequence[SweepPoint]) -> None:
    names = list(dict.fromkeys(point.name for point in sweep))
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        points = [point for point in sweep if point.name == name]
        sizes = [point.batch_size for point in points]
        axes.plot(sizes, [point.images_per_s for point in points], "o-", color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(ylim=(0, None), xlabel="batch size", ylabel="images/s, undisturbed")
    axes.legend(loc="best")

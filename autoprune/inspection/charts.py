"""The staircase of a group and the check of predicted latency, as pictures: inside a page, in a file, in a terminal."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autoprune.foundation.files import atomic_path
from autoprune.inspection.facts import Staircase
from autoprune.prediction.latency_validation import LatencyValidation
from autoprune.reports.drawing import COLOURS, STYLE, as_svg, new_axes, shorten

DOTS_PER_INCH = 160
BAR_CHARACTERS = 48
# What stands on its own has no page to take its colours from: those of a light page.
ON_WHITE = {
    "ink": "#16191f",
    "muted": "#5b6472",
    "grid": "#dfe3e9",
    "faint": "#e6eaf0",
    "accent": "#2f6fde",
    "best": "#d9560b",
    "surface": "#ffffff",
}

Draw = Callable[[Axes, Mapping[str, str]], None]


def write_staircase(staircase: Staircase, path: Path) -> None:
    """The staircase as PNG or SVG, as the name of `path` says; the file is whole or absent."""
    figure = _figure(partial(_draw_staircase, staircase), ON_WHITE)
    figure.suptitle(f"Group {shorten(staircase.group)}", x=0.02, ha="left", fontsize=10)
    kind = path.suffix.lower()[1:]
    with atomic_path(path) as temporary, rc_context(STYLE):
        figure.savefig(
            temporary,
            format=kind,
            dpi=DOTS_PER_INCH,
            facecolor=ON_WHITE["surface"],
            metadata={"Date": None} if kind == "svg" else None,
        )


def staircase_svg(staircase: Staircase) -> str:
    """The staircase as an element of a page that defines the colours."""
    description = f"Time by width of group {staircase.group}: {len(staircase.points)} widths"
    return _element(partial(_draw_staircase, staircase), name="staircase", description=description)


def validation_svg(validation: LatencyValidation) -> str:
    """Predicted against measured latency as an element of a page that defines the colours."""
    description = f"Predicted against measured latency of {validation.n} policies"
    return _element(partial(_draw_validation, validation), name="validation", description=description)


def staircase_lines(staircase: Staircase) -> list[str]:
    """The staircase as text, a line for each width from the widest down; `*` marks the rungs."""
    most_ms = max(ms for _, ms in staircase.points) or 1.0  # all zero: less than can be measured
    digits = len(str(staircase.channels))
    return [
        f"{width:>{digits}} {'*' if width in staircase.rungs else ' '} {ms:.4f} ms "
        f"{'#' * max(1, round(BAR_CHARACTERS * ms / most_ms))}"
        for width, ms in reversed(staircase.points)
    ]


def _figure(draw: Draw, colours: Mapping[str, str]) -> Figure:
    chosen = {COLOURS[name]: colour for name, colour in colours.items()}
    with rc_context({key: chosen.get(value, value) for key, value in STYLE.items()}):
        figure, axes = new_axes()
        draw(axes, colours)
        axes.ticklabel_format(useOffset=False)
        figure.legend(loc="outside upper right", ncols=3, handletextpad=0.4, columnspacing=1.4)
    return figure


def _element(draw: Draw, *, name: str, description: str) -> str:
    with rc_context(STYLE):
        return as_svg(_figure(draw, COLOURS), name=name, description=description)


def _draw_staircase(staircase: Staircase, axes: Axes, colours: Mapping[str, str]) -> None:
    widths, times_ms = zip(*staircase.points, strict=True)
    axes.plot(widths, times_ms, "-", color=colours["muted"], linewidth=0.9)
    axes.plot(widths, times_ms, "o", color=colours["accent"], markersize=2.8, label="width")
    rungs = [(width, ms) for width, ms in staircase.points if width in staircase.rungs]
    axes.plot(*zip(*rungs, strict=True), "D", color=colours["best"], markersize=6, label="rung of the ladder")
    axes.set(xlabel="channels kept", ylabel="time of the layers it touches (ms)")
    axes.set(xlim=(0, staircase.channels * 1.03), ylim=(0, max(times_ms) * 1.08))


def _draw_validation(validation: LatencyValidation, axes: Axes, colours: Mapping[str, str]) -> None:
    predicted_ms, measured_ms = zip(*validation.points, strict=True)
    ends = (min(*predicted_ms, *measured_ms) * 0.96, max(*predicted_ms, *measured_ms) * 1.04)
    axes.plot(ends, ends, "-", color=colours["muted"], linewidth=0.9, label="equal")
    axes.plot(predicted_ms, measured_ms, "o", color=colours["accent"], markersize=4.2, label="random policy")
    axes.set(xlabel="predicted latency (ms)", ylabel="measured latency of the file (ms)", xlim=ends, ylim=ends)

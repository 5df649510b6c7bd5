"""Charts of a report, as SVG text to stand inside an HTML page that defines the colours.

Figures are made without pyplot, so that nothing global is left behind. Colours are written as CSS variables
(`--ink`, `--accent`, ...), so that one picture serves light and dark pages. Equal data give equal text.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH_IN = 5.2
HEIGHT_IN = 3.1
BAR_PITCH_IN = 0.25
MAX_LABEL_CHARACTERS = 30

# matplotlib wants real colours: each of these stands for a CSS variable until the SVG is written.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "faint": "#040404",
    "accent": "#050505",
    "best": "#060606",
    "series3": "#070707",
    "series4": "#080808",
    "series5": "#090909",
    "surface": "#0a0a0a",
}
SERIES = ("accent", "best", "series3", "series4", "series5")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and drawn in the page's font
    "svg.hashsalt": "autoprune",
    "text.parse_math": False,  # names are data; a dollar sign is a dollar sign
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
    "legend.fontsize": 8,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class GroupWidths:
    """Channels of a prunable group, kept and before; `ladder` holds the widths that the search chose from."""

    name: str
    kept: int
    of: int
    ladder: tuple[int, ...] = ()

    @property
    def keep_ratio(self) -> float:
        return self.kept / self.of


@dataclass(frozen=True)
class Series:
    """A value for each episode, and the value that counts as the best after each episode."""

    label: str
    values: tuple[float, ...]
    best: tuple[float, ...]


def keep_chart(groups: Sequence[GroupWidths]) -> str:
    """One bar per group: the share of its channels that is kept, labelled "kept / before"; ticks mark the ladder."""
    with rc_context(STYLE):
        figure, axes = _figure(height_in=0.55 + BAR_PITCH_IN * len(groups))
        rows = range(len(groups))
        axes.barh(rows, [1.0] * len(groups), height=0.62, color=COLOURS["faint"])
        axes.barh(rows, [group.keep_ratio for group in groups], height=0.62, color=COLOURS["accent"])
        rungs = [(width / group.of, row) for row, group in zip(rows, groups, strict=True) for width in group.ladder]
        if rungs:
            axes.plot(*zip(*rungs, strict=True), "|", color=COLOURS["muted"], markersize=7, markeredgewidth=0.6)
        for row, group in zip(rows, groups, strict=True):
            axes.text(1.02, row, f"{group.kept} / {group.of}", va="center", fontsize=8, color=COLOURS["ink"])
        axes.set_yticks(rows, [shorten(group.name) for group in groups], color=COLOURS["ink"])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlim(0, 1.18)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("channels kept")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, name="keep", description=f"Share of channels kept in each of {len(groups)} groups")


def episode_chart(series: Sequence[Series], *, name: str, ylabel: str, best_label: str) -> str:
    """Dots for the episodes and a line for the best so far, for each series."""
    with rc_context(STYLE):
        figure, axes = _figure()
        only = len(series) == 1
        for one, colour in zip(series, cycle(SERIES), strict=False):
            episodes = range(1, len(one.values) + 1)
            line_colour = COLOURS["best" if only else colour]
            axes.plot(episodes, one.values, "o", color=COLOURS[colour], markersize=3.4, alpha=0.7, markeredgewidth=0)
            axes.plot([], [], "o", color=COLOURS[colour], markersize=4, label="episode" if only else one.label)
            axes.plot(
                episodes,
                one.best,
                drawstyle="steps-post",
                marker="." if len(one.values) == 1 else "",
                color=line_colour,
                linewidth=1.6,
                label=best_label if only else None,
            )
        _label(axes, "episode", ylabel)
        _legend(figure)
        return _svg(figure, name=name, description=f"{ylabel} by episode, with the best so far")


def scatter_chart(points: Sequence[tuple[float, float]], chosen: tuple[float, float] | None) -> str:
    """Trials as (predicted latency in ms, top-1 in %); `chosen` is marked."""
    with rc_context(STYLE):
        figure, axes = _figure()
        latencies, accuracies = zip(*points, strict=True)
        axes.plot(
            latencies,
            accuracies,
            "o",
            color=COLOURS["accent"],
            markersize=4.2,
            alpha=0.7,
            markeredgewidth=0.4,
            markeredgecolor=COLOURS["surface"],
            label="trial",
        )
        if chosen is not None:
            axes.plot(
                *chosen,
                marker="*",
                linestyle="",
                color=COLOURS["best"],
                markersize=13,
                markeredgecolor=COLOURS["surface"],
                label="chosen policy",
            )
        _label(axes, "predicted latency (ms)", "top-1 on the search split (%)")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        _legend(figure)
        return _svg(figure, name="trials", description=f"Top-1 against predicted latency of {len(points)} trials")


def epoch_chart(values: Sequence[float], *, name: str, ylabel: str) -> str:
    """A value after each epoch of fine-tuning, counted on when fine-tuning comes in several rounds."""
    with rc_context(STYLE):
        figure, axes = _figure(height_in=2.5)
        axes.plot(range(1, len(values) + 1), values, "o-", color=COLOURS["accent"], markersize=3.5, linewidth=1.6)
        _label(axes, "epoch", ylabel)
        return _svg(figure, name=name, description=f"{ylabel} by epoch of fine-tuning")


def shorten(name: str) -> str:
    """`name` for a chart: printable, with the middle left out when it is long (ends tell layers apart)."""
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if len(printable) <= MAX_LABEL_CHARACTERS:
        return printable
    head = MAX_LABEL_CHARACTERS // 2
    return f"{printable[:head]}…{printable[head + 1 - MAX_LABEL_CHARACTERS :]}"


def _figure(height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    return figure, axes


def _label(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.ticklabel_format(useOffset=False)
    if xlabel in ("episode", "epoch"):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.08)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.4)


def _svg(figure: Figure, *, name: str, description: str) -> str:
    """`figure` as an `<svg>` element that scales with the page; `name` makes its ids unique there."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", description)
    for element in root.iter():
        element.attrib.update({key: _rewrite(key, value, name) for key, value in element.attrib.items()})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    return _with_variables(value, COLOURS.items()) if key == "style" else value


def _with_variables(style: str, colours: Iterable[tuple[str, str]]) -> str:
    for variable, colour in colours:
        style = style.replace(colour, f"var(--{variable})")
    return style

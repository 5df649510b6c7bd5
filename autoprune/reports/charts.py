"""The charts of a run's report, as SVG text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from autoprune.reports.drawing import COLOURS, SERIES, STYLE, add_legend, as_svg, label_axes, new_axes, shorten

BAR_PITCH_IN = 0.25


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
        figure, axes = new_axes(height_in=0.55 + BAR_PITCH_IN * len(groups))
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
        return as_svg(figure, name="keep", description=f"Share of channels kept in each of {len(groups)} groups")


def episode_chart(series: Sequence[Series], *, name: str, ylabel: str, best_label: str) -> str:
    """Dots for the episodes and a line for the best so far, for each series."""
    with rc_context(STYLE):
        figure, axes = new_axes()
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
        label_axes(axes, "episode", ylabel)
        add_legend(figure)
        return as_svg(figure, name=name, description=f"{ylabel} by episode, with the best so far")


def scatter_chart(points: Sequence[tuple[float, float]], chosen: tuple[float, float] | None) -> str:
    """Trials as (predicted latency in ms, top-1 in %); `chosen` is marked."""
    with rc_context(STYLE):
        figure, axes = new_axes()
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
        label_axes(axes, "predicted latency (ms)", "top-1 on the search split (%)")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        add_legend(figure)
        return as_svg(figure, name="trials", description=f"Top-1 against predicted latency of {len(points)} trials")


def epoch_chart(values: Sequence[float], *, name: str, ylabel: str) -> str:
    """A value after each epoch of fine-tuning, counted on when fine-tuning comes in several rounds."""
    with rc_context(STYLE):
        figure, axes = new_axes(height_in=2.5)
        axes.plot(range(1, len(values) + 1), values, "o-", color=COLOURS["accent"], markersize=3.5, linewidth=1.6)
        label_axes(axes, "epoch", ylabel)
        return as_svg(figure, name=name, description=f"{ylabel} by epoch of fine-tuning")

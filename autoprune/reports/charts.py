"""The charts of a run's report, as SVG text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle

from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from autoprune.reports.drawing import COLOURS, SERIES, STYLE, add_legend, as_svg, label_axes, new_axes, shorten
from autoprune.store.trials import EpisodeRow

BAR_PITCH_IN = 0.25
SEARCH_COLOURS = [colour for colour in SERIES if colour != "best"]  # that of the best so far, and of the chosen one


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


def keep_chart(groups: Sequence[GroupWidths]) -> str:
    """One bar per group: the share of its channels that is kept, labelled "kept / before"; ticks mark the ladder.

    A group of which nothing is kept lived in a branch that is gone, and is labelled so.
    """
    with rc_context(STYLE):
        figure, axes = new_axes(height_in=0.55 + BAR_PITCH_IN * len(groups))
        rows = range(len(groups))
        axes.barh(rows, [1.0] * len(groups), height=0.62, color=COLOURS["faint"])
        axes.barh(rows, [group.keep_ratio for group in groups], height=0.62, color=COLOURS["accent"])
        rungs = [(width / group.of, row) for row, group in zip(rows, groups, strict=True) for width in group.ladder]
        if rungs:
            axes.plot(*zip(*rungs, strict=True), "|", color=COLOURS["ink"], markersize=7, markeredgewidth=0.8, zorder=3)
        for row, group in zip(rows, groups, strict=True):
            text = f"{group.kept} / {group.of}" if group.kept else "gone"
            axes.text(1.02, row, text, va="center", fontsize=8, color=COLOURS["ink"])
        axes.set_yticks(rows, [shorten(group.name) for group in groups], color=COLOURS["ink"])
        axes.set(xlim=(0, 1.18), ylim=(len(groups) - 0.5, -0.5), xlabel="channels kept")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        return as_svg(figure, name="keep", description=f"Share of channels kept in each of {len(groups)} groups")


def episode_chart(
    searches: Mapping[str, Sequence[EpisodeRow]],
    value: Callable[[EpisodeRow], float],
    *,
    name: str,
    ylabel: str,
    best_label: str,
) -> str:
    """Dots for the value of each episode, and a line for that of the best reward so far, for each search."""
    with rc_context(STYLE):
        figure, axes = new_axes()
        only = len(searches) == 1
        for (label, rows), colour in zip(searches.items(), cycle(SEARCH_COLOURS), strict=False):
            episodes = range(1, len(rows) + 1)
            best = accumulate(rows, _better)
            line_colour = COLOURS["best" if only else colour]
            values = [value(row) for row in rows]
            axes.plot(episodes, values, "o", color=COLOURS[colour], markersize=3.4, alpha=0.7, markeredgewidth=0)
            axes.plot([], [], "o", color=COLOURS[colour], markersize=4, label="episode" if only else label)
            axes.plot(
                episodes,
                [value(row) for row in best],
                drawstyle="steps-post",
                marker="." if len(rows) == 1 else "",
                color=line_colour,
                linewidth=1.6,
                label=best_label if only else None,
            )
        label_axes(axes, "episode", ylabel)
        add_legend(figure)
        return as_svg(figure, name=name, description=f"{ylabel} by episode, with the best so far")


def scatter_chart(
    searches: Mapping[str, Sequence[tuple[float, float]]],
    *,
    chosen: tuple[float, float] | None,
    original: tuple[float, float] | None,
    ylabel: str,
) -> str:
    """The trials of each search as (predicted latency in ms, metric); `chosen` and the `original` are marked."""
    with rc_context(STYLE):
        figure, axes = new_axes()
        for (label, points), colour in zip(searches.items(), cycle(SEARCH_COLOURS), strict=False):
            latencies, accuracies = zip(*points, strict=True)
            axes.plot(
                latencies,
                accuracies,
                "o",
                color=COLOURS[colour],
                markersize=4.2,
                alpha=0.7,
                markeredgewidth=0.4,
                markeredgecolor=COLOURS["surface"],
                label="trial" if len(searches) == 1 else label,
            )
        marks = (("chosen policy", chosen, "*", "best", 13), ("original", original, "D", "ink", 6))
        for label, point, marker, colour, size in marks:
            if point is not None:
                axes.plot(
                    *point,
                    marker=marker,
                    linestyle="",
                    color=COLOURS[colour],
                    markersize=size,
                    markeredgecolor=COLOURS["surface"],
                    label=label,
                )
        label_axes(axes, "predicted latency (ms)", ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        add_legend(figure)
        count = sum(map(len, searches.values()))
        return as_svg(figure, name="trials", description=f"{ylabel} against predicted latency of {count} trials")


def epoch_chart(
    values: Sequence[float], *, name: str, ylabel: str, before: float | None = None, original: float | None = None
) -> str:
    """A value after each epoch of fine-tuning, counted on when fine-tuning comes in several rounds.

    `before` is that of the cut before the first epoch, `original` that of the model before it was cut.
    """
    known = list(values) if before is None else [before, *values]
    with rc_context(STYLE):
        figure, axes = new_axes(height_in=2.5)
        epochs = range(len(values) + 1 - len(known), len(values) + 1)
        axes.plot(epochs, known, "o-", color=COLOURS["accent"], markersize=3.5, linewidth=1.6, label="pruned")
        if original is not None:
            axes.axhline(original, color=COLOURS["ink"], linewidth=1.1, linestyle="--", label="original")
            add_legend(figure)
        label_axes(axes, "epoch", ylabel)
        return as_svg(figure, name=name, description=f"{ylabel} by epoch of fine-tuning")


def _better(best: EpisodeRow, row: EpisodeRow) -> EpisodeRow:
    return row if row.reward > best.reward else best

"""A comparison of searchers for people: a table for the terminal, and one page that needs nothing else."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from rich.console import Group
from rich.table import Table

from autoprune.foundation.terminal import titled
from autoprune.reports.drawing import COLOURS, SERIES, STYLE, add_legend, as_svg, label_axes, new_axes
from autoprune.reports.pages import write_page
from autoprune.results.comparison import Comparison, Progress, Search, Spread

TEMPLATE = "comparison.html.j2"
POINTS = 200  # at which the curves of several seeds are read off
LINES = ("-", "--", ":")  # one after the other, when there are more searchers than colours

COLUMNS = (
    "searcher",
    "test split, tuned",
    "search split, views",
    "times as fast",
    "best reward",
    "at equal time",
    "evals",
    "search (s)",
)


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells of `COLUMNS` for each searcher, the best first."""
    return [
        (
            standing.searcher,
            _spread(standing.test_accuracy, unit="%", scale=100),
            _spread(standing.search_views_accuracy, unit="%", scale=100),
            _spread(standing.speedup, unit="×"),
            _spread(standing.best_reward, digits=3),
            _spread(standing.reward_at_equal_time, digits=3),
            str(standing.evaluations),
            f"{standing.wall_s.mean:.1f}",
        )
        for standing in comparison.standings
    ]


def table(comparison: Comparison) -> Group:
    """For the terminal."""
    made = Table()
    for number, column in enumerate(COLUMNS):
        is_name = number == 0  # which stays whole in a narrow terminal
        made.add_column(column, justify="left" if is_name else "right", no_wrap=is_name, overflow="fold")
    for cells in rows(comparison):
        made.add_row(*cells)
    return titled(f"{_seeds(comparison)} seeds, target {comparison.target}", made)


def write_comparison_page(comparison: Comparison, path: Path) -> None:
    """The page, written to `path`."""
    write_page(
        path,
        TEMPLATE,
        {
            "comparison": comparison,
            "seeds": _seeds(comparison),
            "columns": COLUMNS,
            "rows": rows(comparison),
            "by_evaluations": Markup(
                curves_svg(
                    comparison.searches, lambda step: float(step.evaluations), name="evaluations", xlabel="evaluations"
                )
            ),
            "by_time": Markup(
                curves_svg(comparison.searches, lambda step: step.elapsed_s, name="time", xlabel="seconds of searching")
            ),
        },
    )


def curves_svg(searches: Sequence[Search], position: Callable[[Progress], float], *, name: str, xlabel: str) -> str:
    """The best reward so far, the mean over seeds with the band from the worst to the best, for each searcher."""
    with rc_context(STYLE):
        figure, axes = new_axes()
        names = list(dict.fromkeys(search.searcher for search in searches))
        floor = min(search.best_reward for search in searches)
        for number, (searcher, colour) in enumerate(zip(names, cycle(SERIES), strict=False)):
            own = [search for search in searches if search.searcher == searcher]
            start = max(position(search.curve[0]) for search in own)
            stop = max(position(search.curve[-1]) for search in own)
            places = np.linspace(start, stop, POINTS)
            values = np.array([[_best_at(search, position, place) for place in places] for search in own])
            line = LINES[number // len(SERIES) % len(LINES)]
            axes.plot(places, values.mean(0), line, color=COLOURS[colour], linewidth=1.6, label=searcher)
            axes.fill_between(places, values.min(0), values.max(0), color=COLOURS[colour], alpha=0.12, linewidth=0)
        best = max(search.best_reward for search in searches)
        axes.set_ylim(floor - 0.6 * (best - floor) - 1e-9, best + 0.1 * (best - floor) + 1e-9)
        label_axes(axes, xlabel, "best reward so far")
        add_legend(figure)
        return as_svg(figure, name=name, description=f"Best reward so far by {xlabel}, for {', '.join(names)}")


def _best_at(search: Search, position: Callable[[Progress], float], place: float) -> float:
    return [step.best_reward for step in search.curve if position(step) <= place + 1e-9][-1]


def _spread(spread: Spread | None, *, unit: str = "", scale: float = 1.0, digits: int = 2) -> str:
    if spread is None:
        return "–"
    return f"{scale * spread.mean:.{digits}f}{unit} ± {scale * spread.std:.{digits}f}"


def _seeds(comparison: Comparison) -> int:
    return len({search.seed for search in comparison.searches})

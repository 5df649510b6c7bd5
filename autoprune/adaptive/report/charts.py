"""The charts of an adaptive report, as SVG text: what a router makes of its levels, and what each class is given."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes

from autoprune.adaptive.figures.schema import AdaptiveResult, ClassFigures, CurvePoint
from autoprune.adaptive.routing.routing import front_of
from autoprune.reports.drawing import COLOURS, SERIES, STYLE, add_legend, as_svg, label_axes, new_axes, shorten

BAR_PITCH_IN = 0.27
ROUTERS = (("learned", "learned router", "best", "-"), ("cascade", "confidence cascade", "series3", "--"))


def curve_chart(result: AdaptiveResult) -> str:
    """Accuracy against mean latency on the search split: models without a router as dots, routers as lines."""
    with rc_context(STYLE):
        figure, axes = new_axes(height_in=3.6)
        _dots(axes, [level.on_search for level in result.levels], "o", "accent", 6, "one level for all")
        _dots(axes, [result.original_on_search], "s", "ink", 6, "original")
        for router, label, colour, line in ROUTERS:
            points = [point for point in result.curve_on_search if point.router == router]
            front = front_of(points, of=lambda point: (point.estimated_latency_ms, point.search_accuracy))
            axes.plot(*_places(front), line, color=COLOURS[colour], linewidth=1.6, label=label)
        _dots(axes, [result.oracle_on_search], "^", "series4", 7, "oracle")
        _dots(axes, [result.chosen_on_search], "*", "best", 13, "chosen")
        label_axes(axes, "mean latency of an image (ms)", "accuracy on the search split (%)")
        add_legend(figure)
        return as_svg(figure, name="curve", description="Accuracy against mean latency of levels and routers")


def share_chart(classes: Sequence[ClassFigures], overall: Sequence[float]) -> str:
    """A bar for all test images and one for each class: the share that each level answers, the change of accuracy."""
    with rc_context(STYLE):
        rows = [("all", tuple(overall), ""), *((one.name, one.level_share, _change(one)) for one in classes)]
        figure, axes = new_axes(height_in=0.75 + BAR_PITCH_IN * len(rows))
        for level, colour in zip(range(len(overall)), SERIES, strict=False):
            left = [sum(shares[:level]) for _, shares, _ in rows]
            width = [shares[level] for _, shares, _ in rows]
            label = f"level {level}"
            axes.barh(range(len(rows)), width, left=left, height=0.66, color=COLOURS[colour], label=label)
        for row, (_, _, change) in enumerate(rows):
            axes.text(1.02, row, change, va="center", fontsize=8, color=COLOURS["ink"])
        axes.set_yticks(range(len(rows)), [shorten(name) for name, _, _ in rows], color=COLOURS["ink"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.22)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("images answered; right: change of accuracy, points")
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        add_legend(figure)
        return as_svg(figure, name="shares", description="Share of the test images that each level answers, by class")


def _dots(axes: Axes, points: Sequence[CurvePoint], marker: str, colour: str, size: float, label: str) -> None:
    axes.plot(*_places(points), marker, color=COLOURS[colour], markersize=size, markeredgewidth=0, label=label)


def _places(points: Sequence[CurvePoint]) -> tuple[list[float], list[float]]:
    return [point.estimated_latency_ms for point in points], [100 * point.search_accuracy for point in points]


def _change(one: ClassFigures) -> str:
    return f"{100 * (one.adaptive_accuracy - one.original_accuracy):+.1f}".replace("-", "−")

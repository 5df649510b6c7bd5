"""The report of an input-adaptive model: one HTML page with its pictures inside, and the table in the terminal."""

import base64
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from pydantic import ValidationError
from rich.console import Group
from rich.table import Table

from autoprune.adaptive.figures.schema import AdaptiveResult, Example, RouteFigures
from autoprune.adaptive.report.charts import curve_chart, share_chart
from autoprune.errors import InputError
from autoprune.foundation.files import read_json
from autoprune.foundation.terminal import titled
from autoprune.reports.pages import write_page
from autoprune.reports.words import P95_NOISE, USUAL_LOSS, signed, told_apart
from autoprune.results.run import explain
from autoprune.store.run_dir import RunDir

TEMPLATE = "adaptive.html.j2"
MIXTURES_LISTED = 6


def read_adaptive(run_dir: RunDir) -> AdaptiveResult:
    """`adaptive.json`; `InputError` names it if it is missing or broken."""
    try:
        return AdaptiveResult.model_validate(read_json(run_dir.adaptive))
    except ValidationError as error:
        raise InputError(f"{run_dir.adaptive}: not an adaptive result of schema 3 ({explain(error)})") from None


def write_adaptive_report(run_dir: RunDir) -> Path:
    """Write `adaptive.html` and return its path; `InputError` names the file that is missing or broken."""
    result = read_adaptive(run_dir)
    write_page(
        run_dir.adaptive_report,
        TEMPLATE,
        {
            "result": result,
            "headline": headline(result),
            "beside_static": beside_static(result),
            "caveats": caveats(result),
            "rows": rows(result),
            "energy_source": _energy_source(result.adaptive),
            "mixtures": [
                (", ".join(f"{ratio:.3g}" for ratio in mixture.max_ratios), mixture)
                for mixture in result.mixtures[:MIXTURES_LISTED]
            ],
            "budgets": budget_rows(result),
            "curve": Markup(curve_chart(result)),
            "shares": Markup(share_chart(result.classes, result.level_share)),
            "easy": _pictures(result.easy, run_dir),
            "hard": _pictures(result.hard, run_dir),
        },
        folder=Path(__file__).parent,
    )
    return run_dir.adaptive_report


def adaptive_table(result: AdaptiveResult) -> Group:
    """What was measured of each file, image by image, for the terminal."""
    shared = ", ".join(f"{share:.0%}" for share in result.level_share)
    caption = f"{beside_static(result)}. Levels answer {shared} of the images, {result.router} router."
    table = Table()
    for column in ("", "accuracy", "mean", "p50", "p95", "worst", "of original"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in rows(result):
        latencies = (one.latency_ms_mean, one.latency_ms_p50, one.latency_ms_p95, one.latency_ms_max)
        ratio = f"{one.latency_ms_mean / result.original.latency_ms_mean:.2f}"
        table.add_row(name, f"{one.test_accuracy:.2%}", *(f"{latency:.3f} ms" for latency in latencies), ratio)
    return titled(headline(result), table, caption)


def headline(result: AdaptiveResult) -> str:
    """The measured figures in a line: "0.42 of the original's mean latency, +0.05 points of test accuracy"."""
    change = result.adaptive.test_accuracy - result.original.test_accuracy
    if -change > USUAL_LOSS:
        return f"{-100 * change:.1f} points of test accuracy lost: {result.latency_ratio:.2f} of the mean latency"
    points = signed(100 * change, digits=2)
    return f"{result.latency_ratio:.2f} of the original's mean latency, {points} points of test accuracy"


def beside_static(result: AdaptiveResult) -> str:
    """The adaptive file beside the fastest static one that is as accurate, as far as the test images can tell."""
    static = result.static_at_equal_accuracy
    saved = 1 - static.latency_ratio
    change = f"{abs(saved):.0%} {'less' if saved >= 0 else 'more'} mean latency"
    return (
        f"{change} than the fastest static model whose accuracy cannot be told from it "
        f"({static.model}, {static.test_accuracy:.2%}; adaptive {result.adaptive.test_accuracy:.2%})"
    )


def caveats(result: AdaptiveResult) -> list[str]:
    """What the headline leaves out: how sure the accuracy is, what hard images take, and how large the file is."""
    found = []
    if result.accuracy_change_ci95 is not None:
        low, high = (signed(100 * bound, digits=2) for bound in result.accuracy_change_ci95)
        found.append(
            f"On the same test images the accuracy changes by {low} to {high} points (95% interval): "
            f"{told_apart(result.accuracy_change_ci95, model='adaptive')}."
        )
    before, after = result.original, result.adaptive
    longer = "longer" if after.latency_ms_p95 > before.latency_ms_p95 * (1 + P95_NOISE) else "about as long"
    longer = "less" if after.latency_ms_p95 < before.latency_ms_p95 * (1 - P95_NOISE) else longer
    found.append(
        f"That is the mean; the hardest images take {longer}: one in twenty takes {after.latency_ms_p95:.3f} ms or "
        f"more (the original: {before.latency_ms_p95:.3f} ms), the slowest {after.latency_ms_max:.3f} ms "
        f"({before.latency_ms_max:.3f} ms)."
    )
    times = result.onnx_bytes / result.largest_level_onnx_bytes
    found.append(f"The file holds {result.onnx_bytes / 1e6:.2f} MB, {times:.2f} times the largest level's.")
    return found


def rows(result: AdaptiveResult) -> list[tuple[str, RouteFigures]]:
    """Every measured file, the original and the adaptive one first."""
    last = len(result.levels) - 1
    name = f"original, level {last}" if result.levels[-1].is_original else "original"
    found = [(name, result.original), ("adaptive", result.adaptive)]
    found += [
        (f"level {place} alone{' (pruned)' if level.is_pruned else ''}", level.alone)
        for place, level in enumerate(result.levels)
        if not level.is_original
    ]
    if result.pruned is not None and not any(level.is_pruned for level in result.levels):
        found.append(("pruned", result.pruned))
    return found


def budget_rows(result: AdaptiveResult) -> list[tuple[str, str, str]]:
    """Each budget and both routers on the test split within it; a dash for one that has no point within it."""
    found = []
    for budget_ms in dict.fromkeys(one.budget_ms for one in result.budgets):
        by_router = {one.router: one for one in result.budgets if one.budget_ms == budget_ms}
        cells = [
            f"{one.test_accuracy:.2%} at {one.estimated_latency_ms:.3f} ms" if one else "–"
            for one in (by_router.get("cascade"), by_router.get("learned"))
        ]
        found.append((f"{budget_ms:.3f} ms", cells[0], cells[1]))
    return found


def _energy_source(figures: RouteFigures) -> str:
    if figures.energy_sensor is not None:
        return f"measured above idle, {figures.energy_sensor}"
    return figures.energy_source


def _pictures(examples: Sequence[Example], run_dir: RunDir) -> list[tuple[str, str, bool]]:
    """Of each its picture as a data URI, its title, and whether it was answered right."""
    pictures = []
    for example in examples:
        path = run_dir.examples / Path(example.picture).name  # a name only: the file may be a stranger's
        try:
            encoded = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        is_right = example.answer == example.label
        answer = example.label if is_right else f"{example.label}, answered {example.answer}"
        pictures.append((f"data:image/png;base64,{encoded}", answer, is_right))
    return pictures

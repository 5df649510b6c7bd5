"""The report of a run: one HTML page that needs nothing else, and the closing table in the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from rich.console import Group
from rich.text import Text

from autoprune.config import TargetConfig
from autoprune.foundation.progress import duration
from autoprune.foundation.terminal import figures, titled
from autoprune.reports.charts import epoch_chart
from autoprune.reports.headline import accuracy_in_words, changed, headline, points, slow_calls, verdict
from autoprune.reports.pages import write_page
from autoprune.reports.proposals import COLUMNS, proposal_cells
from autoprune.reports.record import RunRecord, read_run
from autoprune.reports.search import on_search_split, search_charts, search_parts
from autoprune.reports.words import signed, target_in_words, unit_of
from autoprune.results.run import DropTrial, Figures, MetricFigures, RunResult
from autoprune.store.run_dir import RunDir
from autoprune.store.score import called, direction

TEMPLATE = "report.html.j2"


class Row(NamedTuple):
    """A line of the before/after table, as text; `ratio` is after divided by before unless it says otherwise."""

    label: str
    before: str
    after: str
    ratio: str


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` and return its path; `InputError` names the file that is missing or broken."""
    record = read_run(run_dir)
    path = RunDir(run_dir).report
    write_page(
        path,
        TEMPLATE,
        {
            **search_parts(record.search),
            "record": record,
            "result": record.result,
            "environment": record.result.environment,
            "headline": headline(record.result),
            "verdict": verdict(record.result),
            "slow_calls": slow_calls(record.result),
            "accuracy_in_words": accuracy_in_words(record.result),
            "timed": any(target.metric == "latency" for target in record.search.config.target),
            "adaptive_points": _adaptive_points(record.result),
            "wall": duration(record.result.search.wall_s),
            "targets": [_target_line(target, record.result) for target in record.search.config.target],
            "rows": list(comparison_rows(record.result)),
            "proposals": [(proposal, proposal_cells(proposal)) for proposal in record.result.search.proposals],
            "proposal_columns": COLUMNS,
            "drop_lines": [_drop_cells(trial, record.result.metric) for trial in record.result.search.max_drop_trials],
            "charts": {name: Markup(svg) for name, svg in _charts(record).items()},
            "called": called(record.result.metric.name),
        },
    )
    return path


def summary_table(result: RunResult) -> Group:
    """Before, after and ratio of a run, for the terminal."""
    table = figures(("", "before", "after", "ratio"), comparison_rows(result))
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in result.warnings]
    return Group(titled(headline(result), table), *warnings)


def comparison_rows(result: RunResult) -> Iterator[Row]:
    """The before/after table, rounded for reading."""
    before, after, ratios, metric = result.original, result.pruned, result.ratios, result.metric
    label = f"{metric.label[0].upper()}{metric.label[1:]}{direction(metric.higher_is_better)}"
    yield Row(label, metric.shown(before.quality), metric.shown(after.quality), points(result, digits=2))
    if (sure := result.accuracy) is not None:
        change = " to ".join(changed(result, end, digits=2) for end in sure.change_ci95)
        yield Row(
            "its 95% interval", _interval(metric, sure.original_ci95), _interval(metric, sure.pruned_ci95), change
        )
    latencies = [
        ("p50", before.latency_ms_p50, after.latency_ms_p50, ratios.latency),
        ("p95", before.latency_ms_p95, after.latency_ms_p95, after.latency_ms_p95 / before.latency_ms_p95),
        ("undisturbed call", before.latency_ms_quiet, after.latency_ms_quiet, 1 / ratios.speedup_quiet),
    ]
    for name, before_ms, after_ms, ratio in latencies:
        yield Row(f"Latency, {name}", f"{before_ms:.3f} ms", f"{after_ms:.3f} ms", f"{ratio:.2f}")
    low, high = ratios.speedup_ci95
    yield Row("Speed-up (95% interval)", "1×", f"{ratios.speedup:.2f}×", f"{low:.2f} to {high:.2f}")
    yield Row("Parameters", f"{before.params:,}", f"{after.params:,}", f"{ratios.params:.2f}")
    yield Row("MACs", f"{before.macs / 1e6:,.2f} M", f"{after.macs / 1e6:,.2f} M", f"{ratios.macs:.2f}")
    yield Row("ONNX file", *_megabytes(before.onnx_bytes, after.onnx_bytes))
    yield Row("Peak memory (RSS)", *_megabytes(before.peak_rss_bytes, after.peak_rss_bytes))
    yield Row(
        f"Energy per inference ({_energy_source(result)})",
        f"{before.energy_mj:.3g} mJ",
        f"{after.energy_mj:.3g} mJ",
        f"{ratios.energy:.2f}",
    )


def _adaptive_points(result: RunResult) -> str:
    if result.adaptive is None:
        return ""
    return signed(100 * (result.adaptive.test_accuracy - result.original.quality), digits=2)


def _interval(metric: MetricFigures, ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{100 * low:.1f}–{high:.1%}" if metric.is_share else f"{low:.4g}–{high:.4g}"


def _megabytes(before: int, after: int) -> tuple[str, str, str]:
    return f"{before / 1e6:.2f} MB", f"{after / 1e6:.2f} MB", f"{after / before:.2f}"


def _energy_source(result: RunResult) -> str:
    before, after = (_energy_source_of(figures) for figures in (result.original, result.pruned))
    return before if before == after else f"before {before}, after {after}"


def _energy_source_of(figures: Figures) -> str:
    if figures.energy_sensor is not None:
        return f"measured above idle, {figures.energy_sensor}"
    return figures.energy_source


def unmet_drop(result: RunResult) -> str | None:
    """What to tell of a run that was to find a cut within `max_drop` and found none."""
    kept = result.search.kept_trial
    if kept is None or kept.accepted:
        return None
    return (
        f"no trial stays within target.max_drop on the search split; the result is the one that comes nearest, "
        f"{_inpoints(kept.drop)} points lost"
    )


def _drop_cells(trial: DropTrial, metric: MetricFigures) -> tuple[str, ...]:
    """A trial of a `max_drop` target: its limit, what it reached, the metric, drop, verdict."""
    return (
        f"{trial.ratio:.3f}",
        f"{trial.reached:.3f}",
        metric.shown(metric.sign * trial.search_accuracy),
        f"{_inpoints(trial.drop)} ± {100 * trial.drop_se:.2f}",
        f"{'holds' if trial.accepted else 'loses too much'}{' (the result)' if trial.kept else ''}",
    )


def _inpoints(drop: float) -> str:
    """A loss of accuracy in points: "0.31", or "−0.12" for a gain."""
    text = f"{100 * drop:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _target_line(target: TargetConfig, result: RunResult) -> tuple[str, str]:
    """A target in words and what the run reached, in the target's own unit."""
    metric, energy = result.metric, _energy_source(result)
    told = target_in_words(target, called(metric.name), higher_is_better=metric.higher_is_better, energy=energy)
    ratio: float = getattr(result.ratios, target.metric)
    if target.max_ratio is not None:
        return told, f"{ratio:.2f}"
    if target.max_drop is not None:
        kept = result.search.kept_trial
        lost = "" if kept is None else f", {_inpoints(kept.drop)} points lost there"
        return told, f"{ratio:.2f} of the original{lost}"
    value = result.pruned.of(target.metric) * (1e3 if target.unit == "us" else 1)
    return told, f"{value:,.6g}{unit_of(target)}"


def _charts(record: RunRecord) -> dict[str, str]:
    """The charts that the run has data for, by name."""
    charts = search_charts(record.search)
    if record.finetune:
        shown = record.result.metric
        scale = shown.sign * (100 if shown.is_share else 1)
        accuracy = [scale * log.search_accuracy for log in record.finetune]
        loss = [log.train_loss for log in record.finetune]
        frame = record.frame
        charts["finetune_accuracy"] = epoch_chart(
            accuracy,
            name="finetune-accuracy",
            ylabel=on_search_split(called(shown.name), shown),
            before=scale * frame.before if frame else None,
            original=scale * frame.original if frame else None,
        )
        charts["finetune_loss"] = epoch_chart(loss, name="finetune-loss", ylabel="training loss")
    return charts

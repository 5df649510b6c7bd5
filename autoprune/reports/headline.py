"""What a run's page says first: the measured figures in a line, whether that is good, and what the line leaves out."""

from dataclasses import dataclass

from autoprune.reports.words import P95_NOISE, USUAL_LOSS, signed, told_apart
from autoprune.results.run import RunResult
from autoprune.store.score import called


@dataclass(frozen=True)
class Verdict:
    text: str
    is_good: bool


def headline(result: RunResult) -> str:
    """The measured figures in a line: "2.1× faster, 38% of the parameters, −0.3 points of test accuracy"."""
    speedup, params = result.ratios.speedup, result.ratios.params
    if f"{speedup:.1f}" == "1.0":
        speed = "as fast as before"
    else:
        speed = f"{speedup:.1f}× faster" if speedup > 1 else f"{1 / speedup:.1f}× slower"
    change, label = points(result, digits=1), result.metric.label
    if loses_much(result):
        lost = f"{change.lstrip('+−')} of {label} lost" if result.metric.higher_is_better else f"{change} of {label}"
        return f"{lost}: {speed}, {params:.0%} of the parameters"
    return f"{speed[0].upper()}{speed[1:]}, {params:.0%} of the parameters, {change} of {label}"


def loses_much(result: RunResult) -> bool:
    """Whether more is lost than a cut may usually cost: of a share in points, of another metric in percent of it."""
    before, after = result.original.quality, result.pruned.quality
    lost = before - after if result.metric.higher_is_better else after - before
    return lost > USUAL_LOSS * (1.0 if result.metric.is_share else abs(before))


def verdict(result: RunResult) -> Verdict:
    """Whether the target is met, as the page's badge says it."""
    if not result.checks.target_met:
        return Verdict("✗ Target missed", False)
    worse = f"{called(result.metric.name)} {'lost' if result.metric.higher_is_better else 'worse'}"
    return Verdict(f"! Target met, {worse}", False) if loses_much(result) else Verdict("✓ Target met", True)


def slow_calls(result: RunResult) -> str | None:
    """What to say where calls at the slow end take longer than the original's."""
    before, after = result.original.latency_ms_p95, result.pruned.latency_ms_p95
    if after <= before * (1 + P95_NOISE):
        return None
    return f"One call in twenty takes longer than the original's: p95 is {after:.3f} ms, and was {before:.3f} ms."


def accuracy_in_words(result: RunResult) -> str | None:
    """The change of accuracy with its interval, and what that means."""
    found = result.accuracy
    if found is None:
        return None
    low, high = (changed(result, bound, digits=2) for bound in found.change_ci95)
    means = f": {told_apart(found.change_ci95, model='pruned')}" if result.original.test_accuracy is not None else ""
    return (
        f"On these {found.images:,} test images the {called(result.metric.name)} changes by {points(result, digits=2)} "
        f"(95% interval: {low} to {high}){means}."
    )


def points(result: RunResult, *, digits: int) -> str:
    """By how much the metric changes: of a share in points; where lower is better, whether that is good, too."""
    change = changed(result, result.pruned.quality - result.original.quality, digits=digits)
    is_told = result.metric.higher_is_better or change.startswith("±")
    meant = "" if is_told else " (better)" if change.startswith("−") else " (worse)"
    return f"{change}{' points' if result.metric.is_share else ''}{meant}"


def changed(result: RunResult, by: float, *, digits: int) -> str:
    """A change of the metric with its sign: of a share times a hundred."""
    return signed(100 * by, digits=digits) if result.metric.is_share else signed(by, digits=digits + 2)

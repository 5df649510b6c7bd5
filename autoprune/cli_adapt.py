"""`autoprune adapt CONFIG`: the command's summary; what it needs is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from autoprune.adaptive_result import AdaptiveResult

EPILOG = "Example: `autoprune adapt fashion_mnist_adaptive --run-dir runs/adaptive`"


def summary(result: "AdaptiveResult", folder: Path) -> "Table":
    """What was measured on the two files, image by image."""
    from rich.table import Table

    change = 100 * (result.adaptive.test_accuracy - result.original.test_accuracy)
    shares = ", ".join(f"{100 * share:.0f}%" for share in result.level_share)
    table = Table(
        title=f"{result.latency_ratio:.2f} of the original's mean latency, {change:+.2f} points of test accuracy",
        caption=f"levels answer {shares} of the images, {result.router} router; {folder / 'adaptive.json'}",
    )
    for column in ("", "original", "adaptive"):
        table.add_column(column, justify="left" if not column else "right")
    before, after = result.original, result.adaptive
    table.add_row("Test accuracy", f"{before.test_accuracy:.2%}", f"{after.test_accuracy:.2%}")
    for title, first, second in (
        ("Latency, mean", before.latency_ms_mean, after.latency_ms_mean),
        ("Latency, p50", before.latency_ms_p50, after.latency_ms_p50),
        ("Latency, p95", before.latency_ms_p95, after.latency_ms_p95),
        ("Latency, worst", before.latency_ms_max, after.latency_ms_max),
    ):
        table.add_row(title, f"{first:.3f} ms", f"{second:.3f} ms")
    return table

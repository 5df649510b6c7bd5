"""What a comparison found, as JSON and as a table."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from autoprune.measure.latency import Latency, speedup
from autoprune.pruning.cost import Cost
from peers.cut import Choice

SCHEMA = 1
ORIGINAL, OURS = "original", "autoprune"


@dataclass(frozen=True)
class Measured:
    """Of an exported file, all files in turn in one process; speed-ups are over the original."""

    params: int
    macs: int
    latency_ms_p50: float
    latency_ms_quiet: float
    latency_ratio_to_ours: float
    speedup: float
    speedup_ci95: tuple[float, float]

    @classmethod
    def of(cls, latency: Latency, *, original: Latency, ours: Latency, cost: Cost) -> "Measured":
        gained = speedup(original, latency)
        return cls(
            cost.params,
            cost.macs,
            latency.latency_ms_p50,
            latency.latency_ms_quiet,
            latency.latency_ms_p50 / ours.latency_ms_p50,
            gained.ratio,
            gained.ci95,
        )


@dataclass(frozen=True)
class Row:
    """One peer, or the original, or us. Lists have an item for each seed; what is None or empty was not reached."""

    name: str
    method: str
    version: str
    knob: str | None = None
    choice: Choice | None = None
    measured: Measured | None = None
    search_accuracy_cut: float | None = None
    search_accuracy: tuple[float, ...] = ()
    test_accuracy: tuple[float, ...] = ()
    find_wall_s: float | None = None
    finetune_wall_s: tuple[float | None, ...] = ()
    error: str | None = None

    @property
    def test_accuracy_mean(self) -> float | None:
        return statistics.fmean(self.test_accuracy) if self.test_accuracy else None

    @property
    def test_accuracy_std(self) -> float | None:
        """Sample standard deviation over seeds."""
        return statistics.stdev(self.test_accuracy) if len(self.test_accuracy) > 1 else None

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "test_accuracy_mean": self.test_accuracy_mean,
            "test_accuracy_std": self.test_accuracy_std,
        }


def as_json(
    rows: Sequence[Row], *, run: str, epochs: int, seeds: Sequence[int], environment: dict[str, str]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": run,
        "finetune_epochs": epochs,
        "seeds": list(seeds),
        "environment": environment,
        "rows": [row.as_json() for row in rows],
    }


COLUMNS = ("", "setting", "params", "MACs", "latency ms", "speed-up (95%)", "cut", "tuned", "test", "find s", "tune s")


def cells(row: Row) -> tuple[str, ...]:
    """The texts of `COLUMNS`: accuracies in percent, those of the search split first."""
    measured, choice = row.measured, row.choice
    return (
        row.method,
        "" if choice is None else f"{choice.setting}, {choice.knob:.3f}",
        "" if measured is None else f"{measured.params:,}",
        "" if measured is None else f"{measured.macs / 1e6:.1f} M",
        "" if measured is None else f"{measured.latency_ms_p50:.4f}",
        "" if measured is None else _speedup(measured),
        _percent(row.search_accuracy_cut),
        _percent(statistics.fmean(row.search_accuracy) if row.search_accuracy else None),
        _percent(row.test_accuracy_mean)
        + ("" if row.test_accuracy_std is None else f" ± {100 * row.test_accuracy_std:.2f}"),
        "" if row.find_wall_s is None else f"{row.find_wall_s:.0f}",
        _total([seconds for seconds in row.finetune_wall_s if seconds is not None]),
    )


def table(rows: Sequence[Row], *, title: str) -> Table:
    """For the terminal; the rows that failed are named below it."""
    failures = "\n".join(f"{row.method}: {row.error}" for row in rows if row.error is not None)
    made = Table(title=Text(title), caption=Text(failures) if failures else None, caption_justify="left")
    for number, column in enumerate(COLUMNS):
        made.add_column(column, justify="left" if number < 2 else "right")
    for row in rows:
        made.add_row(*(text or "–" for text in cells(row)), style="dim" if row.error is not None else None)
    return made


def _speedup(measured: Measured) -> str:
    low, high = measured.speedup_ci95
    return f"{measured.speedup:.2f}× ({low:.2f}–{high:.2f})"


def _total(seconds: Sequence[float]) -> str:
    return f"{sum(seconds):.0f}" if seconds else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"

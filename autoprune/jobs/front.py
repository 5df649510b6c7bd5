"""The Pareto front of what searches have evaluated: candidates that no other beats in everything at once."""

from collections.abc import Sequence
from pathlib import Path

from autoprune.errors import InputError
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import EpisodeRow, TrialStore

COSTS = ("predicted_latency_ms", "estimated_energy_mj", "params")


def pareto_front(rows: Sequence[EpisodeRow]) -> tuple[EpisodeRow, ...]:
    """The rows that no other equals or beats in divergence and all of `COSTS` (smaller is better), the fastest first.

    Of rows with equal figures the first stays. Candidates that were dropped before they were scored on the
    search split are left out.
    """
    distinct = {_figures(row): row for row in reversed(rows) if row.on_search_split}
    front = [
        row
        for figures, row in distinct.items()
        if not any(_dominates(other, figures) for other in distinct if other != figures)
    ]
    return tuple(sorted(front, key=lambda row: (row.predicted_latency_ms, row.score.divergence)))


def read_front(run_dirs: Sequence[Path]) -> tuple[EpisodeRow, ...]:
    """The front of the searches of several runs of one model; `InputError` names a folder without trials, and runs
    whose policies are of different models."""
    rows: list[EpisodeRow] = []
    for folder in run_dirs:
        trials = RunDir(folder).trials
        if not trials.exists():  # opening it would make an empty one
            raise InputError(f"{trials}: no such file; give the folder of a run")
        rows += TrialStore(trials).episodes()
    if len({tuple(row.channels) for row in rows}) > 1:
        raise InputError(f"{', '.join(map(str, run_dirs))}: their searches are of different models or search.options")
    return pareto_front(rows)


def _figures(row: EpisodeRow) -> tuple[float, ...]:
    return row.score.divergence, *(float(getattr(row, name)) for name in COSTS)


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(ours <= theirs for ours, theirs in zip(first, second, strict=True))

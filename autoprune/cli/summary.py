"""What a command says at its end."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autoprune.foundation import progress

if TYPE_CHECKING:
    from autoprune.results.run import RunResult
    from autoprune.search.problem import Outcome


def summarise(result: "RunResult", folder: Path) -> None:
    """Of a run, with its input-adaptive model if it has one."""
    from autoprune.reports.proposals import proposals_table
    from autoprune.reports.run import summary_table, unmet_drop

    progress.console.print(summary_table(result))
    if (proposals := proposals_table(result.search)) is not None:
        progress.console.print(proposals)
    if (unmet := unmet_drop(result)) is not None:
        progress.console.print(f"{unmet}; see the report", style="yellow", markup=False, soft_wrap=True)
    elif not result.checks.target_met:
        progress.console.print("the target is not met as measured; see the report", style="yellow", soft_wrap=True)
    typer.echo(folder / "report.html")
    if result.adaptive is not None:
        summarise_adaptive(folder)


def summarise_adaptive(folder: Path) -> None:
    from autoprune.adaptive.report.page import adaptive_table, read_adaptive
    from autoprune.store.run_dir import RunDir

    progress.console.print(adaptive_table(read_adaptive(RunDir(folder))))
    typer.echo(folder / "adaptive.html")


def summarise_search(outcome: "Outcome", folder: Path) -> None:
    kept = ", ".join(f"{name}: {channels}" for name, channels in outcome.pruning.channels)
    progress.console.print(f"best reward {outcome.reward:.6g} with {kept}", markup=False, soft_wrap=True)
    typer.echo(folder / "policy.json")

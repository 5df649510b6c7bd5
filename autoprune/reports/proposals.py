"""Who proposed what, where a trained agent or a stored policy was applied: as rows, and as a table for the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from autoprune.foundation.terminal import titled
from autoprune.results.run import ProposalFigures, SearchFigures

COLUMNS = ("reward", "metric", "predicted ms", "of limit", "tried")  # with the longest name 80 columns wide
EXPLAINED = (
    "Each proposer's best under the target: reward and metric on the search split, before fine-tuning; latency as "
    "predicted, and its share of the original's; that of the exported file by what the target allows; policies scored."
)


def proposal_cells(proposal: ProposalFigures) -> tuple[str, ...]:
    """The texts of `COLUMNS`, rounded for reading."""
    untimed = "not timed" if proposal.missed is None else "too much"
    return (
        f"{proposal.reward:.4f}".replace("-", "−"),
        proposal.quality.shown(proposal.quality.value),
        f"{proposal.predicted_latency_ms:.3f} ({proposal.predicted_latency_ratio:.2f})",
        untimed if proposal.measured_share is None else f"{proposal.measured_share:.3f}",
        str(proposal.evaluations),
    )


def proposals_table(search: SearchFigures) -> Group | None:
    """The table, and below it what to look out for; None of a run whose policy comes from a search."""
    if not search.proposals:
        return None
    table = Table()
    table.add_column("proposed by", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for proposal in search.proposals:
        style = "bold" if proposal.taken else ""
        table.add_row(Text(proposal.proposer), *proposal_cells(proposal), style=style)
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in search.warnings]
    applied = ", ".join(proposal.proposer for proposal in search.proposals if proposal.taken)
    return Group(titled(f"Proposals; applied is that of {applied}", table, EXPLAINED), *warnings)

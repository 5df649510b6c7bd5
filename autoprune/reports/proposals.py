"""Who proposed what, where a trained agent or a stored policy was applied: as rows, and as a table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ProposalLine:
    """A proposal as text; `cells` are in the order of `COLUMNS`."""

    proposer: str
    cells: tuple[str, ...]
    taken: bool


def proposal_lines(proposals: Sequence[ProposalFigures]) -> list[ProposalLine]:
    """The proposals, rounded for reading, in their order."""
    return [
        ProposalLine(
            proposer=proposal.proposer,
            cells=(
                f"{proposal.reward:.4f}".replace("-", "−"),
                proposal.quality.shown(proposal.quality.value),
                f"{proposal.predicted_latency_ms:.3f} ({proposal.predicted_latency_ratio:.2f})",
                _of_allowed(proposal),
                str(proposal.evaluations),
            ),
            taken=proposal.taken,
        )
        for proposal in proposals
    ]


def proposals_table(search: SearchFigures) -> Group | None:
    """The table, and below it what to look out for; None of a run whose policy comes from a search."""
    if not search.proposals:
        return None
    table = Table()
    table.add_column("proposed by", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    lines = proposal_lines(search.proposals)
    for line in lines:
        table.add_row(Text(line.proposer), *line.cells, style="bold" if line.taken else "")
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in search.warnings]
    applied = ", ".join(line.proposer for line in lines if line.taken)
    return Group(titled(f"Proposals; applied is that of {applied}", table, EXPLAINED), *warnings)


def _of_allowed(proposal: ProposalFigures) -> str:
    if proposal.measured_share is None:
        return "not timed" if proposal.missed is None else "too much"
    return f"{proposal.measured_share:.3f}"

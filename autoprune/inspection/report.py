"""An inspection for people: tables for the terminal, and one HTML page that needs nothing else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.foundation.terminal import titled
from autoprune.inspection.charts import staircase_lines, staircase_svg, validation_svg
from autoprune.inspection.facts import GroupFacts, Inspection
from autoprune.inspection.text import (
    Bar,
    bars,
    conditions,
    headline,
    rest_text,
    search_time_text,
    shape_text,
    target_texts,
    title,
    validation_text,
)
from autoprune.reports.drawing import shorten
from autoprune.reports.pages import write_page

TEMPLATE = "inspection.html.j2"


@dataclass(frozen=True)
class Column:
    """A group in the diagram: the rows of the layers that lose its channels at their outputs or at their inputs."""

    group: str
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    @property
    def first(self) -> int:
        return min((*self.outputs, *self.inputs))

    @property
    def last(self) -> int:
        return max((*self.outputs, *self.inputs))


def write_inspection_page(inspection: Inspection, path: Path) -> None:
    """The page, written to `path`."""
    staircase, validation = inspection.staircase, inspection.validation
    write_page(
        path,
        TEMPLATE,
        {
            "inspection": inspection,
            "title": title(inspection),
            "headline": headline(inspection),
            "conditions": conditions(inspection),
            "targets": [target_texts(target) for target in inspection.targets],
            "groups": [(group, bars(group.takes)) for group in inspection.groups],
            "layers": [(layer, shape_text(layer), bars(layer.takes)) for layer in inspection.layers],
            "most_of_a_group": _largest_share(bars(group.takes) for group in inspection.groups),
            "most_of_a_layer": _largest_share(bars(layer.takes) for layer in inspection.layers),
            "columns": diagram_columns(inspection),
            "rest_ms": rest_text(inspection),
            "shorten": shorten,
            "search_time": None if inspection.search_time is None else search_time_text(inspection.search_time),
            "staircase_chart": None if staircase is None else Markup(staircase_svg(staircase)),
            "validation_chart": None if validation is None else Markup(validation_svg(validation)),
            "validation_text": validation_text(inspection),
        },
    )


def print_inspection(inspection: Inspection, console: Console) -> None:
    """The same facts as tables."""
    for part in _terminal_parts(inspection):
        console.print(part)


def diagram_columns(inspection: Inspection) -> list[Column]:
    """The groups as columns over the layers, whose order gives the rows."""
    rows = {layer.name: row for row, layer in enumerate(inspection.layers)}
    return [
        Column(
            group.name,
            tuple(rows[member.layer] for member in group.members if member.side == "out" and member.layer in rows),
            tuple(rows[member.layer] for member in group.members if member.side == "in" and member.layer in rows),
        )
        for group in inspection.groups
    ]


def _terminal_parts(inspection: Inspection) -> Iterator[RenderableType]:
    yield Text(title(inspection), style="bold")
    yield Text(conditions(inspection) + "\n")
    yield _groups_table(inspection)
    if inspection.skipped:
        yield _table("Cannot be pruned", ("layer", "channels>", "why"), (
            (group.name, str(group.channels), group.reason) for group in inspection.skipped
        ))  # fmt: skip
    yield _layers_table(inspection)
    yield _table(
        "Targets: the smallest policy is the lowest rung of every ladder",
        ("metric", "original>", "smallest>", "smallest max_ratio>"),
        map(target_texts, inspection.targets),
    )
    if inspection.search_time is not None:
        yield Text(f"A search takes {search_time_text(inspection.search_time)}\n")
    if inspection.staircase is not None:
        stairs = inspection.staircase
        yield Text(f"Staircase of group {stairs.group} (* a rung): channels kept, time of the layers it touches")
        yield Text("\n".join(staircase_lines(stairs)) + "\n", no_wrap=True)
    if (checked := validation_text(inspection)) is not None:
        yield Text(f"Latency check: {checked}\n")


def _groups_table(inspection: Inspection) -> Group:
    rows = []
    for group in inspection.groups:
        macs, params, *time = bars(group.takes)
        ladder = " ".join(map(str, group.ladder))
        shares = [f"{macs.share:.1%}", params.text, f"{params.share:.1%}", *(f"{bar.share:.1%}" for bar in time)]
        rows.append((group.name, str(group.channels), macs.text, *shares, ladder, _short_coupling(group)))
    timed = () if inspection.latency is None else ("latency>",)
    columns = ("group", "channels>", "MACs>", "share>", "params>", "share>", *timed, "ladder", "coupled")
    may_go = any(group.ladder[0] == 0 for group in inspection.groups)
    note = "; where a ladder begins with 0, the branch that the group is in may go whole" if may_go else ""
    return _table(f"Groups that can be pruned{note}", columns, rows)


def _layers_table(inspection: Inspection) -> Group:
    rows = []
    for layer in inspection.layers:
        figures = [text for bar in bars(layer.takes) for text in (bar.text, f"{bar.share:.1%}")]
        rows.append((layer.name, shape_text(layer), layer.group or "(not prunable)", *figures))
    if (rest := rest_text(inspection)) is not None:
        rows.append(("all else, as fitted", "", "", "", "", "", "", rest, ""))
    timed = () if inspection.latency is None else ("latency>", "share>")
    columns = ("layer", "shape", "outputs cut by group", "MACs>", "share>", "params>", "share>", *timed)
    return _table("Layers in order of execution", columns, rows)


def _table(heading: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Group:
    """A column whose name ends in > is of numbers: right-aligned and never broken."""
    table = Table()
    for column in columns:
        name, numbers, _ = column.partition(">")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=bool(numbers), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # names are data, not markup
    return titled(heading, table)


def _short_coupling(group: GroupFacts) -> str:
    """Without the BatchNorms, which follow the layers that they normalise."""
    return "; ".join(part for part in group.coupling.split("; ") if not part.startswith("normalised by"))


def _largest_share(rows: Iterable[list[Bar]]) -> float:
    return max((bar.share for row in rows for bar in row), default=1.0) or 1.0

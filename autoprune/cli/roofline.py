"""How `bench --roofline` shows a `Roofline`: a table for the terminal, and a few lines that sum it up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoprune.foundation.terminal import titled
from autoprune.measure.timing import NOISY_SHARE
from autoprune.roofline.report import Bound, Roofline, RooflineNode

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

COLOURS: dict[Bound, str] = {"compute": "#1f6feb", "memory": "#d9480f", "overhead": "#868e96"}
DISPENSABLE = ("output", "share", "kind", "KiB", "MFLOP", "padding")  # columns, in a narrow terminal
UNLIMITED = 1000
AGREEMENT = 1.25  # a larger factor between the profile and the whole means that one of them was disturbed
LEAST_PADDING = 0.005  # of a layer's arithmetic: less is not worth a column


def roofline_view(roofline: Roofline, name: str, *, width: int | None = None) -> "Group":
    """Of the file called `name`: a table with a row for each node in order of execution, and the whole below.

    Columns that `width` (default: the terminal's) has no room for are left out, the dispensable ones first; `as_json`
    has them all.
    """
    from rich.console import Console

    console = Console(width=width)
    columns = _columns(roofline)
    table = _table(roofline, columns)
    for header in DISPENSABLE:
        if console.measure(table, options=console.options.update(max_width=UNLIMITED)).maximum <= console.width:
            break
        columns = [column for column in columns if column.header.strip() != header]
        table = _table(roofline, columns)
    return titled(f"{name}: what bounds each layer", table, summary(roofline))


def _table(roofline: Roofline, columns: Sequence["_Column"]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_footer=True,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        table.add_column(column.header, column.footer, justify=column.justify, no_wrap=True, max_width=column.max_width)
    for node in roofline.nodes:
        table.add_row(*(column.cell(node) for column in columns))
    return table


@dataclass(frozen=True)
class _Column:
    header: str
    cell: Callable[[RooflineNode], str]
    footer: str = ""
    justify: Literal["left", "right"] = "right"
    max_width: int | None = None


def _columns(roofline: Roofline) -> list[_Column]:
    from rich.markup import escape

    whole_us, bound_us = roofline.whole_ms * 1e3, roofline.lower_bound_ms * 1e3
    all_bytes = sum(node.total_bytes for node in roofline.nodes)
    columns = [
        _Column("\nlayer", lambda node: escape(node.layer), "whole file", "left", 22),
        _Column("\nkind", lambda node: node.op, justify="left", max_width=13),
        _Column("\noutput", lambda node: "×".join(map(str, node.output_dims)), justify="left"),
        _Column("\nµs", lambda node: f"{node.time_us:.1f}", f"{whole_us:.1f}"),
        _Column("\nshare", lambda node: _share(node.time_us, whole_us)),
        _Column(
            "\nMFLOP",
            lambda node: f"{node.flop * 1e-6:.2f}" if node.flop_counted else "?",
            f"{roofline.flop * 1e-6:.1f}",
        ),
        _Column("\nKiB", lambda node: f"{node.total_bytes / 1024:.0f}", f"{all_bytes / 1024:.0f}"),
        _Column(
            f"GFLOP/s\nof {roofline.peaks.gflops:.0f}",
            lambda node: f"{node.gflops:.1f}",
            f"{roofline.flop / whole_us * 1e-3:.1f}",
        ),
        _Column(f"GB/s\nof {_bandwidths(roofline)}", lambda node: f"{node.gbps:.1f}"),
        _Column("speed\nof bound", lambda node: _share(node.bound_us, node.time_us), _share(bound_us, whole_us)),
        _Column("to win\nµs", lambda node: f"{node.excess_us:.1f}", f"{max(0.0, whole_us - bound_us):.1f}"),
        _Column("\nbound by", lambda node: f"[{COLOURS[node.bound]}]{node.bound}[/]", justify="left"),
    ]
    if any(1 - node.useful_share > LEAST_PADDING for node in roofline.nodes):
        footer = _share(roofline.padding_flop, roofline.flop)
        columns.insert(6, _Column("\npadding", lambda node: _share(1 - node.useful_share, 1), footer))
    return columns


def summary(roofline: Roofline) -> str:
    """A few lines of plain English: the whole against its bound, where most can be won, and how the figures came."""
    peaks, nodes = roofline.peaks, roofline.nodes
    most = [node for node in sorted(nodes, key=lambda node: -node.excess_us)[:3] if node.excess_us > 0]
    where = ", ".join(f"{node.layer} ({node.excess_us:.0f} µs)" for node in most)
    lines = [
        f"{roofline.whole_ms:.3f} ms; at the peaks measured here it would take {roofline.lower_bound_ms:.3f} ms"
        + (f", so most is to win in {where}." if most else "."),
        "Time by bound: "
        + ", ".join(f"{bound} {_share(_time_us(nodes, bound), roofline.whole_ms * 1e3)}" for bound in COLOURS)
        + f", calling the runtime {_share(peaks.call_us, roofline.whole_ms * 1e3)}.",
        f"Peaks with {roofline.threads} thread{'s' if roofline.threads > 1 else ''}: {peaks.gflops:.0f} GFLOP/s, "
        f"{peaks.cache_gbps:.0f} GB/s in cache, {peaks.memory_gbps:.0f} GB/s in memory; "
        f"an empty node {peaks.node_us:.2f} µs, an empty call {peaks.call_us:.1f} µs.",
        f"Nodes' times: ONNX Runtime's profile, {roofline.profiler_shift_us:.1f} µs of its own cost taken off each, "
        f"then times {roofline.profiler_scale:.2f} to sum to the whole.",
    ]
    if is_noisy(roofline):
        lines.append(
            f"The machine is busy: {roofline.disturbed_share:.0%} of the calls were disturbed; run it again before you "
            "trust single layers."
        )
    if any(not node.flop_counted for node in nodes):
        lines.append("?: arithmetic of this kind of node is not known, and taken for none.")
    return "\n".join(lines)


def is_noisy(roofline: Roofline) -> bool:
    """Whether neighbours disturbed most calls, or the profile disagrees with the whole that was timed beside it."""
    return roofline.disturbed_share > NOISY_SHARE or not 1 / AGREEMENT <= roofline.profiler_scale <= AGREEMENT


def _time_us(nodes: tuple[RooflineNode, ...], bound: Bound) -> float:
    return sum(node.time_us for node in nodes if node.bound == bound)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else ""


def _bandwidths(roofline: Roofline) -> str:
    """The bandwidths that the file's nodes were held against."""
    used = {node.cached for node in roofline.nodes}
    both = [(True, roofline.peaks.cache_gbps), (False, roofline.peaks.memory_gbps)]
    return "/".join(f"{gbps:.0f}" for cached, gbps in both if cached in used)

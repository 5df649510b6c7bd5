"""Titles of tables: as wide as the terminal, however narrow the table."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from autoprune.foundation.terminal import stdout_console, titled


def narrow_table() -> Table:
    made = Table()
    made.add_column("a")
    made.add_row("1")
    return made


def test_a_narrow_table_does_not_wrap_its_title() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(titled("a title [much] longer than the table", narrow_table(), "and a caption below"))
    lines = console.export_text().splitlines()
    assert lines[0].rstrip() == "a title [much] longer than the table"  # brackets are no markup
    assert lines[-1].rstrip() == "and a caption below"


def test_without_a_caption_the_table_is_last() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(titled("title", narrow_table()))
    assert console.export_text().splitlines()[-1].startswith("└")


def test_results_in_a_pipe_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert stdout_console(columns=321).width == 321
    monkeypatch.setenv("COLUMNS", "90")
    assert stdout_console(columns=321).width == 90

"""What commands print: a console for results on stdout, and tables whose titles are as wide as the terminal."""

import os
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

WIDE = 1000  # columns of a log, where no terminal sets them: nothing is cut off


def stdout_console(*, columns: int = WIDE) -> Console:
    """For results: as wide as the terminal, or as COLUMNS says; `columns` wide in a pipe or a file."""
    made = Console(highlight=False, emoji=False)
    is_set = made.is_terminal or "COLUMNS" in os.environ
    return made if is_set else Console(highlight=False, emoji=False, width=columns)


def figures(columns: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> Table:
    """A table whose first columns, so many `names`, are left-aligned and all others right-aligned."""
    made = Table()
    for number, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if number < names else "right")
    for row in rows:
        made.add_row(*row)
    return made


def titled(title: str, table: Table, caption: str = "") -> Group:
    """`table` between its title and its caption, both plain text; Rich's own are wrapped to the width of the table."""
    below = [Text(caption, style="italic dim")] if caption else []
    return Group(Text(title, style="bold"), table, *below)

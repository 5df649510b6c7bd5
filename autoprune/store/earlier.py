"""`trials.sqlite` of the version before: its finished runs can be drawn, compared and gone on from, too."""

import functools
import math
import os
import sqlite3
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from autoprune.foundation.progress import say
from autoprune.foundation.scratch import scratch_folder

EARLIER_VERSION = 3  # it had a column for each metric of image classification


class ScratchCopy:
    """A copy of a database in a scratch folder, which is there for as long as this is."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        with ExitStack() as stack:
            self.path = stack.enter_context(scratch_folder()) / "trials.sqlite"
            with closing(sqlite3.connect(self.path)) as copy:
                connection.backup(copy)
            weakref.finalize(self, stack.pop_all().close)


def can_be_written(path: Path) -> bool:
    """Whether this process may change a database: SQLite writes a journal beside it."""
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))


@functools.cache  # a run to start from is opened more than once
def tell_brought_up(path: Path, *, is_copied: bool) -> None:
    what = "cannot be written: a copy of it is read" if is_copied else "is brought up to this version's form"
    say(f"{path}: was written by an earlier version and {what}")


def bring_up(connection: sqlite3.Connection, schema: Sequence[str], trial_columns: str) -> None:
    """Make a database of that version one of this, whose tables `schema` makes, in the transaction under way.

    Whatever it holds that it cannot is left to be found by `check_stored`.
    """
    connection.create_function("root", 1, lambda number: math.sqrt(max(0.0, number or 0.0)))
    columns = {str(row[1]) for row in connection.execute("PRAGMA table_info(trials)")}
    others = sorted(name for name in columns - {"kl", "top1"} if f"{name}_se" in columns and name.isidentifier())
    for statement in (
        "CREATE TEMP TABLE earlier AS SELECT * FROM trials",
        "DROP TABLE trials",
        *schema,
        f"INSERT INTO trials (id, {trial_columns}) SELECT id, {trial_columns} FROM earlier",
        "INSERT INTO metrics SELECT id, 'divergence', kl, kl_se, 0, 0 FROM earlier",
        "INSERT INTO metrics SELECT id, 'top1', top1, root(max(0.0, top1 * (1 - top1)) / images), 1, 1 FROM earlier",
        *(f"""INSERT INTO metrics SELECT id, '{name}', "{name}", "{name}_se", 0, 0 FROM earlier""" for name in others),
        """UPDATE facts SET value = replace(value, '"top1"', '"metric"') WHERE name LIKE '%original'""",
    ):
        connection.execute(statement)

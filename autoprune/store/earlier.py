"""`trials.sqlite` of the version before: its finished runs can be drawn, compared and gone on from, too."""

import math
import sqlite3
from collections.abc import Sequence

EARLIER_VERSION = 3  # it had a column for each metric of image classification


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

"""What `trials.sqlite` holds, checked row by row when it is opened: SQLite keeps a text where a number belongs."""

import math
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from autoprune.errors import InputError, shown
from autoprune.foundation.bounds import real_number, whole_number
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import DIVERGENCE, LARGEST_DIVERGENCE, ROUNDING

LARGEST_COST = 1e15  # in milliseconds, millijoules or seconds
REMEDY = "nothing was changed; put back a copy of the file, or delete that row, and what it told is measured again"


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise InputError(f"{name}: must be a text, got {shown(value)}")


def _policy(name: str, value: object) -> None:
    _text(name, value)
    try:
        PruningPolicy.of_key(str(value))
    except ValueError as error:
        raise InputError(f"{name}: not the channels of each group ({error}), got {shown(value)}") from None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


_number = partial(real_number, least=-math.inf, most=math.inf)
_positive = partial(real_number, least=0.0, most=LARGEST_COST)  # or 0
_divergence = partial(real_number, least=-ROUNDING, most=LARGEST_DIVERGENCE)
_loss = partial(real_number, least=0.0, most=math.inf)
_share = partial(real_number, least=0.0, most=1.0)
_count = partial(whole_number, least=0)
_from_one = partial(whole_number, least=1)
_flag = partial(whole_number, least=0, most=1)

FOREIGN = (
    "SELECT CASE WHEN type IN ('table', 'index') THEN 'virtual table' ELSE type END, name FROM sqlite_master "
    "WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%' LIMIT 1"
)

# (name, value) -> raises `InputError` naming `name`
Check = Callable[[str, object], object]
COLUMNS: Mapping[str, Mapping[str, Check]] = {
    "trials": {
        "fingerprint": _text, "policy": _policy, "images": _from_one, "look": _count, "complete": _flag,
        "wall_s": _positive, "created_at": _text,
    },
    "metrics": {
        "trial_id": _count, "name": _text, "value": _number, "standard_error": _loss, "higher_is_better": _flag,
        "is_share": _flag,
    },
    "episodes": {
        "searcher": _text, "seed": _count, "episode": _from_one, "trial_id": _count, "reward": _number,
        "predicted_latency_ms": _positive, "estimated_energy_mj": _positive, "macs": _count, "params": _count,
    },
    "facts": {"name": _text, "value": _text},
}  # fmt: skip


def check_stored(connection: sqlite3.Connection, path: Path, bring_up: Callable[[sqlite3.Connection], None]) -> None:
    """Raises `InputError` naming the first table and row of the database at `path` that cannot be as it is, after
    `bring_up` made it one of this version.

    A view may run for ever and a trigger change what is written, so that only tables are taken. The caller has begun a
    transaction: all tables are seen as they are at one moment, as another process may write.
    """
    foreign = connection.execute(FOREIGN).fetchone()
    if foreign is not None:
        kind, name = foreign
        raise InputError(
            f"{path}: not a trials database ({shown(name)} is a {kind}, not a table); move it away and start again"
        )
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        bring_up(connection)
        rows = {table: _rows(connection, table, columns) for table, columns in COLUMNS.items()}
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise  # a lock, no rights
        raise InputError(f"{path}: not a trials database ({error}); move it away and start again") from None
    finally:
        connection.text_factory = str
    trials: set[object] = set()
    for table, columns in COLUMNS.items():
        for number, *values in rows[table]:
            row = dict(zip(columns, values, strict=True))
            where = f"{path}: table {table}, row {shown(row['name']) if table == 'facts' else number}"
            try:
                _check_row(where, table, row, trials)
            except InputError as error:
                raise InputError(f"{error}; {REMEDY}") from None
            if table == "trials":
                trials.add(number)
    named = {(number, name == DIVERGENCE) for _, number, name, *_ in rows["metrics"]}
    for number in trials:
        if not {(number, True), (number, False)} <= named:
            raise InputError(
                f"{path}: table trials, row {number}: table metrics must have its {DIVERGENCE} and another; {REMEDY}"
            )


def _rows(connection: sqlite3.Connection, table: str, columns: Mapping[str, Check]) -> list[tuple[object, ...]]:
    return connection.execute(f"SELECT rowid, {', '.join(columns)} FROM {table} ORDER BY rowid").fetchall()


def _check_row(where: str, table: str, row: Mapping[str, object], trials: set[object]) -> None:
    for column, check in COLUMNS[table].items():
        check(f"{where}: {column}", row[column])
    if table == "metrics":
        check_value = _divergence if row["name"] == DIVERGENCE else _share if row["is_share"] else _number
        check_value(f"{where}: value", row["value"])
    if "trial_id" in row and row["trial_id"] not in trials:
        raise InputError(f"{where}: trial_id: there is no trial {row['trial_id']}")

"""The shared latency table in SQLite: what was measured once on a device serves every later model and run.

Readers never wait for a measurement. Measuring holds the write lock, so that two processes do not disturb each
other's timing: the second one waits and then finds what the first has measured.
"""

import contextlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoprune.errors import InputError, shown
from autoprune.foundation.files import cache_folder
from autoprune.foundation.progress import say
from autoprune.prediction.latency_fit import LatencyFit
from autoprune.prediction.layer_bench import METHOD, LayerInGraph
from autoprune.prediction.lock_holder import lock_holder
from autoprune.store.kept import Kept

TABLE_VARIABLE = "AUTOPRUNE_LATENCY_TABLE"
ANOTHER_FILE = f"name another file in {TABLE_VARIABLE}"
FILE_NAME = "latency.sqlite"
FORMAT = 1
FIT = Kept("latency_fit", TypeAdapter(LatencyFit))
LOCK_TIMEOUT_S = 900.0  # another process may be measuring
QUIET_WAIT_S = 1.0  # after which the user is told; Ctrl-C is heard as often
TABLES = {"devices", "layers"}  # what every format has
SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS layers (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    layer TEXT NOT NULL,                -- LayerInGraph.key
    ms REAL NOT NULL,
    measured_at TEXT NOT NULL,
    PRIMARY KEY (device_id, layer)
);
CREATE TABLE IF NOT EXISTS fits (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    model TEXT NOT NULL,                -- a hash of the architecture and its ladders
    fit TEXT NOT NULL,                  -- LatencyFit as JSON
    measured_at TEXT NOT NULL,
    PRIMARY KEY (device_id, model)
);
"""


def default_table_path() -> Path:
    """`AUTOPRUNE_LATENCY_TABLE`, or `latency.sqlite` in the cache folder."""
    named = os.environ.get(TABLE_VARIABLE)
    return Path(named) if named else cache_folder() / FILE_NAME


class TableStore:
    """One device's part of a table file. Raises `InputError` if the file is no latency table."""

    def __init__(self, path: Path, device_key: str) -> None:
        self.path = path
        self._device = json.dumps({"method": METHOD, "device": json.loads(device_key)}, sort_keys=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: its folder cannot be made ({error.strerror}); {ANOTHER_FILE}") from None
        with self._connection() as connection:
            self._prepare(connection)
            self._device_id = self._find_device(connection)

    def layers(self) -> dict[LayerInGraph, float]:
        """Milliseconds of all layers measured on this device. Raises `InputError` for a row that holds no such time."""
        with self._connection() as connection:
            rows = connection.execute("SELECT layer, ms FROM layers WHERE device_id = ?", (self._device_id,)).fetchall()
        return {_layer(self.path, key): _milliseconds(self.path, key, ms) for key, ms in rows}

    def fit(self, model: str) -> LatencyFit | None:
        with self._connection() as connection:
            return Recorder(self.path, connection, self._device_id).fit(model)

    @contextlib.contextmanager
    def measuring(self) -> Iterator["Recorder"]:
        """Hold the write lock while the block measures; what it records is kept when the block ends well."""
        with self._connection() as connection:
            self._begin(connection)
            with connection:  # commits, or rolls back
                yield Recorder(self.path, connection, self._device_id)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new file; refuse a file that is something else."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            # In one transaction: another process may be making the same file, or this one may be killed.
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif not tables >= TABLES:
            raise InputError(f"{self.path}: an SQLite file, but not a latency table; {ANOTHER_FILE}")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT:
            raise InputError(f"{self.path}: a latency table of format {found}, this version reads {FORMAT}; delete it")

    def _find_device(self, connection: sqlite3.Connection) -> int:
        query = "SELECT id FROM devices WHERE key = ?"
        row = connection.execute(query, (self._device,)).fetchone()
        if row is None:  # only then: writing waits for a process that measures
            self._begin(connection)
            connection.execute("INSERT OR IGNORE INTO devices (key) VALUES (?)", (self._device,))
            connection.execute("COMMIT")
            row = connection.execute(query, (self._device,)).fetchone()
        return int(row[0])

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock, within `LOCK_TIMEOUT_S`; says for whom it waits, as soon as that takes a moment."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        told = ""
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            connection.execute(f"PRAGMA busy_timeout = {round(1000 * min(QUIET_WAIT_S, left_s))}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            holder = lock_holder(self.path)
            if left_s <= QUIET_WAIT_S:
                raise InputError(
                    f"{self.path}: cannot be used as a latency table (database is locked by {holder} for "
                    f"{LOCK_TIMEOUT_S:.0f} s); wait until that is done, stop it, or {ANOTHER_FILE}"
                )
            if holder != told:
                say(f"{self.path}: waiting for {holder}, which measures into it, {left_s / 60:.0f} minutes at most")
                told = holder

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
            ) as connection:
                yield connection
        except sqlite3.OperationalError as error:  # a lock, no rights, a full disk
            raise InputError(f"{self.path}: cannot be used as a latency table ({error}); {ANOTHER_FILE}") from None
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path}: not a latency table, or a broken one ({error}); delete the file, and it is measured "
                f"again, or {ANOTHER_FILE}"
            ) from None


class Recorder:
    """What the holder of the write lock reads and writes."""

    def __init__(self, path: Path, connection: sqlite3.Connection, device_id: int) -> None:
        self._path, self._connection, self._device_id = path, connection, device_id

    def known(self, layers: Iterable[LayerInGraph]) -> dict[LayerInGraph, float]:
        """Those of `layers` that are stored by now."""
        query = "SELECT ms FROM layers WHERE device_id = ? AND layer = ?"
        found = {}
        for layer in layers:
            row = self._connection.execute(query, (self._device_id, layer.key)).fetchone()
            if row:
                found[layer] = _milliseconds(self._path, layer.key, row[0])
        return found

    def add(self, times_ms: Mapping[LayerInGraph, float]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?)",
            [(self._device_id, layer.key, ms, _now()) for layer, ms in times_ms.items()],
        )

    def fit(self, model: str) -> LatencyFit | None:
        query = "SELECT fit FROM fits WHERE device_id = ? AND model = ?"
        row = self._connection.execute(query, (self._device_id, model)).fetchone()
        return _fit(self._path, model, row[0]) if row else None

    def add_fit(self, model: str, fit: LatencyFit) -> None:
        row = (self._device_id, model, FIT.text(fit), _now())
        self._connection.execute("INSERT OR REPLACE INTO fits VALUES (?, ?, ?, ?)", row)


def _layer(path: Path, key: Any) -> LayerInGraph:
    try:
        return LayerInGraph.from_key(key)
    except ValueError:
        raise _broken(path, "layers", key, "layer", key) from None


def _milliseconds(path: Path, key: str, ms: Any) -> float:
    if not isinstance(ms, int | float) or not 0 <= ms < math.inf:
        raise _broken(path, "layers", key, "ms", ms)
    return float(ms)


def _fit(path: Path, model: str, fit: Any) -> LatencyFit:
    try:
        return FIT.read(fit)
    except (TypeError, ValueError):
        raise _broken(path, "fits", model, "fit", fit) from None


def _broken(path: Path, table: str, row: object, column: str, value: object) -> InputError:
    return InputError(
        f"{path}: table {table}, row {shown(row)}: {column} is broken ({shown(value)}); delete the file, and it is "
        f"measured again, or {ANOTHER_FILE}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

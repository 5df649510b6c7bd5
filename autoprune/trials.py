"""Trials in SQLite: each evaluated candidate is on disk before the next one starts, whatever kills the process."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoprune.errors import InputError
from autoprune.reward import Score

SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,           -- of all that the score depends on: weights, data, evaluation settings
    policy TEXT NOT NULL,                -- PruningPolicy.key
    kl REAL NOT NULL,
    cross_entropy REAL NOT NULL,
    top1 REAL NOT NULL,
    images INTEGER NOT NULL,
    wall_s REAL NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (fingerprint, policy)
);
CREATE TABLE IF NOT EXISTS episodes (
    searcher TEXT NOT NULL,
    seed INTEGER NOT NULL,
    episode INTEGER NOT NULL,
    trial_id INTEGER NOT NULL REFERENCES trials (id),
    reward REAL NOT NULL,
    predicted_latency_ms REAL NOT NULL,
    estimated_energy_mj REAL NOT NULL,
    macs INTEGER NOT NULL,
    params INTEGER NOT NULL,
    PRIMARY KEY (searcher, seed, episode)
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class EpisodeRow:
    """One episode of a search, joined with the trial that it evaluated or repeated."""

    searcher: str
    seed: int
    episode: int
    policy: str
    reward: float
    kl: float
    cross_entropy: float
    top1: float
    predicted_latency_ms: float
    estimated_energy_mj: float
    macs: int
    params: int
    wall_s: float


class TrialStore:
    """`trials.sqlite` of a run. Any number of readers and one writer at a time; every write is one transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._connection() as connection:
                connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a trials database ({error}); move it away and start again") from None

    def score(self, fingerprint: str, policy: str) -> Score | None:
        """The score of a policy that has been evaluated before, or None."""
        query = "SELECT kl, cross_entropy, top1, images FROM trials WHERE fingerprint = ? AND policy = ?"
        with self._connection() as connection:
            row = connection.execute(query, (fingerprint, policy)).fetchone()
        return Score(*row) if row else None

    def add_trial(self, fingerprint: str, policy: str, score: Score, *, wall_s: float) -> None:
        statement = (
            "INSERT OR IGNORE INTO trials (fingerprint, policy, kl, cross_entropy, top1, images, wall_s, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = (fingerprint, policy, score.kl, score.cross_entropy, score.top1, score.images, wall_s, created_at)
        with self._connection() as connection:
            connection.execute(statement, values)

    def add_episode(
        self,
        fingerprint: str,
        policy: str,
        *,
        searcher: str,
        seed: int,
        episode: int,
        reward: float,
        predicted_latency_ms: float,
        estimated_energy_mj: float,
        macs: int,
        params: int,
    ) -> None:
        """Note that `episode` of a search asked for `policy`, whose trial must be stored already."""
        statement = (
            "INSERT OR REPLACE INTO episodes "
            "SELECT ?, ?, ?, id, ?, ?, ?, ?, ? FROM trials WHERE fingerprint = ? AND policy = ?"
        )
        costs = (predicted_latency_ms, estimated_energy_mj, macs, params)
        with self._connection() as connection:
            connection.execute(statement, (searcher, seed, episode, reward, *costs, fingerprint, policy))

    def episodes(self) -> list[EpisodeRow]:
        query = (
            "SELECT searcher, seed, episode, policy, reward, kl, cross_entropy, top1, predicted_latency_ms, "
            "estimated_energy_mj, macs, params, wall_s FROM episodes JOIN trials ON trials.id = trial_id "
            "ORDER BY searcher, seed, episode"
        )
        with self._connection() as connection:
            return [EpisodeRow(*row) for row in connection.execute(query)]

    def count(self) -> int:
        with self._connection() as connection:
            return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])

    def fact(self, name: str) -> str | None:
        """A text kept beside the trials, such as the ladders that this run searches."""
        with self._connection() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30.0)) as connection, connection:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

"""Trials in SQLite: each evaluated candidate is on disk before the next one starts, whatever kills the process."""

import copy
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from autoprune.foundation.errors import InputError, RunError
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.store.stored import broken_fact, check_stored

LOCK_TIMEOUT_S = 30.0
SCHEMA_VERSION = 3
SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,           -- of all that the score depends on: weights, data, evaluation settings
    policy TEXT NOT NULL,                -- PruningPolicy.key
    kl REAL NOT NULL,
    cross_entropy REAL NOT NULL,
    top1 REAL NOT NULL,
    images INTEGER NOT NULL,
    kl_se REAL NOT NULL,
    cross_entropy_se REAL NOT NULL,
    look INTEGER NOT NULL,               -- 0, 1, ...: each closer than the one before
    complete INTEGER NOT NULL,           -- whether it was the closest look
    wall_s REAL NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (fingerprint, policy, look)
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
COMMIT;
"""
TRIAL_COLUMNS = (
    "fingerprint, policy, kl, cross_entropy, top1, images, kl_se, cross_entropy_se, look, complete, wall_s, created_at"
)

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Episode:
    """One episode of a search, counted from 1, and what its candidate is predicted to cost; fields as the columns."""

    searcher: str
    seed: int
    episode: int
    reward: float
    predicted_latency_ms: float
    estimated_energy_mj: float
    macs: int
    params: int


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
    look: int
    complete: bool

    @property
    def on_search_split(self) -> bool:
        """Whether the candidate did well enough to be scored on images that no one has learnt from."""
        return self.complete or self.look > 0

    @property
    def channels(self) -> dict[str, int]:
        """The policy as channels kept of each group."""
        return PruningPolicy.of_key(self.policy).as_dict()


class TrialStore:
    """`trials.sqlite` of a run, or a part of it; any number of readers, one writer, every write one transaction.

    Raises `InputError` for a file that is no such database, or naming the row that holds what it cannot; it is left as
    it is then.
    """

    def __init__(self, path: Path, *, parts: tuple[str, ...] = ()) -> None:
        self.path, self._parts = path, parts
        if path.is_dir():
            raise InputError(f"{path}: is a folder, and no trials database; move it away and start again")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if is_empty:
                connection.executescript(SCHEMA)  # in one transaction: another process may look at it
            elif version != SCHEMA_VERSION:
                raise InputError(f"{path}: written by another version of autoprune; start a new run")
            else:
                check_stored(connection, path)

    def scores(self, fingerprint: str, policy: str) -> tuple[Score, ...]:
        """The scores of a policy, by look; none if it has not been evaluated."""
        query = (
            "SELECT kl, cross_entropy, top1, images, kl_se, cross_entropy_se, look, complete FROM trials "
            "WHERE fingerprint = ? AND policy = ? ORDER BY look"
        )
        with self._connection() as connection:
            rows = connection.execute(query, (fingerprint, policy)).fetchall()
        return tuple(
            Score(kl, cross_entropy, top1, images, kl_se, cross_entropy_se, look, bool(complete))
            for kl, cross_entropy, top1, images, kl_se, cross_entropy_se, look, complete in rows
        )

    def add_trial(self, fingerprint: str, policy: str, scores: Sequence[Score], *, wall_s: float) -> None:
        """Store what closer and closer looks found, in `wall_s` together, in one transaction.

        The first score of a policy at a look stays. `RunError` if one is not finite, or beyond all that losses are.
        """
        for score in scores:
            if not score.is_sound:
                raise RunError(f"the candidate {policy} has no finite score ({score})")
        statement = (
            f"INSERT INTO trials ({TRIAL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (fingerprint, policy, look) DO NOTHING"
        )
        created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = []
        for score in scores:
            means = (score.kl, score.cross_entropy, score.top1, score.images)
            errors = (score.kl_se, score.cross_entropy_se, score.look, score.complete)
            rows.append((fingerprint, policy, *means, *errors, wall_s, created_at))
        with self._connection() as connection:
            connection.executemany(statement, rows)

    def add_episode(self, fingerprint: str, policy: str, episode: Episode, *, look: int) -> None:
        """Note an episode, which took the score of `policy` at `look`; `LookupError` if that is not stored."""
        statement = (
            "INSERT OR REPLACE INTO episodes "
            "SELECT ?, ?, ?, id, ?, ?, ?, ?, ? FROM trials WHERE fingerprint = ? AND policy = ? AND look = ?"
        )
        named = replace(episode, searcher=episode.searcher + self._suffix)
        with self._connection() as connection:
            cursor = connection.execute(statement, (*astuple(named), fingerprint, policy, look))
        if cursor.rowcount != 1:
            raise LookupError(f"no trial of {policy} under this fingerprint")

    def episodes(self) -> list[EpisodeRow]:
        """Those of this part and of the parts within it."""
        query = (
            "SELECT searcher, seed, episode, policy, reward, kl, cross_entropy, top1, predicted_latency_ms, "
            "estimated_energy_mj, macs, params, wall_s, look, complete "
            "FROM episodes JOIN trials ON trials.id = trial_id ORDER BY searcher, seed, episode"
        )
        with self._connection() as connection:
            rows = [EpisodeRow(*row) for row in connection.execute(query)]
        return [row for row in rows if f"{self._suffix}," in f"{row.searcher},"]

    def take_over(self, other: "TrialStore") -> None:
        """Copy all trials of `other` that are not here yet; its episodes and facts stay where they are."""
        with self._connection() as connection:
            connection.execute("ATTACH ? AS other", (str(other.path),))
            connection.execute(
                f"INSERT OR IGNORE INTO trials ({TRIAL_COLUMNS}) SELECT {TRIAL_COLUMNS} FROM other.trials"
            )

    def best_policies(self, count: int) -> tuple[str, ...]:
        """The distinct policies of episodes with the highest rewards, the best first."""
        query = (
            "SELECT policy FROM episodes JOIN trials ON trials.id = trial_id WHERE complete OR look > 0 "
            "GROUP BY policy ORDER BY max(reward) DESC LIMIT ?"
        )
        with self._connection() as connection:
            return tuple(str(row[0]) for row in connection.execute(query, (count,)))

    def count(self) -> int:
        """How many policies were evaluated, on however many images."""
        query = "SELECT count(*) FROM (SELECT DISTINCT fingerprint, policy FROM trials)"
        with self._connection() as connection:
            return int(connection.execute(query).fetchone()[0])

    def fact(self, name: str) -> str | None:
        """A text kept beside the trials, such as the ladders that this run searches."""
        with self._connection() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (self._fact_name(name),)).fetchone()
        return str(row[0]) if row else None

    def parsed_fact(self, name: str, parse: Callable[[str], Parsed]) -> Parsed | None:
        """What `parse` makes of a fact; None if it is not stored.

        Raises `InputError` naming the row if `parse` fails, with what it raises for JSON of another form.
        """
        text = self.fact(name)
        try:
            return None if text is None else parse(text)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise broken_fact(self.path, self._fact_name(name), error) from None

    def set_fact(self, name: str, value: str) -> None:
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (self._fact_name(name), value))

    def part(self, name: str) -> "TrialStore":
        """What one of several searches in this store writes: its own episodes and facts.

        Scores are those of the whole store: what one part has evaluated, no other part evaluates again.
        """
        made = copy.copy(self)  # what is stored has been checked
        made._parts = (*self._parts, name)
        return made

    @property
    def _suffix(self) -> str:
        return "".join(f", {part}" for part in self._parts)

    def _fact_name(self, name: str) -> str:
        return ": ".join([*self._parts, name])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S)) as connection, connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.OperationalError as error:  # a lock, a full disk, no rights
            remedy = "; free some space and go on with --resume" if "disk is full" in str(error) else ""
            raise RunError(f"{self.path}: {error}{remedy}") from None
        except sqlite3.IntegrityError:  # a value that no caller may pass
            raise
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: not a trials database ({error}); move it away and start again") from None

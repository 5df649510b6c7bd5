"""Trials in SQLite: each evaluated candidate is on disk before the next one starts, whatever kills the process."""

import copy
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoprune.errors import InputError, RunError
from autoprune.space.policy import PruningPolicy
from autoprune.store.earlier import EARLIER_VERSION, ScratchCopy, bring_up, can_be_written, tell_brought_up
from autoprune.store.kept import Kept, Value
from autoprune.store.score import Metric, Score
from autoprune.store.stored import REMEDY, check_stored

LOCK_TIMEOUT_S = 30.0
SCHEMA_VERSION = 4
SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,           -- of all that the score depends on: weights, data, evaluation settings
    policy TEXT NOT NULL,                -- PruningPolicy.key
    images INTEGER NOT NULL,
    look INTEGER NOT NULL,               -- 0, 1, ...: each closer than the one before
    complete INTEGER NOT NULL,           -- whether it was the closest look
    wall_s REAL NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (fingerprint, policy, look)
);
CREATE TABLE IF NOT EXISTS metrics (     -- of a trial's score, in their order
    trial_id INTEGER NOT NULL REFERENCES trials (id),
    name TEXT NOT NULL,
    value REAL NOT NULL,
    standard_error REAL NOT NULL,
    higher_is_better INTEGER NOT NULL,
    is_share INTEGER NOT NULL,
    PRIMARY KEY (trial_id, name)
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
TRIAL_COLUMNS = "fingerprint, policy, images, look, complete, wall_s, created_at"
METRIC_COLUMNS = "name, value, standard_error, higher_is_better, is_share"
PART_END = ": "  # between the names of parts and of what a step left


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
class EpisodeRow(Episode):
    """One episode of a search, joined with the trial that it evaluated or repeated."""

    policy: str
    wall_s: float
    score: Score

    @property
    def on_search_split(self) -> bool:
        """Whether the candidate did well enough to be scored on images that no one has learnt from."""
        return self.score.complete or self.score.look > 0

    @property
    def channels(self) -> dict[str, int]:
        """The policy as channels kept of each group."""
        return PruningPolicy.of_key(self.policy).as_dict()


class TrialStore:
    """`trials.sqlite` of a run, or a part of it; any number of readers, one writer, every write one transaction.

    One of the version before becomes one of this; where it cannot be written, a copy does, which is read alone. Raises
    `InputError` for a file that is no such database, or naming the row that holds what it cannot; it is left as it is
    then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: tuple[str, ...] = ()
        self._copy: ScratchCopy | None = None  # of a file of the version before that cannot be written
        if path.is_dir():
            raise InputError(f"{path}: is a folder, and no trials database; move it away and start again")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            made = ScratchCopy(connection) if version == EARLIER_VERSION and not can_be_written(path) else None
        with self._connection(None if made is None else made.path) as connection:
            # In one transaction: another process may look at it, or be about the same.
            connection.execute("BEGIN" if version == SCHEMA_VERSION else "BEGIN IMMEDIATE")
            check_stored(connection, path, self._bring_up)
        self._copy = made
        if version == EARLIER_VERSION:
            tell_brought_up(path, is_copied=made is not None)

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
        elif version == EARLIER_VERSION:
            bring_up(connection, SCHEMA.split(";"), TRIAL_COLUMNS)
        elif version != SCHEMA_VERSION:
            raise InputError(f"{self.path}: written by another version of autoprune; start a new run")

    def scores(self, fingerprint: str, policy: str) -> tuple[Score, ...]:
        """The scores of a policy, by look; none if it has not been evaluated."""
        with self._connection() as connection:
            found = _scores(connection, "fingerprint = ? AND policy = ?", (fingerprint, policy))
        return tuple(sorted(found.values(), key=lambda score: score.look))

    def add_trial(self, fingerprint: str, policy: str, scores: Sequence[Score], *, wall_s: float) -> None:
        """Store what closer and closer looks found, in `wall_s` together, in one transaction.

        The first score of a policy at a look stays. `RunError` if one is not finite, or beyond all that losses are.
        """
        for score in scores:
            if not score.is_sound:
                raise RunError(f"the candidate {policy} has no finite score ({score})")
        statement = (
            f"INSERT INTO trials ({TRIAL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (fingerprint, policy, look) DO NOTHING"
        )
        created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._connection() as connection:
            for score in scores:
                row = (fingerprint, policy, score.images, score.look, score.complete, wall_s, created_at)
                cursor = connection.execute(statement, row)
                if cursor.rowcount == 1:
                    connection.executemany(
                        f"INSERT INTO metrics (trial_id, {METRIC_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                        [(cursor.lastrowid, name, *astuple(metric)) for name, metric in score.metrics.items()],
                    )

    def add_episode(self, fingerprint: str, policy: str, episode: Episode, *, look: int) -> None:
        """Note an episode, which took the score of `policy` at `look`; `LookupError` if that is not stored."""
        statement = (
            "INSERT OR REPLACE INTO episodes "
            "SELECT ?, ?, ?, id, ?, ?, ?, ?, ? FROM trials WHERE fingerprint = ? AND policy = ? AND look = ?"
        )
        named = replace(episode, searcher=episode.searcher + self.suffix)
        with self._connection() as connection:
            cursor = connection.execute(statement, (*astuple(named), fingerprint, policy, look))
        if cursor.rowcount != 1:
            raise LookupError(f"no trial of {policy} under this fingerprint")

    def episodes(self) -> list[EpisodeRow]:
        """Those of this part and of the parts within it."""
        query = (
            "SELECT trial_id, searcher, seed, episode, reward, predicted_latency_ms, estimated_energy_mj, macs, "
            "params, policy, wall_s FROM episodes JOIN trials ON trials.id = trial_id ORDER BY searcher, seed, episode"
        )
        with self._connection() as connection:
            scores = _scores(connection, "TRUE", ())
            rows = [EpisodeRow(*(*row, scores[number])) for number, *row in connection.execute(query)]
        return [row for row in rows if f"{self.suffix}," in f"{row.searcher},"]

    def take_over(self, other: "TrialStore") -> None:
        """Copy all trials of `other` that are not here yet; its episodes and facts stay where they are."""
        with self._connection() as connection:
            connection.execute("ATTACH ? AS other", (str(other._file),))
            connection.execute(
                f"INSERT OR IGNORE INTO trials ({TRIAL_COLUMNS}) SELECT {TRIAL_COLUMNS} FROM other.trials"
            )
            connection.execute(
                f"INSERT OR IGNORE INTO metrics (trial_id, {METRIC_COLUMNS}) SELECT ours.id, {METRIC_COLUMNS} "
                "FROM other.metrics JOIN other.trials AS theirs ON theirs.id = trial_id "
                "JOIN trials AS ours USING (fingerprint, policy, look) ORDER BY other.metrics.rowid"
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

    def kept(self, step: Kept[Value], check: Callable[[Value], object] | None = None) -> Value | None:
        """What a step left; None if it is still to be done.

        Raises `InputError`, naming the row, for what is not of the step's form, or what `check` raises `ValueError` of.
        """
        row_name = self._fact_name(step.name)
        with self._connection() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (row_name,)).fetchone()
        return None if row is None else self._read(step, row_name, row[0], check)

    def keep(self, step: Kept[Value], value: Value) -> None:
        try:
            row = (self._fact_name(step.name), step.text(value))
        except ValueError as error:
            raise RunError(f"{step.name}: cannot be kept ({error})") from None
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", row)

    def once(
        self, step: Kept[Value], compute: Callable[[], Value], check: Callable[[Value], object] | None = None
    ) -> Value:
        """What a step left, or what `compute` gives, which is kept before this returns; see `kept`."""
        found = self.kept(step, check)
        if found is None:
            found = compute()
            self.keep(step, found)
        return found

    def check(self, steps: Iterable[Kept[Any]]) -> None:
        """Whatever these steps left, in all parts, before any work; `InputError` as `kept` raises it."""
        forms = {step.name: step for step in steps}
        with self._connection() as connection:
            rows = connection.execute("SELECT name, value FROM facts").fetchall()
        for name, text in rows:
            if (step := forms.get(name.rpartition(PART_END)[2])) is not None:
                self._read(step, name, text)

    def holds_more_than(self, steps: Iterable[Kept[Any]]) -> bool:
        """Whether any other step has left something, in whatever part."""
        names = {step.name for step in steps}
        with self._connection() as connection:
            rows = connection.execute("SELECT name FROM facts").fetchall()
        return any(name.rpartition(PART_END)[2] not in names for (name,) in rows)

    def _read(self, step: Kept[Value], name: str, text: str, check: Callable[[Value], object] | None = None) -> Value:
        try:
            found = step.read(text)
            if check is not None:
                check(found)
        except ValueError as error:
            raise InputError(f"{self.path}: table facts, row {name!r}: value: {error}; {REMEDY}") from None
        return found

    def part(self, name: str) -> "TrialStore":
        """What one of several searches in this store writes: its own episodes and facts.

        Scores are those of the whole store: what one part has evaluated, no other part evaluates again.
        """
        made = copy.copy(self)  # what is stored has been checked
        made._parts = (*self._parts, name)
        return made

    @property
    def _file(self) -> Path:
        return self.path if self._copy is None else self._copy.path

    @property
    def suffix(self) -> str:
        return "".join(f", {part}" for part in self._parts)

    def _fact_name(self, name: str) -> str:
        return PART_END.join([*self._parts, name])

    @contextmanager
    def _connection(self, file: Path | None = None) -> Iterator[sqlite3.Connection]:
        """To `file`, or to what holds the trials; a copy is read alone."""
        try:
            with closing(sqlite3.connect(file or self._file, timeout=LOCK_TIMEOUT_S)) as connection, connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA query_only = {self._copy is not None}")
                yield connection
        except sqlite3.OperationalError as error:  # a lock, a full disk, no rights
            remedy = "; free some space and go on with --resume" if "disk is full" in str(error) else ""
            raise RunError(f"{self.path}: {error}{remedy}") from None
        except sqlite3.IntegrityError:  # a value that no caller may pass
            raise
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: not a trials database ({error}); move it away and start again") from None


def _scores(connection: sqlite3.Connection, where: str, values: tuple[str, ...]) -> dict[int, Score]:
    """The scores of the trials `where` something holds, by the trial's number."""
    metrics: dict[int, dict[str, Metric]] = defaultdict(dict)
    chosen = f"SELECT id FROM trials WHERE {where}"
    query = f"SELECT trial_id, {METRIC_COLUMNS} FROM metrics WHERE trial_id IN ({chosen}) ORDER BY rowid"
    for number, name, value, error, higher_is_better, is_share in connection.execute(query, values):
        metrics[number][name] = Metric(value, error, bool(higher_is_better), bool(is_share))
    rows = connection.execute(f"SELECT id, images, look, complete FROM trials WHERE {where}", values)
    return {number: Score(metrics[number], images, look, bool(complete)) for number, images, look, complete in rows}

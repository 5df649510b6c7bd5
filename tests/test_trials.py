"""Trials are on disk when `add_trial` returns, whatever kills the process afterwards."""

import json
import math
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_for_tests import scored
from pydantic import TypeAdapter
from rights_for_tests import as_nobody
from small_job import autoprune, done

from autoprune.errors import InputError, RunError
from autoprune.foundation import progress
from autoprune.jobs.run import STEPS
from autoprune.prediction.layer_bench import LayerInGraph
from autoprune.pruning.cost import LayerShape
from autoprune.search.prepare import ORIGINAL, OriginalPoint
from autoprune.store import trials as trials_module
from autoprune.store.kept import Kept
from autoprune.store.trials import Episode, EpisodeRow, TrialStore

P, Q = '{"a":1,"b":2}', '{"a":1,"b":3}'  # keys of policies
SCORE = scored(kl=0.25, cross_entropy=0.5, top1=0.9, images=2000)

# Adds trials named after `first`, `first + 1`, … and prints each name once its call has returned.
WRITER = (
    f"import sys; sys.path.append({str(Path(__file__).parent)!r})"
    + """
from pathlib import Path
from autoprune.store.trials import TrialStore
from judging_for_tests import scored

path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = TrialStore(path)
for number in range(first, first + count):
    store.add_trial("f", '{"a":%d}' % number, [scored(number / 7, 0.5, 0.9, 10)], wall_s=0.1)
    print(number, flush=True)
"""
)


def filled(path: Path) -> TrialStore:
    """Two trials, an episode of each, and a fact of each form."""
    store = TrialStore(path)
    for number, policy in enumerate((P, Q), 1):
        store.add_trial("f", policy, [SCORE], wall_s=1.5)
        add_episode(store, policy, number)
    for name, value in FACTS.items():
        change(path, "INSERT INTO facts VALUES (?, ?)", name, json.dumps(value))
    return store


LAYER = LayerInGraph(LayerShape("conv", 3, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, (8, 8), (8, 8), False))
RESIDUAL = {"length": 0.5, "centre": [0.1], "spread": [1.0], "points": [[0.2]], "weights": [0.3]}
FIT = {"offset_ms": 0.1, "scale": 1.0, "cold_share": 0.0, "cache_mb": 1.0, "spill_mb": 1.0, "residual": RESIDUAL}
FACTS: dict[str, object] = {
    "latency": {"layers": {LAYER.key: 0.1}, "fit": FIT, "ladders": {"a": [1, 2]}},
    "energy": {"pj_per_mac": 4.6, "pj_per_value_moved": 100.0, "mj_per_call": 0.0},
    "files_timed": {"policies": ["{}"], "latency_error": 1.1, "target_met": True, "measured": {"{}": 0.98}},
    "finalists": {P: 0.1},
    "narrowed": {"steps": [{"policy": {"a": 1}, "text": "a 2 -> 1"}], "settled": False},
    "levels": [{"a": 1}, {"a": 2}],
    "mixtures": [{"levels": [0, 1], "holds": True, "worth": 0.9, "estimated_latency_ms": 0.2}],
    "finetune_log": [{"epoch": 1, "train_loss": 0.5, "search_accuracy": 0.9, "learning_rate": 0.01}],
    "trial 1: verdict": {
        "ratio": 0.5,
        "reached": 0.5,
        "search_accuracy": 0.9,
        "drop": 0.0,
        "drop_se": 0.1,
        "accepted": True,
    },
}


def add_episode(
    store: TrialStore, policy: str, number: int, reward: float = 1.0, fingerprint: str = "f", look: int = 0
) -> None:
    episode = Episode("ddpg", 0, number, reward, 0.3, 1.5, macs=31_000_000, params=272_186)
    store.add_episode(fingerprint, policy, episode, look=look)


def test_scores_come_back_by_fingerprint_and_policy(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "run" / "trials.sqlite")
    assert store.scores("f", P) == ()
    store.add_trial("f", P, [SCORE], wall_s=1.5)
    assert store.scores("f", P) == (SCORE,)
    assert store.scores("f", Q) == ()
    assert store.scores("g", P) == ()
    assert TrialStore(store.path).scores("f", P) == (SCORE,)
    assert store.count() == 1


def test_the_first_score_of_a_policy_stays(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", P, [SCORE], wall_s=1.5)
    store.add_trial("f", P, [scored(9.0, 9.0, 0.1, SCORE.images)], wall_s=1.5)
    assert store.scores("f", P) == (SCORE,)
    assert store.count() == 1


def test_episodes_are_joined_with_their_trials_in_order(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", P, [SCORE], wall_s=1.5)
    store.add_trial("f", Q, [scored(0.5, 0.75, 0.8, 2000)], wall_s=2.0)
    for episode, policy in ((2, Q), (1, P), (3, P)):
        add_episode(store, policy, episode)
    rows = store.episodes()
    assert [(row.episode, row.policy, row.score.kl) for row in rows] == [(1, P, 0.25), (2, Q, 0.5), (3, P, 0.25)]
    costs = {"predicted_latency_ms": 0.3, "estimated_energy_mj": 1.5, "macs": 31_000_000, "params": 272_186}
    assert rows[0] == EpisodeRow("ddpg", 0, 1, reward=1.0, **costs, policy=P, wall_s=1.5, score=SCORE)  # type: ignore[arg-type]


def test_a_resumed_search_writes_its_episodes_again(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", P, [SCORE], wall_s=1.5)
    add_episode(store, P, 1, reward=1.0)
    add_episode(store, P, 1, reward=2.0)
    assert [row.reward for row in store.episodes()] == [2.0]


def test_an_episode_without_its_trial_is_refused(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", P, [SCORE], wall_s=1.5)
    for policy, fingerprint in ((Q, "f"), (P, "g")):
        with pytest.raises(LookupError, match=f"no trial of {re.escape(policy)}"):
            add_episode(store, policy, 1, fingerprint=fingerprint)
    assert store.episodes() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, 1e7, -0.5])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    with pytest.raises(RunError, match=r"the candidate .* has no finite score"):
        store.add_trial("f", P, [scored(value, 0.5, 0.9, 10)], wall_s=1.0)
    assert store.count() == 0


WIDTHS = Kept("widths", TypeAdapter(dict[str, tuple[int, ...]]))


def test_what_a_step_leaves_is_kept_and_replaced(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    assert store.kept(WIDTHS) is None
    for value in ({"a": (1,)}, {"a": (2,)}):
        store.keep(WIDTHS, value)
        assert TrialStore(store.path).kept(WIDTHS) == value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_could_not_be_read_again_is_not_kept(tmp_path: Path, value: float) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    with pytest.raises(RunError, match=r"shares: cannot be kept \('a': "):
        store.keep(Kept("shares", TypeAdapter(dict[str, float])), {"a": value})
    assert not store.holds_more_than(())


def test_whether_other_steps_have_left_something(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.keep(WIDTHS, {})
    assert not store.holds_more_than([WIDTHS])
    store.part("trial 1").part("corrected").keep(replace(WIDTHS, name="other"), {})
    assert store.holds_more_than([WIDTHS])


def test_a_step_is_done_once(tmp_path: Path) -> None:
    """Also where what it leaves is empty."""
    done = iter([{}, {"a": (1,)}])
    path = tmp_path / "trials.sqlite"
    assert TrialStore(path).once(WIDTHS, lambda: next(done)) == TrialStore(path).once(WIDTHS, lambda: next(done)) == {}
    assert TrialStore(path).part("trial 1").once(WIDTHS, lambda: next(done)) == {"a": (1,)}


def test_four_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trials.sqlite"
    starts = (0, 20, 40, 40)  # the last two write the same ones
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start), "30"], stdout=subprocess.PIPE, text=True)
        for start in starts
    ]
    outputs = [writer.communicate(timeout=300)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert outputs == [[str(start + number) for number in range(30)] for start in starts]
    store = TrialStore(path)
    assert store.count() == 70
    assert store.scores("f", '{"a":55}') == (scored(55 / 7, 0.5, 0.9, 10),)


def test_a_writer_killed_with_9_loses_nothing_that_it_had_stored(tmp_path: Path) -> None:
    path = tmp_path / "trials.sqlite"
    stored: list[int] = []
    for attempt, delay_s in enumerate((0.0, 0.003, 0.011, 0.02, 0.047)):
        arguments = [sys.executable, "-c", WRITER, str(path), str(attempt * 100_000), "100000"]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            stored.append(int(writer.stdout.readline()))
            time.sleep(delay_s)
            writer.kill()
            stored += [int(line) for line in writer.stdout.read().split()]
        assert writer.returncode == -9
        store = TrialStore(path)
        assert all(store.scores("f", f'{{"a":{number}}}') == (scored(number / 7, 0.5, 0.9, 10),) for number in stored)
        assert len(stored) <= store.count() <= len(stored) + attempt + 1  # at most one unreported in each attempt
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("content", [b"text, not a database" * 50, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_named_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trials.sqlite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trials\.sqlite: not a trials database .*; move it away and start again"):
        TrialStore(path)
    assert path.read_bytes() == content


def test_damage_inside_a_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trials.sqlite"
    store = TrialStore(path)
    store.add_trial("f", "7", [SCORE], wall_s=1.0)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trials\.sqlite: not a trials database \(.*malformed"):
        store.scores("f", "7")


def test_a_lock_that_another_process_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "LOCK_TIMEOUT_S", 0.05)
    store = TrialStore(tmp_path / "trials.sqlite")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match=r"trials\.sqlite: database is locked"):
        store.add_trial("f", P, [SCORE], wall_s=1.0)
    other.close()
    store.add_trial("f", P, [SCORE], wall_s=1.0)
    assert store.count() == 1


def test_a_path_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, and no trials database; move it away"):
        TrialStore(tmp_path)


def change(path: Path, statement: str, *values: object) -> bytes:
    """Change what is stored behind the store's back; the bytes of the file then."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1
    return path.read_bytes()


def test_whatever_is_stored_can_be_opened_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "trials.sqlite")
    again = TrialStore(store.path)
    assert [row.channels for row in again.episodes()] == [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    again.check(STEPS)
    store.path.chmod(0o444)
    store.path.parent.chmod(0o555)
    assert TrialStore(store.path).count() == 2  # to read it nothing is written
    store.path.parent.chmod(0o755)


NO_NUMBERS = ("abc", b"\x00", "", "nan", "1e999", float("inf"))
NO_LOSSES = (*NO_NUMBERS, -0.5, 1e308, 1.1e6)
NO_COUNTS = (*NO_NUMBERS, -1, 1.5)
NO_TEXTS = ("", b"\xff\xfe")
NO_POLICIES = (
    *NO_TEXTS,
    *("p", "[1]", "{", "null", '{"a":-1}', '{"a":1.5}', '{"a":"1"}', '{"a":true}', '{"a":NaN}', '{"a":1,"a":2}'),
    *('{"a":{"b":1}}', "[" * 100_000, '{"a":' * 100_000),
)
WRONG: dict[str, dict[str, tuple[object, ...]]] = {
    "trials": {
        "fingerprint": NO_TEXTS, "policy": NO_POLICIES, "images": (*NO_COUNTS, 0), "look": NO_COUNTS,
        "complete": (*NO_COUNTS, 2), "wall_s": (*NO_NUMBERS, -1.0, 1e300), "created_at": NO_TEXTS,
    },
    "metrics": {
        "trial_id": (*NO_COUNTS, 77), "name": NO_TEXTS, "value": (*NO_NUMBERS, 1.5, -0.1),
        "standard_error": (*NO_NUMBERS, -0.1), "higher_is_better": (*NO_COUNTS, 2), "is_share": (*NO_COUNTS, 2),
    },
    "episodes": {
        "searcher": NO_TEXTS, "seed": NO_COUNTS, "episode": (*NO_COUNTS, 0), "trial_id": (*NO_COUNTS, 77),
        "reward": NO_NUMBERS, "predicted_latency_ms": (*NO_NUMBERS, -1.0), "estimated_energy_mj": (*NO_NUMBERS, -1.0),
        "macs": NO_COUNTS, "params": NO_COUNTS,
    },
}  # fmt: skip
CASES = [(table, column, value) for table, columns in WRONG.items() for column in columns for value in columns[column]]


@pytest.mark.parametrize(("table", "column"), dict.fromkeys((table, column) for table, column, _ in CASES))
def test_a_row_that_holds_what_it_cannot_is_named_and_left(tmp_path: Path, table: str, column: str) -> None:
    filled(tmp_path / "whole.sqlite")
    path = tmp_path / "trials.sqlite"
    for value in WRONG[table][column]:
        path.write_bytes((tmp_path / "whole.sqlite").read_bytes())
        spoilt = change(path, f"UPDATE {table} SET {column} = ? WHERE rowid = 2", value)
        with pytest.raises(InputError) as caught:
            TrialStore(path)
        assert str(caught.value).startswith(f"{path}: table {table}, row 2: {column}: "), value
        assert "nothing was changed; put back a copy of the file, or delete that row" in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert path.read_bytes() == spoilt


@given(
    place=st.sampled_from([(table, column) for table, columns in WRONG.items() for column in columns]),
    value=st.one_of(st.text(max_size=5), st.binary(max_size=5), st.integers(-(2**63), 2**63 - 1), st.floats()),
)
def test_any_value_is_named_or_can_be_read(tmp_path_factory: pytest.TempPathFactory, place: Any, value: Any) -> None:
    table, column = place
    path = tmp_path_factory.mktemp("any") / "trials.sqlite"
    filled(path)
    try:
        change(path, f"UPDATE {table} SET {column} = ? WHERE rowid = 2", value)
    except (sqlite3.IntegrityError, UnicodeEncodeError):  # SQLite itself refuses it
        return
    try:
        rows = TrialStore(path).episodes()
    except InputError as error:
        assert str(error).startswith(f"{path}: table {table}, row 2: {column}: ")
        return
    assert len(rows) == 2
    for row in rows:
        assert row.channels
        assert math.isfinite(
            row.reward + row.score.divergence + row.predicted_latency_ms + row.macs + row.params + row.wall_s
        )


def latency(**changed: object) -> str:
    return json.dumps({"layers": {}, "fit": FIT, "ladders": {}} | changed)


BROKEN_FACTS: dict[str, tuple[str, ...]] = {
    "latency": (
        "{}",
        latency(layers={LAYER.key: "fast"}),
        latency(layers={LAYER.key: -1.0}),
        latency(layers={"{}": 1.0}),
        latency(fit={"offset_ms": 0.1}),
        latency(fit=FIT | {"cold_shar": 0.1}),
        *(latency(ladders=ladders) for ladders in ({"a": []}, {"a": [1.5]}, {"a": [-1]}, [])),
    ),
    "energy": ('{"pj_per_mac": "much", "pj_per_value_moved": 1}', "[1]"),
    "finalists": ('{"p": null}', "[]"),
    "narrowed": ("{}", '{"steps": []}', '{"settled": true}', '{"steps": [["a 4 -> 3"]], "settled": true}'),
    "files_timed": (
        '{"policies": ["{}"], "latency_error": 1, "target_met": true}',
        '{"policies": [], "latency_error": 1, "target_met": true, "measured": {}}',
        "[]",
    ),
    "levels": ("[]", '[{"a": -1}]', "7", '[["a", 1]]'),
    "mixtures": ("[]", '[{"levels": []}]', "{}"),
    "trial 1: verdict": ('{"of": "another module"}',),
    "finetune_log": (
        '[{"epoch": 1}]',
        "{}",
        '[{"epoch": 1, "train_loss": 1, "search_accuracy": "high", "learning_rate": 1}]',
        '[{"epoch": -1, "train_loss": 1, "search_accuracy": 1, "learning_rate": 1}]',
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_broken_fact_is_named_and_left(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trials.sqlite"
    filled(path)
    for value in ("", "{", "NaN", '{"a": Infinity}', "[" * 100_000, b"{}", *BROKEN_FACTS.get(name, ())):
        spoilt = change(path, "UPDATE facts SET value = ? WHERE name = ?", value, name)
        with pytest.raises(InputError) as caught:
            TrialStore(path).check(STEPS)
        assert str(caught.value).startswith(f"{path}: table facts, row {name!r}: value: "), value
        assert path.read_bytes() == spoilt


@pytest.mark.parametrize("name", ["divergence", "top1"])
def test_a_trial_without_its_metrics_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trials.sqlite"
    filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE trial_id = 2 AND name IN (?, 'cross_entropy')", (name,))
    with pytest.raises(InputError, match="table trials, row 2: table metrics must have its divergence and another"):
        TrialStore(path)


def test_trials_that_are_taken_over_keep_their_metrics(tmp_path: Path) -> None:
    """Also where the other store numbers them otherwise, and where one is here already."""
    ours, theirs = TrialStore(tmp_path / "ours.sqlite"), TrialStore(tmp_path / "theirs.sqlite")
    ours.add_trial("f", P, [SCORE], wall_s=1.0)
    other = scored(0.5, 0.75, 0.8, 2000, kl_se=0.01)
    theirs.add_trial("f", Q, [other], wall_s=1.0)
    theirs.add_trial("f", P, [scored(9.0, 9.0, 0.1, 2000)], wall_s=1.0)
    ours.take_over(theirs)
    assert ours.scores("f", P) == (SCORE,)
    assert ours.scores("f", Q) == (other,)
    assert list(ours.scores("f", Q)[0].metrics) == ["divergence", "top1", "cross_entropy"]
    assert TrialStore(ours.path).count() == 2


def test_what_a_step_of_another_problem_left_is_named(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite").part("trial 1")

    def refuse(widths: dict[str, tuple[int, ...]]) -> None:
        if "b" not in widths:
            raise ValueError("no b")

    assert store.kept(WIDTHS, refuse) is None
    store.keep(WIDTHS, {"a": (1,)})
    for read in (lambda: store.kept(WIDTHS, refuse), lambda: store.once(WIDTHS, dict, refuse)):
        with pytest.raises(InputError, match="table facts, row 'trial 1: widths': value: no b; nothing"):
            read()


@pytest.mark.parametrize(
    "statement", ["DROP TABLE facts", "ALTER TABLE metrics DROP COLUMN value", "ALTER TABLE episodes RENAME TO lost"]
)
def test_a_database_without_its_tables_is_named_and_left(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "trials.sqlite"
    filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    spoilt = path.read_bytes()
    with pytest.raises(InputError, match=r"trials\.sqlite: not a trials database \(no such "):
        TrialStore(path)
    assert path.read_bytes() == spoilt


RECURSIVE = (
    "CREATE VIEW trials AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id FROM c"
)


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (("ALTER TABLE trials RENAME TO hidden", RECURSIVE), "'trials' is a view"),
        (("CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END",), "'t' is a trigger"),
        (("CREATE VIRTUAL TABLE v USING fts5 (a)",), "'v' is a virtual table"),
    ],
)
def test_only_tables_are_read(tmp_path: Path, statements: tuple[str, ...], kind: str) -> None:
    path = tmp_path / "trials.sqlite"
    filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(InputError, match=rf"not a trials database \({kind}, not a table\); move it away"):
        TrialStore(path)


def test_commands_name_the_row_and_lose_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done("search", "toy", "-o", "search.max_evaluations=4", "--run-dir", run_dir, "--agent", "evolution")
    path = run_dir / "trials.sqlite"
    spoilt = change(path, "UPDATE metrics SET value = 'abc' WHERE rowid = 3")
    for command in (
        ("search", "toy", "-o", "search.max_evaluations=4", "--agent", "evolution", "--run-dir", run_dir, "--resume"),
        ("front", run_dir),
    ):
        finished = autoprune(*command)
        assert finished.returncode == 2, finished.stderr
        assert finished.stderr.startswith(
            f"error: {path}: table metrics, row 3: value: must be a finite number, got 'abc'; "
        )
        assert len(finished.stderr.splitlines()) == 1
        assert path.read_bytes() == spoilt


EARLIER = """
BEGIN IMMEDIATE;
PRAGMA user_version = 3;
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


def written_by_the_version_before(path: Path, *, top1: object = 0.9, look: object = 0) -> Path:
    """Two looks at one policy and a complete one at another, an episode of each policy, and facts."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(EARLIER)
        trials = [
            (7, "f", P, 0.5, 0.75, 0.8, 100, 0.04, 0.05, 0, 0),
            (8, "f", P, 0.25, 0.5, top1, 100, 0.02, 0.03, 1, 1),
            (9, "g", Q, 1.0, 1.5, 0.5, 100, 0.1, 0.2, look, 1),
        ]
        for row in trials:
            connection.execute(f"INSERT INTO trials VALUES ({', '.join('?' * 13)})", (*row, 1.5, "2026-11-25T00:00:00"))
        for number, trial in ((1, 8), (2, 9)):
            episode = ("ddpg", 0, number, trial, 1.0 * number, 0.3, 1.5, 31_000_000, 272_186)
            connection.execute(f"INSERT INTO episodes VALUES ({', '.join('?' * 9)})", episode)
        for name in ("original", "trial 1: original"):
            connection.execute("INSERT INTO facts VALUES (?, ?)", (name, '{"predicted_latency_ms": 0.4, "top1": 0.95}'))
    return path


def test_what_the_version_before_stored_is_brought_up(tmp_path: Path) -> None:
    path = written_by_the_version_before(tmp_path / "trials.sqlite")
    for store in (TrialStore(path), TrialStore(path)):
        coarse, complete = store.scores("f", P)
        assert list(complete.metrics) == ["divergence", "top1", "cross_entropy"]
        assert (complete.kl, complete.kl_se, complete.cross_entropy, complete.cross_entropy_se) == (
            0.25,
            0.02,
            0.5,
            0.03,
        )
        assert (complete.top1, complete.look, complete.complete, complete.images) == (0.9, 1, True, 100)
        assert complete.top1_se == pytest.approx(0.03)  # the root of 0.9 times 0.1 by 100
        assert (coarse.look, coarse.complete, coarse.top1_se) == (0, False, pytest.approx(0.04))
        assert [metric.higher_is_better for metric in complete.metrics.values()] == [False, True, False]
        assert [metric.is_share for metric in complete.metrics.values()] == [False, True, False]
        assert [(row.episode, row.policy, row.score.top1) for row in store.episodes()] == [(1, P, 0.9), (2, Q, 0.5)]
        assert store.kept(ORIGINAL) == store.part("trial 1").kept(ORIGINAL) == OriginalPoint(0.4, 0.95)
        store.add_trial("h", P, [SCORE], wall_s=1.0)  # is gone on from
        assert store.count() == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top1": "nine"}, "table metrics, row .*: value: must be a finite number"),
        ({"top1": 1.5}, "table metrics, row .*: value: must be a finite number from 0 to 1"),
        ({"look": -1}, "table trials, row 9: look"),
    ],
)
def test_what_it_cannot_have_stored_leaves_the_file_as_it_is(
    wrong: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = written_by_the_version_before(tmp_path / "trials.sqlite", **wrong)  # type: ignore[arg-type]
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        TrialStore(path)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TRIGGER changing AFTER UPDATE ON facts BEGIN DELETE FROM trials; END")
    with pytest.raises(InputError, match="'changing' is a trigger, not a table"):
        TrialStore(path)


def test_what_cannot_be_brought_up_in_its_place_is_read_from_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is not everyone's to read
        folder = Path(name)
        path = written_by_the_version_before(folder / "trials.sqlite")
        before = path.read_bytes()
        path.chmod(0o444)
        folder.chmod(0o555)
        progress.show(True)
        with as_nobody(), tempfile.TemporaryDirectory() as ours:
            store, again = TrialStore(path), TrialStore(path)
            copied = again._file
            assert [row.score.top1 for row in store.part("p").episodes() + store.episodes()] == [0.9, 0.5]
            assert store.kept(ORIGINAL) == OriginalPoint(0.4, 0.95)
            other = TrialStore(Path(ours) / "trials.sqlite")
            other.take_over(store)
            assert other.count() == 2
            with pytest.raises(RunError, match=rf"{re.escape(str(path))}: attempt to write a readonly database"):
                store.add_trial("h", P, [SCORE], wall_s=1.0)
            assert store.count() == 2
            assert copied.exists()
            del again
            assert not copied.parent.exists()  # it goes with its store
        progress.show(False)
        folder.chmod(0o755)
        assert path.read_bytes() == before
    assert capsys.readouterr().err.count("was written by an earlier version and cannot be written: a copy") == 1


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("kl", None, r"not a trials database \(NOT NULL constraint failed: metrics\.value\)"),
        ("fingerprint", None, r"not a trials database \(NOT NULL constraint failed: trials\.fingerprint\)"),
        ("images", -100, "table trials, row 7: images: must be"),
    ],
)
def test_a_column_that_holds_what_it_cannot_is_named(column: str, value: object, message: str, tmp_path: Path) -> None:
    path = written_by_the_version_before(tmp_path / "trials.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM trials")  # holds what it likes
        connection.execute("DROP TABLE trials")
        connection.execute("ALTER TABLE loose RENAME TO trials")
    before = change(path, f"UPDATE trials SET {column} = ? WHERE id = 7", value)
    with pytest.raises(InputError, match=message):
        TrialStore(path)
    assert path.read_bytes() == before


def test_a_metric_may_be_called_as_a_word_of_sql_is(tmp_path: Path) -> None:
    path = written_by_the_version_before(tmp_path / "trials.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        for column in ("select", "select_se"):
            connection.execute(f'ALTER TABLE trials ADD COLUMN "{column}" REAL NOT NULL DEFAULT 0.125')
    (metric,) = (metric for name, metric in TrialStore(path).scores("g", Q)[0].metrics.items() if name == "select")
    assert (metric.value, metric.standard_error) == (0.125, 0.125)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_a_database_of_another_layout_is_no_store(version: int, tmp_path: Path) -> None:
    path = tmp_path / "trials.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(f"CREATE TABLE trials (id INTEGER PRIMARY KEY); PRAGMA user_version = {version}")
    with pytest.raises(InputError, match="not a trials database" if version == 3 else "written by another version"):
        TrialStore(path)

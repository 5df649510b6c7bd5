"""Trials are on disk when `add_trial` returns, whatever kills the process afterwards."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprune.errors import InputError, RunError
from autoprune.search import trials as trials_module
from autoprune.search.reward import Score
from autoprune.search.trials import Episode, EpisodeRow, TrialStore

SCORE = Score(kl=0.25, cross_entropy=0.5, top1=0.9, images=2000)

# Adds trials named after `first`, `first + 1`, … and prints each name once its call has returned.
WRITER = """
import sys
from pathlib import Path
from autoprune.search.reward import Score
from autoprune.search.trials import TrialStore

path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = TrialStore(path)
for number in range(first, first + count):
    store.add_trial("f", str(number), [Score(number / 7, 0.5, 0.9, 10)], wall_s=0.1)
    print(number, flush=True)
"""


def add_episode(
    store: TrialStore, policy: str, number: int, reward: float = 1.0, fingerprint: str = "f", look: int = 0
) -> None:
    episode = Episode("ddpg", 0, number, reward, 0.3, 1.5, macs=31_000_000, params=272_186)
    store.add_episode(fingerprint, policy, episode, look=look)


def test_scores_come_back_by_fingerprint_and_policy(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "run" / "trials.sqlite")
    assert store.scores("f", "p") == ()
    store.add_trial("f", "p", [SCORE], wall_s=1.5)
    assert store.scores("f", "p") == (SCORE,)
    assert store.scores("f", "q") == ()
    assert store.scores("g", "p") == ()
    assert TrialStore(store.path).scores("f", "p") == (SCORE,)
    assert store.count() == 1


def test_the_first_score_of_a_policy_stays(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", "p", [SCORE], wall_s=1.5)
    store.add_trial("f", "p", [Score(9.0, 9.0, 0.1, SCORE.images)], wall_s=1.5)
    assert store.scores("f", "p") == (SCORE,)
    assert store.count() == 1


def test_episodes_are_joined_with_their_trials_in_order(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", "p", [SCORE], wall_s=1.5)
    store.add_trial("f", "q", [Score(0.5, 0.75, 0.8, 2000)], wall_s=2.0)
    for episode, policy in ((2, "q"), (1, "p"), (3, "p")):
        add_episode(store, policy, episode)
    rows = store.episodes()
    assert [(row.episode, row.policy, row.kl) for row in rows] == [(1, "p", 0.25), (2, "q", 0.5), (3, "p", 0.25)]
    costs = {"predicted_latency_ms": 0.3, "estimated_energy_mj": 1.5, "macs": 31_000_000, "params": 272_186}
    score = {"kl": 0.25, "cross_entropy": 0.5, "top1": 0.9}
    assert rows[0] == EpisodeRow("ddpg", 0, 1, "p", reward=1.0, **score, **costs, wall_s=1.5, look=0, complete=True)  # type: ignore[arg-type]


def test_a_resumed_search_writes_its_episodes_again(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", "p", [SCORE], wall_s=1.5)
    add_episode(store, "p", 1, reward=1.0)
    add_episode(store, "p", 1, reward=2.0)
    assert [row.reward for row in store.episodes()] == [2.0]


def test_an_episode_without_its_trial_is_refused(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    store.add_trial("f", "p", [SCORE], wall_s=1.5)
    for policy, fingerprint in (("q", "f"), ("p", "g")):
        with pytest.raises(LookupError, match=f"no trial of {policy}"):
            add_episode(store, policy, 1, fingerprint=fingerprint)
    assert store.episodes() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    with pytest.raises(RunError, match="the candidate p has no finite score"):
        store.add_trial("f", "p", [Score(value, 0.5, 0.9, 10)], wall_s=1.0)
    assert store.count() == 0


def test_facts_are_kept_and_replaced(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    assert store.fact("ladders") is None
    for value in ("[1]", "[2]"):
        store.set_fact("ladders", value)
        assert TrialStore(store.path).fact("ladders") == value


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
    assert store.scores("f", "55") == (Score(55 / 7, 0.5, 0.9, 10),)


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
        assert all(store.scores("f", str(number)) == (Score(number / 7, 0.5, 0.9, 10),) for number in stored)
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
        store.add_trial("f", "p", [SCORE], wall_s=1.0)
    other.close()
    store.add_trial("f", "p", [SCORE], wall_s=1.0)
    assert store.count() == 1


def test_a_path_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unable to open database file"):
        TrialStore(tmp_path)

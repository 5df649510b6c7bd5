"""Runs killed with SIGKILL go on where they were: nothing is repeated, and they end where an unstopped run ends."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_job import done, started, trials_in, wait_for

MEASURED = ("latency", "ladders")  # what was timed: with the same figures, two runs must go the same way


def rows(run_dir: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(run_dir / "trials.sqlite")) as connection:
        return connection.execute(query).fetchall()


def scores(run_dir: Path) -> dict[object, list[tuple[object, ...]]]:
    """Everything but when and how long, by fingerprint, policy and look: a row for each metric."""
    query = (
        "SELECT fingerprint, policy, look, complete, name, value, standard_error "
        "FROM trials JOIN metrics ON trials.id = trial_id ORDER BY metrics.rowid"
    )
    found: dict[object, list[tuple[object, ...]]] = {}
    for fingerprint, policy, look, *rest in rows(run_dir, query):
        found.setdefault((fingerprint, policy, look), []).append(tuple(rest))
    return found


def episodes(run_dir: Path) -> list[tuple[object, ...]]:
    query = "SELECT searcher, seed, episode, policy, reward FROM episodes JOIN trials ON trials.id = trial_id"
    return rows(run_dir, f"{query} ORDER BY episode")


@pytest.fixture
def fresh_run(finished_run: Path, tmp_path: Path) -> Path:
    """A run with the configuration and the measured latencies of the finished one, and nothing else."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.yaml", "trials.sqlite"):
        shutil.copy(finished_run / name, run_dir)
    with closing(sqlite3.connect(run_dir / "trials.sqlite")) as connection, connection:
        connection.execute("DELETE FROM episodes")
        connection.execute("DELETE FROM metrics")
        connection.execute("DELETE FROM trials")
        connection.execute(f"DELETE FROM facts WHERE name NOT IN {MEASURED}")
    return run_dir


def test_a_search_killed_with_9_goes_on(ddpg_config: Path, finished_run: Path, fresh_run: Path) -> None:
    run = ("run", ddpg_config, "--run-dir", fresh_run, "--resume", "--quiet")
    with started(*run, stops_at="trials:9") as process:
        wait_for(lambda: trials_in(fresh_run) >= 9, process)
        process.kill()
        process.wait()
    before = rows(fresh_run, "SELECT * FROM trials ORDER BY id")
    assert len(before) >= 9
    assert len(before) < len(scores(finished_run))
    assert not (fresh_run / "policy.json").exists()

    done(*run)
    after = rows(fresh_run, "SELECT * FROM trials ORDER BY id")
    assert after[: len(before)] == before  # created_at and wall_s as well
    assert scores(fresh_run) == scores(finished_run)  # so what was new is the budget less what was there
    assert len(after) == len(scores(fresh_run))
    assert episodes(fresh_run) == episodes(finished_run)

    results = [json.loads((run_dir / "result.json").read_text()) for run_dir in (fresh_run, finished_run)]
    for key in ("searcher", "evaluations", "seed", "best_reward"):
        assert results[0]["search"][key] == results[1]["search"][key]
    for name in ("policy.json", "pruned/structure.json", "pruned/model.safetensors", "agent/agent.onnx"):
        assert (fresh_run / name).read_bytes() == (finished_run / name).read_bytes(), name


def test_a_fine_tuning_killed_with_9_ends_bit_for_bit_alike(
    ddpg_config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir, ignore=shutil.ignore_patterns("result.json", "*.html", "pruned", "export"))
    run = ("run", ddpg_config, "--run-dir", run_dir, "--resume", "--quiet")
    with started(*run, stops_at="state:*-finetune-0.pt") as process:
        wait_for(lambda: any((run_dir / "state").glob("*-finetune-0.pt")), process)
        process.kill()
        process.wait()
    assert not (run_dir / "pruned").exists()

    done(*run)
    for name in ("policy.json", "pruned/structure.json", "pruned/model.safetensors"):
        assert (run_dir / name).read_bytes() == (finished_run / name).read_bytes(), name
    assert scores(run_dir) == scores(finished_run)
    [(logs,)] = rows(run_dir, "SELECT value FROM facts WHERE name = 'finetune_log'")
    assert [log["epoch"] for log in json.loads(str(logs))] == [1, 2, 3]
    assert not (run_dir / "state").exists()


def test_a_finished_run_is_only_read_back(ddpg_config: Path, finished_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    printed = done("run", ddpg_config, "--run-dir", run_dir, "--resume")
    assert printed == f"{run_dir / 'report.html'}\n"
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()} == before

    (run_dir / "report.html").unlink()  # as after a kill between the result and the report
    done("run", ddpg_config, "--run-dir", run_dir, "--resume")
    assert (run_dir / "report.html").read_text().rstrip().endswith("</html>")


def test_a_training_killed_with_9_goes_on(small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    config = small_checkpoint.with_name("train.yaml")
    state = tmp_path / "net.state.pt"
    with started("train", config, "--out", out, "--quiet", stops_at=f"state:{state.name}") as process:
        wait_for(state.is_file, process)
        process.kill()
        process.wait()
    assert not out.exists()
    done("train", config, "--out", out, "--resume", "--quiet")
    with safe_open(out, "pt") as resumed, safe_open(small_checkpoint, "pt") as unstopped:
        assert resumed.metadata() == unstopped.metadata()  # the file's bytes differ: its keys are in no order
        for name in (names := list(unstopped.keys())):
            assert torch.equal(resumed.get_tensor(name), unstopped.get_tensor(name)), name
        assert list(resumed.keys()) == names
    assert [path.name for path in tmp_path.iterdir()] == [out.name]

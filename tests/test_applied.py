"""What `autoprune apply` does beside applying: it scores, warns, goes on where it was, and leaves other runs alone."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import onnx
import small_job
from small_job import done


def test_a_poor_policy_is_applied_as_it_was_given_and_what_would_be_better_is_told(
    small_config: Path, tmp_path: Path
) -> None:
    poor, applied = tmp_path / "poor.json", tmp_path / "applied"
    groups = {"0": {"kept": 32, "of": 32}, "3": {"kept": 2, "of": 48}, "6": {"kept": 2, "of": 64}}
    poor.write_text(json.dumps({"schema": 1, "model": "resnet56", "groups": groups}))
    ended = small_job.autoprune("apply", small_config, "--policy", poor, "--run-dir", applied, "--quiet")
    assert ended.returncode == 0, ended.stderr
    said = " ".join(ended.stderr.split())
    assert "warning: the proposal of stored policy is not the best here" in said
    assert "it is applied all the same" in said
    assert "the policy was found for 'resnet56', and is applied to " in said
    assert "was found for &#39;resnet56&#39;" in (applied / "report.html").read_text()
    assert "applied is that of stored policy" in said
    for name in ("uniform", "global_magnitude", "knapsack", "stored policy"):
        assert name in said
        assert name in (applied / "report.html").read_text()
    kept = json.loads((applied / "policy.json").read_text())["groups"]
    assert {name: group["kept"] for name, group in kept.items()} == {"0": 32, "3": 2, "6": 2}


def test_a_policy_of_other_widths_is_refused(small_config: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    groups = {"0": {"kept": 4, "of": 32}, "3": {"kept": 4, "of": 40}, "6": {"kept": 4, "of": 64}}
    policy.write_text(json.dumps({"schema": 1, "model": "elsewhere/small_job.py:net", "groups": groups}))
    ended = small_job.autoprune("apply", small_config, "--policy", policy, "--run-dir", tmp_path / "run", "--quiet")
    assert ended.returncode == 2
    assert "does not fit" in ended.stderr and "(3 has 48 channels, the policy is of 40; 1 in all)" in ended.stderr
    assert "the policy was found for" not in ended.stderr


def test_a_killed_apply_goes_on_and_repeats_no_evaluation(
    ddpg_config: Path, finished_run: Path, tmp_path: Path
) -> None:
    arguments = ("apply", ddpg_config, "--agent", finished_run / "agent", "--quiet", "--run-dir")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done(*arguments, whole)
    groups = 3  # whose sensitivities are measured before
    with small_job.started(*arguments, stopped, stops_at=f"trials:{groups + 4}") as process:
        small_job.wait_until_stopped(process)
    before = trial_rows(stopped)
    assert len({row[0] for row in before}) == groups + 4
    done(*arguments, stopped, "--resume")
    assert trial_rows(stopped)[: len(before)] == before
    for name in ("policy.json", "pruned/model.safetensors"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((run_dir / "result.json").read_text())["search"] for run_dir in (whole, stopped)]
    assert results[0] | {"wall_s": 0} == results[1] | {"wall_s": 0}
    assert json.loads((finished_run / "agent" / "agent.json").read_text())["training"]["ratios"] == {"macs": 0.5}
    assert not any("was trained for" in warning for warning in results[0]["warnings"])


def trial_rows(run_dir: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(run_dir / "trials.sqlite")) as connection:
        return connection.execute(
            "SELECT policy, look, value, created_at FROM trials JOIN metrics ON trials.id = trial_id "
            "ORDER BY metrics.rowid"
        ).fetchall()


def test_a_run_dir_of_another_agent_or_of_a_search_is_refused(
    ddpg_config: Path, finished_run: Path, tmp_path: Path
) -> None:
    searched, applied = tmp_path / "searched", tmp_path / "applied"
    shutil.copytree(finished_run, searched, ignore=shutil.ignore_patterns("result.json"))
    arguments = ("apply", ddpg_config, "--agent", finished_run / "agent", "--quiet", "--run-dir")
    ended = small_job.autoprune(*arguments, searched, "--resume")
    assert (ended.returncode, "the run there has a policy already" in ended.stderr) == (2, True)
    done(*arguments, applied)
    (applied / "result.json").unlink()
    ended = small_job.autoprune("run", ddpg_config, "--resume", "--run-dir", applied, "--quiet")
    assert (ended.returncode, "`autoprune apply` works there" in ended.stderr) == (2, True)
    other = tmp_path / "agent"
    shutil.copytree(finished_run / "agent", other)
    network = onnx.load(str(other / "agent.onnx"))
    network.doc_string = "another"
    onnx.save(network, str(other / "agent.onnx"))
    ended = small_job.autoprune("apply", ddpg_config, "--agent", other, "--run-dir", applied, "--resume", "--quiet")
    assert (ended.returncode, "the run there applies another agent" in ended.stderr) == (2, True)
    taken = ("--policy", applied / "policy.json")
    ended = small_job.autoprune("apply", ddpg_config, *taken, "--run-dir", applied, "--resume", "--quiet")
    assert (ended.returncode, "the run there applies an agent" in ended.stderr) == (2, True)
    assert (applied / "policy.json").is_file() and (applied / "trials.sqlite").is_file()

"""What is fine-tuned: the candidate that was scored, cut at once or in steps."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from small_job import done

from autoprune.config.file import load_config
from autoprune.search.prepare import prepare
from autoprune.space.policy import PruningPolicy
from autoprune.steps.finetune import cutting_steps, repaired_cut
from autoprune.steps.subject import load_subject


def test_cutting_steps_by_hand() -> None:
    full, final = PruningPolicy.of({"a": 100, "b": 10, "c": 8}), PruningPolicy.of({"a": 70, "b": 9, "c": 8})
    assert cutting_steps(full, final, None) == (final,)
    # 100 -> 90 -> 81 -> ceil(72.9) = 73 -> 70 (65.7 would be below); 10 -> 9; c stays.
    expected = [(90, 9), (81, 9), (73, 9), (70, 9)]
    steps = cutting_steps(full, final, 0.1)
    assert steps == tuple(PruningPolicy.of({"a": a, "b": b, "c": 8}) for a, b in expected)
    assert cutting_steps(full, full, 0.1) == (full,)
    # A tenth of three channels is less than one: one is cut all the same.
    small = cutting_steps(PruningPolicy.of({"a": 3}), PruningPolicy.of({"a": 1}), 0.1)
    assert small == (PruningPolicy.of({"a": 2}), PruningPolicy.of({"a": 1}))


def test_cutting_in_steps_ends_at_the_policy(small_config: Path, finished_run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "run"
    steps = ("-o", "finetune.cut_per_step=0.3", "-o", "finetune.epochs=2")
    done("apply", small_config, "--policy", finished_run / "policy.json", *steps, "--run-dir", cut, "--quiet")
    assert (cut / "policy.json").read_bytes() == (finished_run / "policy.json").read_bytes()
    assert (cut / "pruned/structure.json").read_bytes() == (finished_run / "pruned/structure.json").read_bytes()
    result = json.loads((cut / "result.json").read_text())
    assert result["checks"]["onnx_parity_max_abs"] <= 1e-4
    assert result["pruned"]["test_accuracy"] > 0.8
    with closing(sqlite3.connect(cut / "trials.sqlite")) as connection:
        [(logs,)] = connection.execute("SELECT value FROM facts WHERE name = 'finetune_log'")
    assert [log["epoch"] for log in json.loads(logs)] == [1, 2]


@pytest.mark.parametrize("repairs", [False, True])
def test_what_is_fine_tuned_is_the_candidate_that_was_scored(small_config: Path, repairs: bool) -> None:
    config = load_config(small_config, [f"search.repair={str(repairs).lower()}"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    policy = prepared.problem.pruning_of(prepared.problem.floor_policy)
    cut = repaired_cut(prepared.elastic, policy, prepared, repairs=repairs)
    torch.testing.assert_close(
        cut.original.state_dict(), prepared.evaluator.candidate(policy).state_dict(), atol=1e-4, rtol=1e-4
    )

"""Benchmarks whose figures stand in the documentation run whole, on a small job."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def printed(benchmark: str, *arguments: object) -> dict[str, Any]:
    """The JSON that a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / benchmark), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_rewards_are_held_against_what_fine_tuning_makes_of_candidates(small_config: Path, tmp_path: Path) -> None:
    asked = (small_config, "--policies", 2, "--epochs", 1, "--out", tmp_path)
    found = printed("proxy_correlation.py", *asked)
    assert (found["n"], found["finetune_epochs"]) == (2, 1)
    for row in found["policies"]:
        assert 0.0 <= row["top1"] <= 1.0 and row["kl"] > 0.0 and row["of_limit"] <= 1.0 and row["policy"]
    again = printed("proxy_correlation.py", *asked)["policies"]
    assert [row["top1"] for row in again] == [row["top1"] for row in found["policies"]]  # what is done is kept


def test_evaluations_are_held_against_the_naive_loop(small_config: Path) -> None:
    pytest.importorskip("torch_pruning")
    found = printed("evaluation.py", small_config, "--evaluations", 3, "--naive", 1)
    assert found["evaluations_per_s"] > 0 and found["naive"]["quick_exporter"]["ratio"] > 0
    assert sum(found["last_looks"].values()) >= 3
    assert found["parts_ms"].keys() == {"cut_and_repair", "recalibrate_float32", "fold", "first_look", "complete"}

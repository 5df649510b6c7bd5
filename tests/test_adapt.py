"""`autoprune adapt` from the command line on the small job: the files answer what the result says of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_job import autoprune, done, started, wait_for

from autoprune.adapt import OperatingPoint, chosen_point, narrowed
from autoprune.adaptive_measurement import measure_by_image
from autoprune.adaptive_result import AdaptiveResult
from autoprune.config import load_config
from autoprune.data import load_test_split
from autoprune.errors import InputError
from autoprune.policies.router_graph import CascadeNodes
from autoprune.policy import PruningPolicy
from autoprune.routing import LevelAnswers, RoutedFigures
from autoprune.run_dir import RunDir
from autoprune.subject import load_subject

OPTIONS = (
    *("-o", "adaptive.max_ratios=[0.9, 1.0]", "-o", "adaptive.router_rounds=2", "-o", "finetune.epochs=2"),
    *("-o", "search.min_keep=0.02"),
)


@pytest.fixture(scope="module")
def adapted(small_config: Path) -> Path:
    folder = small_config.with_name("adapted")
    done("adapt", small_config, *OPTIONS, "--run-dir", folder, "--quiet")
    return folder


def test_the_result_is_what_the_files_do(adapted: Path, small_config: Path) -> None:
    run_dir = RunDir(adapted)
    result = AdaptiveResult.parsed(json.loads(run_dir.adaptive.read_text()), where="here")
    config = load_config(small_config)
    test = load_test_split(config.data)
    info = load_subject(config).data.info
    original, adaptive = measure_by_image([run_dir.original_onnx, run_dir.adaptive_onnx], test, info, threads=1)
    labels = test.labels.numpy()
    assert result.original.test_accuracy == original.accuracy(labels)
    assert result.adaptive.test_accuracy == adaptive.accuracy(labels)
    assert result.level_share == tuple((np.bincount(adaptive.levels, minlength=2) / len(labels)).tolist())
    assert result.latency_ratio == result.adaptive.latency_ms_mean / result.original.latency_ms_mean
    assert result.adaptive.latency_ms_p50 <= result.adaptive.latency_ms_p95 <= result.adaptive.latency_ms_max
    # The level that answers is the level's own file's answer.
    single = measure_by_image([run_dir.level_onnx(0), run_dir.level_onnx(1)], test, info, threads=1)
    answers = np.stack([one.answers for one in single])
    assert np.array_equal(adaptive.answers, answers[adaptive.levels, np.arange(len(labels))])
    # The largest level is the whole model's width, the smaller one is nested in it.
    small, large = result.level_channels
    assert all(small[name] <= large[name] for name in large)
    assert small != large
    assert {point.router for point in result.curve_on_search} == {"cascade", "learned"}
    assert result.oracle_on_search.search_accuracy >= max(result.level_search_accuracy)
    assert result.onnx_bytes == run_dir.adaptive_onnx.stat().st_size


def test_a_finished_one_is_read_back_and_another_configuration_refused(adapted: Path, small_config: Path) -> None:
    before = (adapted / "adaptive.json").read_bytes()
    again = done("adapt", small_config, *OPTIONS, "--run-dir", adapted, "--resume", "--quiet")
    assert "mean latency" in " ".join(again.split())
    assert (adapted / "adaptive.json").read_bytes() == before
    other = autoprune("adapt", small_config, "--run-dir", adapted, "--resume")
    assert other.returncode == 2
    assert "the run there has another configuration" in " ".join(other.stderr.split())


def test_a_killed_one_goes_on_to_the_same_levels(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = ("adapt", small_config, *OPTIONS, "--run-dir", folder, "--quiet")
    with started(*arguments) as process:
        wait_for(lambda: (folder / "state" / "levels.pt").is_file(), process)
        process.kill()
    done(*arguments, "--resume")
    whole, resumed = (json.loads((one / "adaptive.json").read_text()) for one in (adapted, folder))
    for key in ("level_channels", "level_search_accuracy"):
        assert whole[key] == resumed[key]


def test_bad_levels_are_refused_before_any_work(small_config: Path, tmp_path: Path) -> None:
    for ratios in ("[0.5]", "[0.6, 0.2]", "[0.5, 1.5]", "[0.5, 0.5]"):
        ended = autoprune("adapt", small_config, "-o", f"adaptive.max_ratios={ratios}", "--run-dir", tmp_path / "run")
        assert ended.returncode == 2
        assert "adaptive.max_ratios: must be 2 to 5 shares" in " ".join(ended.stderr.split())
    ended = autoprune("adapt", small_config, "-o", "adaptive.max_ratios=[0.0001, 1.0]", "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "is below the floor" in " ".join(ended.stderr.split())
    ended = autoprune("adapt", small_config, "-o", "model.checkpoint=null", "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "levels are taught by a trained model" in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


def test_the_operating_point_by_hand() -> None:
    """The original is right of three of four images."""
    right = np.array([0.9, 0.1])
    teacher = np.stack([right, right, right, right[::-1]]).astype(np.float32)
    answers = LevelAnswers(np.stack([teacher, teacher]), np.zeros(4, dtype=np.int64), (1.0, 2.0), teacher=teacher)
    nodes = CascadeNodes((0.5,))
    points = [
        OperatingPoint("cascade", nodes, RoutedFigures(accuracy, accuracy, latency_ms, (1.0, 0.0)))
        for accuracy, latency_ms in ((0.5, 1.0), (0.7, 1.5), (0.75, 2.0), (0.8, 2.5))
    ]
    assert chosen_point(points, answers, max_drop=0.0) is points[2]
    assert chosen_point(points, answers, max_drop=0.05) is points[1]
    assert chosen_point(points[:2], answers, max_drop=0.0) is points[1]


def test_a_level_is_cut_back_to_be_nested() -> None:
    small, large = PruningPolicy.of({"a": 4, "b": 2}), PruningPolicy.of({"a": 3, "b": 5})
    assert narrowed(small, large) == PruningPolicy.of({"a": 3, "b": 2})


def test_a_result_that_is_none_is_refused(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(adapted, copied)
    (copied / "adaptive.json").write_text("{}")
    ended = autoprune("adapt", small_config, *OPTIONS, "--run-dir", copied, "--resume")
    assert ended.returncode == 2
    assert "not an adaptive result of schema 1" in " ".join(ended.stderr.split())
    with pytest.raises(InputError, match="here: not an adaptive result"):
        AdaptiveResult.parsed([], where="here")

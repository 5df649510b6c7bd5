"""A run folder: what may start there, what a killed process may have left, what goes when all is done."""

import shutil
from pathlib import Path

import pytest
from small_job import CONFIG, done, started, wait_for
from test_scratch import WRITES, holding, names

from autoprune.config.file import parse_config
from autoprune.errors import InputError
from autoprune.store.run_dir import RunDir, check_run_dir, clean_finished, opened

SETTINGS = parse_config(CONFIG, where="small")
LEFT = (".lock", ".config.yaml.ab12cd_3.yaml", ".config.yaml.autoprune-ab12cd_3.yaml")


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_kill_at_the_start_leaves_is_no_run(resume: bool, tmp_path: Path) -> None:
    for name in LEFT:
        (tmp_path / name).touch()
    run_dir = check_run_dir(tmp_path, SETTINGS, resume=resume)
    with opened(run_dir, SETTINGS):
        assert names(tmp_path) == [".lock", "config.yaml"]


def test_leftovers_of_a_run_go_when_it_is_opened(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with opened(run_dir, SETTINGS):
        pass
    run_dir.agent.mkdir()
    for path in (run_dir.root / ".policy.json.ab12cd_3.json", run_dir.agent / ".agent.onnx.autoprune-ab12cd_3.onnx"):
        path.touch()
    with opened(check_run_dir(tmp_path, SETTINGS, resume=True), SETTINGS):
        assert names(tmp_path) == [".lock", "agent", "config.yaml"]
        assert names(run_dir.agent) == []


def test_bad_input_leaves_nothing_and_work_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    with pytest.raises(InputError), opened(run_dir, SETTINGS):
        (run_dir.root / "export").mkdir()
        (run_dir.root / "export" / "x.onnx").touch()
        raise InputError("bad")
    assert names(tmp_path) == []
    with pytest.raises(InputError), opened(run_dir, SETTINGS):
        run_dir.logs.mkdir()
        raise InputError("bad")
    assert names(run_dir.root) == [".lock", "config.yaml", "logs"]


def test_a_finished_run_is_cleaned(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.state.mkdir()
    (run_dir.state / "finetune-0.pt").touch()
    (tmp_path / ".report.html.ab12cd_3.html").touch()
    run_dir.result.touch()
    with holding(WRITES, tmp_path / "report.html"):  # as `autoprune report` does, which takes no lock
        clean_finished(run_dir)
        assert len(names(tmp_path)) == 3
    clean_finished(run_dir)
    assert names(tmp_path) == [".lock", "result.json"]


def test_a_run_at_work_is_not_cleaned(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with opened(run_dir, SETTINGS):
        run_dir.state.mkdir()
        clean_finished(run_dir)
        assert run_dir.state.is_dir()


def test_a_resume_of_a_finished_run_cleans(ddpg_config: Path, finished_run: Path, tmp_path: Path) -> None:
    """As after a disk that was full once the result was written."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    (run_dir / "state").mkdir()
    (run_dir / "state" / "finetune-0.pt").write_bytes(b"half")
    (run_dir / ".report.html.ab12cd_3.html").write_text("<html>")
    done("run", ddpg_config, "--run-dir", run_dir, "--resume", "--quiet")
    assert names(run_dir) == names(finished_run)


def test_what_is_clipped_is_said(small_config: Path, tmp_path: Path) -> None:
    changes = ("search.score_images=151", "search.calibration_images=1000", "finetune.batch_size=451", "seed=3")
    overrides = [part for change in changes for part in ("-o", change)]
    with started("run", small_config, *overrides, "--run-dir", tmp_path / "run") as process:
        wait_for((tmp_path / "run" / "config.yaml").is_file, process)
        process.terminate()
        _, said = process.communicate()
    for line in (
        "search.score_images=151: the search split has 150 images, so all of them are taken",
        "search.calibration_images=1000: the train split has 450 images, so all of them are taken",
        "finetune.batch_size=451: the train split has 450 images, so all of them are taken",
    ):
        assert line in said
    assert "train.batch_size=" not in said  # nothing is trained from scratch

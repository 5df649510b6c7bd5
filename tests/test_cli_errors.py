"""Bad input and bad luck, as the user sees them: one line on stderr, an exit code, and nothing half-written.

Every test runs the real command in a process of its own.
"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
import yaml
from small_job import (
    HERE,
    TIMEOUT_S,
    autoprune,
    done,
    started,
    trials_in,
    wait_for,
    wait_until_stopped,
    write_config,
)

import autoprune as package
from autoprune.data import fashion_mnist

TRUNCATED = "t10k-images-idx3-ubyte.gz"
NO_DROP = "target={metric: latency, max_drop: 0.0}"
COMMANDS = ("run", "search", "apply", "train", "report", "inspect", "bench")


def refused(*arguments: str | Path, exit_code: int = 2, **variables: str) -> str:
    """The one line that a command which must fail leaves on stderr, without its `error: `."""
    ended = autoprune(*arguments, **variables)
    assert ended.returncode == exit_code, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_version() -> None:
    assert done("--version") == f"{package.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    shown = done(command, "--help", COLUMNS="200")
    assert f"Example: autoprune {command} " in " ".join(shown.replace("`", "").split())


def test_help_lists_the_commands() -> None:
    shown = done("--help", COLUMNS="200")
    assert all(f" {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("arguments", [("prune",), ("run",), ("run", "demo", "--fast"), ("report",)])
def test_bad_usage_is_told_by_the_parser(arguments: tuple[str, ...]) -> None:
    ended = autoprune(*arguments)
    assert ended.returncode == 2
    assert "Usage:" in ended.stderr
    assert "Error" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml: no such file; shipped configurations are "),
        (
            ("run", "demo", "-o", "search.agnt=ppo"),
            "search: unknown key agnt (did you mean agent?); allowed are agent,",
        ),
        (("run", "demo", "-o", "speed=2"), "demo.yaml: unknown key speed (did you mean seed?); allowed are preset,"),
        (
            ("search", "toy", "-o", "search.agent=ppo", "--agent", "td3"),
            "search.agent: is set twice, to 'ppo' and",
        ),
        (
            ("search", "toy", "-o", "seed=1", "--seed", "2"),
            "seed: is set twice, to 1 and 2, by -o or an option of its own; leave one out",
        ),
        (("run", "demo", "-o", "search.max_evaluations=many"), "search.max_evaluations: must be a valid integer"),
        (("run", "demo", "-o", "search.max_evaluations=0"), "search.max_evaluations: must be greater than 0, got 0"),
        (("run", "demo", "-o", "search.agent"), "-o search.agent: expected key=value, for example"),
        (("run", "demo", "-o", "target.metric=latency"), "-o target.metric=latency: 'metric' is not a section"),
        (("search", "toy", "--agent", "dqn"), "search.agent: must be one of ddpg, td3, sac, tqc, crossq,"),
        (("run", "toy"), "problem: toy has no model to prune; use `autoprune search toy`"),
        (("report", "nowhere"), "nowhere: no such run directory"),
        (("apply", "demo"), "give either --agent DIR or --policy FILE"),
        (("apply", "demo", "--policy", "nowhere.json"), "nowhere.json: no such file"),
        (("apply", "demo", "--policy", "nowhere.json", "-o", NO_DROP), "target.max_drop: only `autoprune run` and"),
        (("search", "demo", "-o", NO_DROP), "give one here, for example -o 'target={metric: latency, max_ratio: 0.5}'"),
        (("search", "toy", "-o", NO_DROP), "target.max_drop: only `autoprune run` and `autoprune.compress`"),
        (("compare", "demo", "-o", NO_DROP), "target.max_drop: only `autoprune run` and `autoprune.compress`"),
        (("search", "fashion_mnist_resnet20_no_loss"), "target.max_drop: only `autoprune run` and"),
        (("apply", "demo", "--agent", "nowhere"), "nowhere/agent.json: no such file"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {agnt: ppo}", "run.yaml: search: unknown key agnt (did you mean agent?); allowed are agent,"),
        ("search: {max_evaluations: [3]}", "run.yaml: search.max_evaluations: must be a valid integer, got [3]"),
        ("search: {agent: ppo", "run.yaml: not valid YAML (line"),
        ("- a list", "run.yaml: a configuration is a mapping of keys, not a list"),
    ],
)
def test_bad_configuration_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert message in refused("run", path, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Models and data that do not exist or do not fit. `{here}` is small_job.py.
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.name=mnist", "data.name=mnist: unknown; use fashion-mnist, imagefolder:DIR or"),
        ("data.name=imagefolder:nowhere", "nowhere/train: no such folder; an image folder holds train/CLASS/*"),
        ("data.name=nowhere.py:bars", "data.name=nowhere.py:bars: nowhere.py: no such file"),
        ("data.name={here}:nan_bars", "images must be (N, C, H, W) uint8, got (600, 1, 16, 16) torch.float32"),
        ("data.search_images=600", "data.search_images=600 leaves nothing of the 600 training images"),
        ("data.name={here}:coloured_bars", "net: does not take the data's images (3, 16, 16)"),
        ("model.name={here}:net_of_five_classes", "this data, which has 3 classes: it gives (5,) for each image"),
        ("model.name={here}:NetThatRaises", "does not take the data's images (1, 16, 16) (a bad day in two lines)"),
        ("model.name={here}:net_that_cannot_be_built", "the factory failed (RuntimeError: no such luck)"),
        ("model.name={here}:nothing", "has no callable 'nothing'"),
        ("model.name=resnet21", "model.name=resnet21: unknown; built in are resnet20,"),
        ("model.checkpoint=nowhere.pt", "nowhere.pt: no such checkpoint; give a file or a shipped name"),
        ("model.checkpoint=resnet20-fashion-mnist", "resnet20_fashion_mnist.safetensors: does not fit the model"),
    ],
)
def test_models_and_data_that_do_not_fit(small_config: Path, tmp_path: Path, override: str, message: str) -> None:
    arguments = ("-o", override.format(here=HERE), "--run-dir", tmp_path / "run")
    assert message in refused("run", small_config, *arguments)
    assert not (tmp_path / "run").exists()


def test_image_folder_without_test_split_is_refused_before_the_search(small_config: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name, level in (("dark", 10), ("grey", 100), ("light", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (16, 16), level + index).save(tmp_path / "train" / name / f"{index}.png")
    overrides = ("-o", f"data.name=imagefolder:{tmp_path}", "-o", "data.search_images=3")
    said = refused("run", small_config, *overrides, "--run-dir", tmp_path / "run")
    assert f"{tmp_path / 'test'}: no such folder" in said
    assert not (tmp_path / "run").exists()


def truncated(path: Path, checkpoint: Path) -> None:
    path.write_bytes(checkpoint.read_bytes()[:5000])


def not_finite(path: Path, checkpoint: Path) -> None:
    tensors = safetensors.torch.load_file(checkpoint)
    tensors["3.weight"][0, 0, 0, 0] = float("nan")
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "bad.safetensors: corrupt checkpoint, or one that holds more than tensors"),
        (not_finite, "bad.safetensors: 3.weight holds NaN or infinity"),
    ],
)
def test_spoilt_checkpoints(
    small_config: Path, small_checkpoint: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], message: str
) -> None:
    bad = tmp_path / "bad.safetensors"
    spoil(bad, small_checkpoint)
    said = refused("run", small_config, "-o", f"model.checkpoint={bad}", "--run-dir", tmp_path / "run")
    assert message in said
    assert not (tmp_path / "run").exists()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def test_a_checkpoint_that_would_run_code_does_not(small_config: Path, tmp_path: Path) -> None:
    marker, evil = tmp_path / "pwned", tmp_path / "evil.pt"
    torch.save({"0.weight": Evil(marker)}, evil)
    said = refused("run", small_config, "-o", f"model.checkpoint={evil}", "--run-dir", tmp_path / "run")
    assert "evil.pt: corrupt checkpoint, or one that holds more than tensors" in said
    assert not marker.exists()
    torch.load(evil, weights_only=False)  # the file is what it says
    assert marker.exists()


def test_truncated_archive(tmp_path: Path) -> None:
    real = fashion_mnist.find_folder()
    for name in fashion_mnist.SHA256:
        (tmp_path / name).symlink_to(real / name)
    whole = (real / TRUNCATED).read_bytes()
    (tmp_path / TRUNCATED).unlink()
    (tmp_path / TRUNCATED).write_bytes(whole[: len(whole) // 2])
    said = refused("run", "demo", "--run-dir", tmp_path / "run", AUTOPRUNE_DATA=str(tmp_path))
    assert f"{tmp_path / TRUNCATED}: corrupt archive" in said
    assert "delete it and fetch it again" in said
    assert not (tmp_path / "run").exists()


def test_named_data_folder_without_the_data(tmp_path: Path) -> None:
    said = refused("run", "demo", "--run-dir", tmp_path / "run", AUTOPRUNE_DATA=str(tmp_path))
    assert f"AUTOPRUNE_DATA={tmp_path}: it lacks some of train-images-idx3-ubyte.gz" in said


@pytest.mark.parametrize("command", ["run", "search"])
def test_target_below_the_floor_says_the_floor_and_leaves_nothing(
    small_config: Path, tmp_path: Path, command: str
) -> None:
    run_dir = tmp_path / "run"
    target = "target={metric: macs, max_ratio: 0.001}"
    said = refused(command, small_config, "-o", target, "--run-dir", run_dir, "--quiet")
    assert said.startswith("target: macs <= ")
    assert "(0.001 of the original) is below the floor " in said
    assert "raise the target or lower search.min_keep" in said
    assert not run_dir.exists()


def test_apply_of_a_policy_of_another_model(small_config: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    kept = {"conv1": (8, 64), "0": (64, 32), "3": (0, 48), "6": (8, 64)}
    groups = {name: {"kept": channels, "of": width} for name, (channels, width) in kept.items()}
    policy.write_text(json.dumps({"schema": 1, "model": "other", "groups": groups}), encoding="utf-8")
    said = refused("apply", small_config, "--policy", policy, "--run-dir", tmp_path / "run", "--quiet")
    assert "the policy does not fit " in said
    assert "0 keeps 64 of 32" in said
    assert "3 keeps nothing, and no branch goes with it" in said
    assert "the model has no group conv1" in said
    assert not (tmp_path / "run").exists()


def test_search_without_trained_weights(tmp_path: Path) -> None:
    config = write_config(tmp_path / "untrained.yaml")
    said = refused("search", config, "--run-dir", tmp_path / "run")
    assert said == "model.checkpoint: `autoprune search` needs a trained model; make one with `autoprune train`"
    assert not (tmp_path / "run").exists()


def test_train_overwrites_nothing(small_config: Path, small_checkpoint: Path) -> None:
    before = small_checkpoint.read_bytes()
    for resume in ((), ("--resume",)):
        said = refused("train", small_config, "--out", small_checkpoint, *resume)
        assert said == f"{small_checkpoint}: exists already; delete it or choose another --out"
    assert small_checkpoint.read_bytes() == before


def test_run_dirs_that_are_taken(ddpg_config: Path, finished_run: Path, tmp_path: Path) -> None:
    holds = refused("run", ddpg_config, "--run-dir", finished_run)
    assert holds == f"{finished_run}: holds a run already; go on with --resume, or choose another --run-dir"
    other = refused(
        "run", ddpg_config, "--run-dir", finished_run, "--resume", "-o", "seed=1", "-o", "finetune.epochs=9"
    )
    assert "the run there has another configuration (finetune.epochs, seed); resume it with its own" in other
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty and holds no run" in refused("run", ddpg_config, "--run-dir", tmp_path)
    assert "is a file, not a folder" in refused("run", ddpg_config, "--run-dir", tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_processes_in_one_run_dir(small_config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started("run", small_config, "--run-dir", run_dir) as first:
        wait_for((run_dir / "config.yaml").is_file, first)
        first.send_signal(signal.SIGSTOP)  # it must not be done before the second one looks
        said = refused("run", small_config, "--run-dir", run_dir, "--resume")
        assert said == f"{run_dir}: another process is running there; wait for it, or choose another --run-dir"
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=TIMEOUT_S)
        assert first.returncode == 0, errors
    assert (run_dir / "result.json").is_file()


def test_interrupt(ddpg_config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started("run", ddpg_config, "--run-dir", run_dir, "--quiet") as process:
        wait_for(lambda: trials_in(run_dir) >= 4, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "error: stopped; go on with --resume\n"


# ---------------------------------------------------------------- a full disk, on a real small file system


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs of a given size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        attempt = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if attempt.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {attempt.stderr.strip()}")
        mounted.append(folder)
        return folder

    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs Linux's tmpfs")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full_before_the_start(small_config: Path, disk: Callable[[str], Path]) -> None:
    small = disk("4m")
    said = refused("run", small_config, "--run-dir", small / "run")
    assert said == (
        f"{small / 'run'}: the disk is nearly full (4 MiB free, a run needs 100 MiB); "
        "free some space or choose another --run-dir"
    )
    assert list(small.iterdir()) == []


@pytest.mark.parametrize("stage", ["search", "fine-tuning"])
def test_disk_full_midway(ddpg_config: Path, disk: Callable[[str], Path], stage: str) -> None:
    small = disk("110m")
    run_dir, ballast = small / "run", small / "ballast"
    stops_at, reached = {
        "search": ("trials:5", lambda: trials_in(run_dir) >= 5),
        "fine-tuning": ("state:*-finetune-0.pt", lambda: any((run_dir / "state").glob("*-finetune-0.pt"))),
    }[stage]
    with started("run", ddpg_config, "--run-dir", run_dir, "--quiet", stops_at=stops_at) as process:
        wait_for(reached, process)
        wait_until_stopped(process)
        fill(ballast)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f"error: {run_dir}/")
    assert "disk is full; free some space and go on with --resume" in errors
    before = trials_in(run_dir)
    assert before >= 5
    assert not (run_dir / "result.json").exists()
    check_whole(run_dir)

    ballast.unlink()
    done("run", ddpg_config, "--run-dir", run_dir, "--resume", "--quiet")
    check_whole(run_dir)
    assert (run_dir / "result.json").is_file()
    assert trials_in(run_dir) >= before
    assert (run_dir / "report.html").is_file()
    assert not (run_dir / "state").exists()


def fill(ballast: Path) -> None:
    """Write until nothing fits."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def check_whole(run_dir: Path) -> None:
    """Every file of the run can be read as what it is; no temporary file is left."""
    for path in (path for path in run_dir.rglob("*") if path.is_file()):
        assert not path.name.startswith(".") or path.name == ".lock", path
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
        elif path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")

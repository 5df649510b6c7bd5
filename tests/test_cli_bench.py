"""`autoprune bench` as the user runs it: the real command in a process of its own, its output and its exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from small_job import autoprune, done
from torch import nn

from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx

INFO = DataInfo("test", ("a", "b"), 1, 8, 8, mean=(0.0,), std=(1.0,))
FAST = ("--seconds", "0.05", "--quiet")
COVERAGE = Path(__file__).parents[1] / "benchmarks/check_bench_coverage.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.onnx, large.onnx with 20 times the work and more, fixed.onnx for batches of one, broken.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    for name, channels in (("small", 4), ("large", 96)):
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]
        body = [nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        export_onnx(nn.Sequential(*body, *head), folder / f"{name}.onnx", INFO)
    fixed = onnx.load(folder / "small.onnx")
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, folder / "fixed.onnx")
    (folder / "broken.onnx").write_bytes((folder / "small.onnx").read_bytes()[:200])
    (folder / "broken.json").write_text('{"kind": "bench", ')
    (folder / "other.json").write_text('{"kind": "search", "schema": 1}')
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    done("bench", folder / "small.onnx", "--save", folder / "saved.json", *FAST)
    return folder / "saved.json"


def refused(*arguments: str | Path, exit_code: int = 2) -> str:
    """The one line that a command which must fail leaves on stderr, without its `error: `; nothing on stdout."""
    ended = autoprune("bench", *arguments)
    assert ended.returncode == exit_code, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    return line.removeprefix("error: ")


def test_the_table(folder: Path) -> None:
    shown = done("bench", folder / "large.onnx", folder / "small.onnx", "--sweep", *FAST)
    assert shown.startswith("onnxruntime ")
    assert "CPUExecutionProvider, 1 thread, batch 1" in shown
    for text in ("large.onnx", "small.onnx", "p50", "p95", "quiet", "speed-up", "peak memory", "subnormal weights"):
        assert text in shown, shown
    [speedup] = [line for line in shown.splitlines() if "speed-up  " in line]
    assert "×" in speedup
    assert "throughput by batch size" in shown
    assert any(line.split()[1] == "64" for line in shown.splitlines() if line.startswith("│"))


def test_json_on_stdout_is_all_of_stdout(folder: Path) -> None:
    document = json.loads(done("bench", folder / "small.onnx", folder / "small.onnx", "--json", "-", *FAST))
    assert (document["schema"], document["kind"], document["backend"]) == (1, "bench", "onnxruntime")
    assert [file["name"] for file in document["files"]] == ["small.onnx", "small.onnx (2)"]
    low, high = document["files"][1]["speedup_ci95"]
    assert low <= document["files"][1]["speedup"] <= high
    assert document["device"]["threads"] == document["device"]["batch_size"] == 1
    assert document["machine"].keys() >= {"disturbed_share", "noisy", "load_average_1min"}
    assert document["sweep"] is None
    assert document["against"] is None


def test_files_that_are_written(folder: Path, tmp_path: Path) -> None:
    shown = autoprune(
        "bench", folder / "small.onnx", "--batch", "3", "--shape", "1,8,8", "--provider", "CPUExecutionProvider",
        "--seconds", "0.05", "--json", tmp_path / "a.json", "--save", tmp_path / "b.json", "--plot", tmp_path / "p.svg",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "timing" in shown.stderr  # progress is not on stdout
    assert "timing" not in shown.stdout
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    [file] = json.loads((tmp_path / "a.json").read_text())["files"]
    assert file["input_shape"] == [3, 1, 8, 8]
    assert file["images_per_s"] == pytest.approx(3000 / file["latency_ms_p50"])
    assert "</svg>" in (tmp_path / "p.svg").read_text()


def test_a_built_in_model_in_torch() -> None:
    document = json.loads(
        done("bench", "resnet20", "--backend", "torch", "--shape", "1,8,8", "--json", "-", "--seconds", "0.1", "-q")
    )
    assert document["device"]["runtime"].startswith("torch ")
    assert document["files"][0]["file_bytes"] is None
    assert document["files"][0]["input_shape"] == [1, 1, 8, 8]


# ---------------------------------------------------------------- against a saved run


def times(saved: Path, path: Path, factor: float) -> Path:
    """`saved` with all times of its files, and their intervals, changed."""
    document = json.loads(saved.read_text())
    for file in document["files"]:
        for key in ("latency_ms_p50", "quiet_ms"):
            file[key] *= factor
            file[f"{key}_ci95"] = [bound * factor for bound in file[f"{key}_ci95"]]
    path.write_text(json.dumps(document))
    return path


def test_slower_than_saved(folder: Path, saved: Path, tmp_path: Path) -> None:
    fast = times(saved, tmp_path / "fast.json", 0.02)
    ended = autoprune(
        "bench", folder / "small.onnx", folder / "large.onnx", "--against", fast, "--json", tmp_path / "now.json", *FAST
    )
    assert ended.returncode == 1, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"error: small.onnx: slower than in {fast}: quiet ")
    assert " ms, was " in line
    assert f"large.onnx: not in {fast}" in ended.stdout
    against = json.loads((tmp_path / "now.json").read_text())["against"]
    assert against["not_saved"] == ["large.onnx"]
    [change] = against["changes"]
    assert change["slower"]
    assert change["quiet_ratio_ci95"][0] > against["allowed_ratio"]


def test_not_slower_than_saved(folder: Path, saved: Path, tmp_path: Path) -> None:
    slow = times(saved, tmp_path / "slow.json", 50)
    shown = done("bench", folder / "small.onnx", "--against", slow, *FAST)
    assert f"small.onnx: not slower than in {slow}: quiet " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small.onnx", "--threads", "2"), "saved with another threads (1, now 2)"),
        (("small.onnx", "--batch", "2"), "saved with another batch_size (1, now 2)"),
        (("small.onnx", "--provider", "AzureExecutionProvider"), "saved with another provider (CPUExecutionProvider, "),
        (("large.onnx",), "none of the files is in it; it has small.onnx, now there are large.onnx"),
    ],
)
def test_saved_under_other_circumstances(folder: Path, saved: Path, arguments: tuple[str, ...], message: str) -> None:
    name, *options = arguments
    from autoprune.runtimes.onnxruntime import onnxruntime

    if "AzureExecutionProvider" in options and "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has one provider")
    assert f"{saved}: {message}" in refused(folder / name, "--against", saved, *options, *FAST)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.onnx",), "nowhere.onnx: no such file"),
        (("small.onnx", "nowhere.onnx"), "nowhere.onnx: no such file"),
        (("broken.onnx",), "broken.onnx: ONNX Runtime cannot load it ("),
        (("small.onnx", "--provider", "FPGA"), "--provider FPGA: not available; onnxruntime "),
        (("small.onnx", "--provider", "FPGA"), "CPUExecutionProvider"),
        (("small.onnx", "--backend", "tvm"), "--backend=tvm: unknown; use onnxruntime, openvino, torch, torch-compile"),
        (("small.onnx", "--backend", "torch"), "small.onnx: torch and torch-compile take a pruned folder (RUN/pruned)"),
        (("small.onnx", "--shape", "3,8,8"), "small.onnx: takes inputs (batch, 1, 8, 8); --shape 3,8,8 does not fit"),
        (("small.onnx", "--shape", "8x8"), "--shape 8x8: expected the positive sizes of one image, for example"),
        (("fixed.onnx", "--batch", "4"), "fixed.onnx: takes batches of 1 only, so --batch 4 does not fit"),
        (("fixed.onnx", "--sweep"), "fixed.onnx: its batch is fixed at 1, so --sweep cannot change it"),
        (("small.onnx", "--against", "nowhere.json"), "nowhere.json: no such file"),
        (("small.onnx", "--against", "broken.json"), "broken.json: not valid JSON ("),
        (("small.onnx", "--against", "other.json"), "other.json: is search of schema 1; this version reads bench of 1"),
        (("small.onnx", "--plot", "p.pdf"), "p.pdf: must end in .png or .svg"),
        (("small.onnx", "--quick"), "--quick and --seconds: give one of the two"),
    ],
)
def test_bad_input(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    names = [folder / text if text.endswith((".onnx", ".json", ".pdf")) else text for text in arguments]
    assert message in refused(*names, *FAST)


def test_a_torch_model_by_name_needs_a_shape() -> None:
    said = refused("resnet20", "--backend", "torch", *FAST)
    assert said.startswith("resnet20: takes inputs (batch, any, any, any); say which, for example --shape 3,224,224")


def test_help_has_an_example() -> None:
    shown = done("bench", "--help", COLUMNS="200")
    assert "Example: autoprune bench " in " ".join(shown.replace("`", "").split())


def test_no_file_at_all_is_bad_usage() -> None:
    ended = autoprune("bench")
    assert ended.returncode == 2
    assert "Missing argument" in ended.stderr


def test_the_coverage_check_counts() -> None:
    """With a hundredth of a second for each file its verdict is left open; both parts are reported."""
    ended = subprocess.run(
        [sys.executable, COVERAGE, "--runs", "1", "--seconds", "0.01"],
        capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    assert ended.returncode in (0, 1), ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["other core idle"] * 2 + ["other core loaded"] * 2
    assert all("/1, half-width ±" in line for line in lines)


def test_a_roofline_says_what_bounds_each_layer(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    deep = tmp_path / ("a folder with a long name " * 4) / "large.onnx"
    deep.parent.mkdir()
    shutil.copy(folder / "large.onnx", deep)
    shown = done("bench", deep, "--roofline", "--json", report, *FAST, COLUMNS="80")
    assert "\nlarge.onnx: what bounds each layer" in shown  # the name alone: a whole path would be wrapped
    [roofline] = json.loads(report.read_text())["roofline"]
    bounds = {node["bound"] for node in roofline["nodes"]}
    assert bounds <= {"compute", "memory", "overhead"} and bounds


def test_a_roofline_needs_onnx_runtime(folder: Path) -> None:
    message = refused(folder / "small.onnx", "--roofline", "--backend", "torch")
    assert message == "--roofline: only with ONNX Runtime's CPU provider; leave --backend and --provider out"

"""Energy in the commands: refused without a sensor unless estimates are allowed, measured with one."""

import json
from pathlib import Path

import pytest
import small_job
from powercap import BUSY_W, IDLE_W, powercap
from small_job import autoprune, started
from torch import nn

from autoprune.config import RunConfig
from autoprune.config.file import parse_config
from autoprune.data import DataInfo
from autoprune.errors import ConfigError
from autoprune.export.onnx_file import export_onnx
from autoprune.measure.energy_sensors import POWERCAP_VARIABLE
from autoprune.measure.energy_source import find_energy_source

TARGET = {"metric": "energy", "max_ratio": 0.8}
REWARD = {"reward": {"form": "weighted", "cost": "energy", "cost_weight": 1.0}}
INFO = DataInfo("test", ("a", "b"), 1, 8, 8, mean=(0.0,), std=(1.0,))


@pytest.fixture
def without_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No powercap folder at all, as in most virtual machines."""
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path / "none"))
    return tmp_path / "none"


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        ({"target": TARGET}, "target"),
        ({"search": REWARD}, "search.reward.cost"),
        ({"target": [{"metric": "latency", "max_ratio": 0.9}, TARGET], "search": REWARD}, "target and search.reward"),
    ],
)
def test_without_a_sensor_energy_is_refused(raw: dict[str, object], keys: str, without_sensor: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_energy_source(parse_config(raw, where="x"))
    text = str(caught.value)
    assert text.startswith(keys)
    assert f"energy cannot be measured here ({without_sensor}: no such folder" in text
    assert "measure.allow_estimated_energy=true" in text


@pytest.mark.usefixtures("without_sensor")
def test_estimates_are_used_only_where_they_are_allowed_or_nothing_depends_on_them() -> None:
    allowed = parse_config({"target": TARGET, "measure": {"allow_estimated_energy": True}}, where="x")
    assert find_energy_source(allowed) is None
    assert find_energy_source(RunConfig()) is None


def test_with_a_sensor_nothing_need_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path / "tree"))
    with powercap(tmp_path / "tree"):
        sensor = find_energy_source(parse_config({"target": TARGET}, where="x"))
    assert sensor is not None
    assert sensor.name == "RAPL package-0"


@pytest.mark.usefixtures("without_sensor")
@pytest.mark.parametrize("command", ["run", "search"])
def test_the_command_says_so_and_leaves_nothing(command: str, tmp_path: Path) -> None:
    config = small_job.write_config(tmp_path / "energy.yaml")
    ended = autoprune(command, config, "-o", "target.metric=energy", "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: target: energy cannot be measured here (")
    assert not (tmp_path / "run").exists()


def measured(root: Path, *arguments: str | Path) -> str:
    """What a command prints on stdout while a made-up sensor counts what it does."""
    with powercap(root) as tree, started(*arguments, **{POWERCAP_VARIABLE: str(root)}) as process:
        tree.watched = process.pid
        stdout, stderr = process.communicate(timeout=small_job.TIMEOUT_S)
    assert process.returncode == 0, stderr[-3000:]
    assert tree.wraps > 0, "the counter must have started again at zero at least once"
    return stdout


def test_a_run_measures_energy_with_a_sensor(small_config: Path, tmp_path: Path) -> None:
    many = (
        "-o",
        "measure.rounds=40",
        "-o",
        "measure.runs_per_round=20",
    )  # calls, for medians that a moment cannot shift
    measured(tmp_path / "tree", "run", small_config, *many, "--run-dir", tmp_path / "run", "--quiet")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for figures in (result["original"], result["pruned"]):
        assert figures["energy_source"] == "measured"
        assert figures["energy_sensor"] == "RAPL package-0"
        low, high = figures["energy_mj_ci95"]
        assert 0 < low <= figures["energy_mj"] <= high
        # A call takes the watched thread's time: 20 W times its latency, whatever the idle power. The loop around calls
        # of 0.05 ms and calls slower than the median come on top; a wrong unit or count is further off than that.
        assert 0.3 < figures["energy_mj"] / (BUSY_W * figures["latency_ms_p50"]) < 8
    assert result["ratios"]["energy"] < 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "measured above idle, RAPL package-0" in page
    assert "estimated" not in page.split("Energy per inference")[1][:80]


def test_bench_measures_energy_with_a_sensor(tmp_path: Path) -> None:
    for name, channels in (("small", 8), ("large", 96)):
        body = [nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]
        export_onnx(nn.Sequential(*body, *head), tmp_path / f"{name}.onnx", INFO)
    files = (tmp_path / "small.onnx", tmp_path / "large.onnx")
    printed = measured(tmp_path / "tree", "bench", *files, "--energy", "--seconds", "1", "--json", "-", "--quiet")
    small, large = (file["energy"] for file in json.loads(printed)["files"])
    assert small["sensor"] == large["sensor"] == "RAPL package-0"
    assert small["energy_source"] == "measured"
    assert small["net_mj"] < small["gross_mj"]
    assert small["net_mj"] < large["net_mj"]
    assert 0.5 * IDLE_W < large["idle_power_w"] < IDLE_W + BUSY_W / 4


@pytest.mark.usefixtures("without_sensor")
def test_bench_says_why_energy_cannot_be_measured(tmp_path: Path) -> None:
    export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), tmp_path / "model.onnx", INFO)
    ended = autoprune("bench", tmp_path / "model.onnx", "--energy", "--quiet")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --energy: ")
    assert "RAPL needs Linux on a real Intel or AMD processor" in ended.stderr

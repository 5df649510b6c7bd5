"""What a command writes takes the place of nothing that it reads, and of no stranger's file."""

import json
import os
from pathlib import Path

import pytest
from small_job import HERE, autoprune

from autoprune.cli.outputs import PAGE, PICTURE, POLICY, check_outputs, json_kind
from autoprune.errors import InputError
from autoprune.space.policy import PruningPolicy, save_policy

BENCH = json_kind("bench")
HTML = "<!DOCTYPE html>\n<head>\n<title>resnet20 · autoprune</title>\n"


def saved(path: Path, kind: str) -> Path:
    path.write_text(json.dumps({"schema": 1, "kind": kind}))
    return path


def test_new_files_empty_ones_and_those_of_the_same_kind_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(HTML)
    (tmp_path / "empty.json").touch()
    (tmp_path / "plot.png").write_bytes(b"\x89PNG\r\n")
    save_policy(tmp_path / "1.json", PruningPolicy.of({"a": 1}), model="m", original={"a": 2})
    outputs = [
        ("--json", saved(tmp_path / "saved.json", "bench"), BENCH),
        ("--save", tmp_path / "empty.json", BENCH),
        ("--html", tmp_path / "page.html", PAGE),
        ("--plot", tmp_path / "plot.png", PICTURE),
        ("--save", tmp_path / "1.json", POLICY),
        ("--html", tmp_path / "new" / "page.html", PAGE),
        ("--plot", None, PICTURE),
    ]
    check_outputs(outputs, [tmp_path / "in.onnx", None, "resnet20"])


@pytest.mark.parametrize(
    "text", ["not JSON", "[]", '{"schema": 1}', '{"kind": "evaluation"}', '{"groups": {}}', "<html>mine</html>"]
)
def test_a_file_of_another_kind_stays(tmp_path: Path, text: str) -> None:
    there = tmp_path / "there"
    there.write_text(text)
    for field, kind in (("--json", BENCH), ("--html", PAGE), ("--plot", PICTURE), ("--save", POLICY)):
        with pytest.raises(InputError, match=f"^{field} {there}: there is a file already, and no "):
            check_outputs([(field, there, kind)], [])


def test_an_output_is_no_input_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = saved(tmp_path / "baseline.json", "bench")
    (tmp_path / "link.json").symlink_to(baseline)
    os.link(baseline, tmp_path / "hard.json")
    monkeypatch.chdir(tmp_path)
    for name in ("baseline.json", "./baseline.json", "link.json", "hard.json", str(baseline)):
        with pytest.raises(InputError, match=r"would overwrite .*baseline\.json, which is read; choose another file"):
            check_outputs([("--save", Path(name), BENCH)], ["other.onnx", baseline])


def test_two_outputs_need_two_files(tmp_path: Path) -> None:
    outputs = [(field, tmp_path / "o.json", BENCH) for field in ("--save", "--json")]
    with pytest.raises(InputError, match=r"^--json .*o.json: is written by --save already"):
        check_outputs(outputs, [])


@pytest.mark.parametrize("option", ["--save", "--json"])
def test_bench_leaves_the_file_that_it_times(tmp_path: Path, option: str) -> None:
    model = tmp_path / "x.onnx"
    model.write_bytes(b"weights")
    refused("bench", model, option, model, message=f"{option} {model}: would overwrite {model}, which is read")
    assert model.read_bytes() == b"weights"


def test_evaluate_leaves_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("seed: 1\n")
    refused("evaluate", config, "x.onnx", "--json", config, message=f"--json {config}: would overwrite {config}")
    assert config.read_text() == "seed: 1\n"


def test_inspect_leaves_its_checkpoint_and_makes_no_file_called_stdout(tmp_path: Path) -> None:
    weights = tmp_path / "h.safetensors"
    weights.write_bytes(b"weights")
    inspected = ("inspect", f"{HERE}:net", "--no-latency", "--checkpoint", weights, "--html")
    refused(*inspected, weights, message=f"--html {weights}: would overwrite {weights}, which is read")
    refused(*inspected, "-", message="--html -: is written into a file, not to stdout; name one")
    assert weights.read_bytes() == b"weights"


def refused(*arguments: str | Path, message: str) -> None:
    ended = autoprune(*arguments)
    assert ended.returncode == 2, ended.stderr
    assert message in " ".join(ended.stderr.split())

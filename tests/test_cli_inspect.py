"""`autoprune inspect` as users run it: the real command in a process of its own, on a network of three convolutions."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_job import HERE, autoprune, done

NET = f"{HERE}:net"
SMALL = (NET, "--input-shape", "1,16,16", "--classes", "3")
CONVOLUTIONS = ["0", "3", "6"]  # of 32, 48 and 64 channels; "11" is the linear layer


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspect") / "table.sqlite"


@pytest.fixture(scope="module")
def measured(table: Path) -> tuple[dict[str, Any], Path]:
    """What the command prints with latency and everything else that it can do, and the folder of its files."""
    folder = table.parent
    arguments = ("--width", "0.25", "--staircase", "4", "--validate-latency", "3", "--table", table, "--json", "-q")
    return json.loads(
        done("inspect", *SMALL, *arguments, "--html", folder / "p.html", "--plot", folder / "s.svg")
    ), folder


def refused(*arguments: str | Path) -> str:
    ended = autoprune("inspect", *arguments)
    assert ended.returncode == 2, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("error: ")


def test_help_has_an_example() -> None:
    assert "Example: autoprune inspect resnet20 " in " ".join(done("inspect", "--help", COLUMNS="200").split())


def test_json_without_latency() -> None:
    ended = autoprune("inspect", *SMALL, "--no-latency", "--json")
    assert ended.returncode == 0, ended.stderr
    raw = json.loads(ended.stdout)
    assert raw["schema"] == 1
    assert raw["model"] == {"name": NET, "checkpoint": None, "width": 1.0, "input_shape": [1, 16, 16], "classes": 3}
    assert raw["settings"]["ladders"] == "evenly spaced"
    # MACs: 32*1*9*256, 48*32*9*256, 64*48*9*64 and 128*3; BatchNorms have two parameters a channel.
    assert raw["totals"]["macs"] == 73_728 + 3_538_944 + 1_769_472 + 384
    assert raw["totals"]["params"] == 288 + 13_824 + 27_648 + 2 * (32 + 48 + 64) + 128 * 3 + 3
    assert raw["totals"]["predicted_latency_ms"] is None
    assert [(group["name"], group["channels"]) for group in raw["groups"]] == [("0", 32), ("3", 48), ("6", 64)]
    assert raw["groups"][0]["ladder"] == [4, 8, 12, 16, 20, 24, 28, 32]
    assert raw["groups"][2]["coupling"] == "made by: 6; normalised by: 7; read by: 11"
    assert raw["skipped"] == [{"name": "11", "channels": 3, "reason": "it is the model's output"}]
    assert [layer["name"] for layer in raw["layers"]] == [*CONVOLUTIONS, "11"]
    assert raw["targets"].keys() == {"macs", "params", "energy"}
    # The least widths are 4, 6 and 8: MACs 4*9*256 + 6*4*9*256 + 8*6*9*64 + 16*3.
    assert raw["targets"]["macs"]["floor"] == 9_216 + 55_296 + 27_648 + 48
    assert raw["targets"]["energy"]["source"] == "estimated"
    time = raw["search_time"]
    assert time["estimated_search_s"] == pytest.approx(time["evaluation_s"] * (120 + 3))
    assert time["table_s"] is raw["staircase"] is raw["latency_validation"] is None


def test_json_with_latency(measured: tuple[dict[str, Any], Path]) -> None:
    raw, _ = measured
    assert raw["settings"]["ladders"] == "measured"
    assert raw["settings"]["runtime"].startswith("onnxruntime ")
    assert raw["targets"].keys() == {"latency", "macs", "params", "energy"}
    latency = raw["targets"]["latency"]
    assert 0 < latency["floor"] <= latency["ceiling"] == raw["totals"]["predicted_latency_ms"]
    assert latency["smallest_max_ratio"] == pytest.approx(latency["floor"] / latency["ceiling"])
    layers_ms = [layer["predicted_latency_ms"] for layer in raw["layers"]]
    assert min(layers_ms) >= 0 < max(layers_ms)  # the last layer takes less than noise can hide
    assert sum(layers_ms) + raw["totals"]["rest_latency_ms"] == pytest.approx(latency["ceiling"])
    assert sum(layer["latency_share"] for layer in raw["layers"]) == pytest.approx(1)
    for group in raw["groups"]:
        assert group["ladder"] == sorted(set(group["ladder"]))
        assert group["ladder"][-1] == group["channels"]
    time = raw["search_time"]
    assert time["table_s"] > 0
    assert time["estimated_search_s"] == pytest.approx(time["evaluation_s"] * (120 + 3) + time["table_s"])


def test_latency_validation_in_json(measured: tuple[dict[str, Any], Path]) -> None:
    check = measured[0]["latency_validation"]
    assert check["n"] == len(check["points_ms"]) == 3
    errors = sorted(abs(predicted / actual - 1) for predicted, actual in check["points_ms"])
    assert check["median_rel_error"] == pytest.approx(errors[1])
    assert errors[1] <= check["p95_rel_error"] <= errors[2]
    assert check["spearman"] is None or -1 <= check["spearman"] <= 1.0001


def test_the_staircase_of_the_group_that_a_layer_belongs_to(measured: tuple[dict[str, Any], Path]) -> None:
    stairs = measured[0]["staircase"]
    assert (stairs["layer"], stairs["group"], stairs["channels"]) == ("4", "3", 12)  # "4" is a BatchNorm of group "3"
    assert [point["width"] for point in stairs["points"]] == list(range(1, 13))
    assert all(point["ms"] >= 0 for point in stairs["points"])
    assert stairs["points"][-1]["ms"] > 0
    (group,) = (group for group in measured[0]["groups"] if group["name"] == "3")
    assert stairs["rungs"] == group["ladder"]


def test_files_are_written_beside_json(measured: tuple[dict[str, Any], Path]) -> None:
    _, folder = measured
    page = (folder / "p.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "Staircase of group 3" in page
    assert "http" not in page.replace("http://www.w3.org/", "")  # the names of SVG's own vocabulary are no addresses
    assert "channels kept" in (folder / "s.svg").read_text(encoding="utf-8")


@pytest.mark.usefixtures("measured")
def test_tables_in_the_terminal_read_the_table_again(table: Path, tmp_path: Path) -> None:
    before = table.stat().st_mtime_ns
    page = tmp_path / "deep" / "page.html"
    shown = done("inspect", *SMALL, "--width", "0.25", "--table", table, "--html", page, "--staircase", "6", "-q")
    flat = " ".join(shown.replace("│", " ").split())
    assert f"{NET} at width 0.25, 1×16×16, 3 classes, random weights" in flat
    for part in ("Groups that can be pruned", "Cannot be pruned", "Layers in order of", "Latency (predicted)"):
        assert part in flat
    assert "11 3 it is the model's output" in flat
    assert "Staircase of group 6" in flat
    assert shown.splitlines()[-1] == str(page)
    assert page.is_file()
    assert table.stat().st_mtime_ns >= before


def test_a_factory_says_itself_how_many_classes_it_has() -> None:
    arguments = ("--input-shape", "1x16x16", "--no-latency", "--json", "-q")
    raw = json.loads(done("inspect", f"{HERE}:net_of_five_classes", *arguments))
    assert raw["model"]["classes"] == 5


def test_built_in_models_have_shapes_of_their_own() -> None:
    raw = json.loads(done("inspect", "resnet20", "--width", "0.25", "--no-latency", "--json", "-q"))
    assert raw["model"]["input_shape"] == [1, 28, 28]
    (stream,) = (group for group in raw["groups"] if group["name"] == "conv1")
    assert stream["coupling"].startswith("adds: conv1, layer1.0.conv2, layer1.1.conv2, layer1.2.conv2; ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet21",), "model.name=resnet21: unknown; built in are resnet20,"),
        (("vgg16_bn", "--input-shape", "3,7,7"), "--input-shape 3,7,7: vgg16_bn does not take such images ("),
        ((NET, "--input-shape", "3,16,16"), "--input-shape 3,16,16: "),
        (("resnet20", "--input-shape", "28"), "--input-shape 28: must be channels, height and width, such as 3,32,32"),
        (("resnet20", "--input-shape", "1,0,28"), "--input-shape 1,0,28: must be channels, height and width"),
        ((f"{HERE}:net_of_five_classes", "--input-shape", "1,16,16", "--classes", "3"), "--classes 3: "),
        ((*SMALL, "--staircase", "lay3"), "--staircase lay3: the model has no such layer; its groups are 0, 3, 6"),
        ((*SMALL, "--staircase", "3", "--no-latency"), "--staircase: needs latency; leave out --no-latency"),
        ((*SMALL, "--validate-latency", "3", "--no-latency"), "--validate-latency: needs latency"),
        ((*SMALL, "--plot", "a.png"), "--plot a.png: of what? Name a layer with --staircase LAYER"),
        ((*SMALL, "--staircase", "3", "--plot", "a.gif"), "--plot a.gif: must end in .png or .svg"),
        ((NET, "--input-shape", "1,64,64", "--batch", "4096"), "--batch 4096: needs about "),
        ((*SMALL, "--html", "."), "--html .: is a folder; name a file"),
        ((*SMALL, "--width", "0"), "--width 0: must be above 0 and at most 8"),
        (("torchvision:resnet18", "--width", "0.5"), "--width 0.5: torchvision:resnet18 has no width multiplier"),
        ((*SMALL, "--checkpoint", "resnet20-fashion-mnist"), "does not fit the model"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


@pytest.mark.parametrize("arguments", [(), ("resnet20", "--threads", "0"), ("resnet20", "--validate-latency", "1")])
def test_bad_usage_is_told_by_the_parser(arguments: tuple[str, ...]) -> None:
    ended = autoprune("inspect", *arguments)
    assert ended.returncode == 2
    assert "Usage:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_table_that_is_none_is_refused_and_kept(tmp_path: Path) -> None:
    broken = tmp_path / "table.sqlite"
    broken.write_bytes(b"not a table at all" * 100)
    assert str(broken) in refused(*SMALL, "--table", broken, "-q")
    assert broken.read_bytes() == b"not a table at all" * 100

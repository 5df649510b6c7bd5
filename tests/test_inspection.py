"""Facts of small networks, with numbers worked out by hand; nothing is measured here but the time of evaluations."""

import copy
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from models_for_tests import SMALL_NETS, elastic_net, same_state
from rich.console import Console
from torch import Tensor, nn

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.inspection.as_json import as_json
from autoprune.inspection.charts import staircase_lines, staircase_svg, write_staircase
from autoprune.inspection.facts import (
    GroupFacts,
    InspectedModel,
    Inspection,
    LatencyFacts,
    SearchTime,
    Staircase,
    assemble,
    group_of_layer,
    joining_words,
    smallest_policy,
    staircase_widths,
)
from autoprune.inspection.inspect_model import inspect_model, time_search
from autoprune.inspection.report import diagram_columns, print_inspection, write_inspection_page
from autoprune.inspection.text import duration, headline, search_time_text, shape_text, target_texts
from autoprune.prediction.latency_validation import compare
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups

LAYERS_MS = {"0": 0.010, "3": 0.024, "7": 0.006}
WHOLE_MS = (0.050, 0.020)  # the original, the smallest
LADDERS = {"0": (2, 4), "3": (3, 6)}
STAIRS = Staircase("3", "3", 6, ((2, 0.004), (3, 0.005), (6, 0.010)), (3, 6))


def tiny() -> nn.Sequential:
    """On (1, 6, 6) images: 4 channels at 6x6, 6 at 3x3, 5 classes.

    MACs: 4*1*9*36 = 1296, 6*4*9*9 = 1944, 6*5 = 30. Params: 36 + 8 (norm), 216 + 6, 30 + 5.
    """
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()


def tiny_facts(*, with_latency: bool = True, name: str = "tiny") -> Inspection:
    model, shape = tiny(), (1, 6, 6)
    found = find_groups(model, shape)
    elastic = ElasticModel(
        model, found.prunable, {group.name: tuple(range(group.channels)) for group in found.prunable}
    )
    latency = LatencyFacts(LAYERS_MS, *WHOLE_MS, device="a CPU", runtime="onnxruntime 1")
    return assemble(
        InspectedModel(name, None, 1.0, shape, 5),
        found.skipped,
        CutShapes(elastic, shape),
        LADDERS,
        search=SearchConfig(),
        measure=MeasureConfig(),
        latency=latency if with_latency else None,
    )


def whole_facts() -> Inspection:
    """Every optional part filled in."""
    time = SearchTime(0.5, 4, 512, 3024, max_evaluations=120, setup_evaluations=2, table_s=9.0)
    validation = compare([0.05, 0.03, 0.02], [0.051, 0.03, 0.019])
    return replace(tiny_facts(), search_time=time, staircase=STAIRS, validation=validation)


def facts_of(name: str) -> Inspection:
    elastic, shape = elastic_net(name), SMALL_NETS[name].input_shape
    ladders = {group.name: (1, group.channels) for group in elastic.groups}
    described, skipped = InspectedModel(name, None, 1.0, shape, 4), find_groups(elastic.original, shape).skipped
    shapes, search, measure = CutShapes(elastic, shape), SearchConfig(), MeasureConfig()
    return assemble(described, skipped, shapes, ladders, search=search, measure=measure, latency=None)


def group_of(facts: Inspection, name: str) -> GroupFacts:
    return next(group for group in facts.groups if group.name == name)


def test_macs_and_params_of_groups_layers_and_the_whole() -> None:
    facts = tiny_facts()
    assert (facts.macs, facts.params) == (1296 + 1944 + 30, 44 + 222 + 35)
    assert [(group.name, group.channels, group.takes.macs, group.takes.params) for group in facts.groups] == [
        ("0", 4, 1296, 44),
        ("3", 6, 1944, 222),
    ]
    assert [(layer.name, layer.group, layer.takes.macs, layer.takes.params) for layer in facts.layers] == [
        ("0", "0", 1296, 36),
        ("3", "3", 1944, 222),
        ("7", None, 30, 35),
    ]
    assert [shape_text(layer) for layer in facts.layers] == [
        "conv 1→4, 3×3, 6×6 out",
        "conv 4→6, 3×3, stride 2, 3×3 out",
        "linear 6→5",
    ]
    assert group_of(facts, "3").takes.macs_share == pytest.approx(1944 / 3270)
    assert group_of(facts, "3").takes.params_share == pytest.approx(222 / 301)


def test_latency_is_given_by_layer_and_group() -> None:
    facts = tiny_facts()
    assert [layer.takes.predicted_latency_ms for layer in facts.layers] == [0.010, 0.024, 0.006]
    assert [layer.takes.latency_share for layer in facts.layers] == pytest.approx([0.25, 0.6, 0.15])
    assert [group.takes.latency_share for group in facts.groups] == pytest.approx([0.25, 0.6])
    assert facts.rest_latency_ms == pytest.approx(0.010)


def test_floors_are_those_of_the_lowest_rungs() -> None:
    facts = tiny_facts()
    # 2 channels and 3: MACs 2*9*36 + 3*2*9*9 + 3*5; params 18 + 4, 54 + 3, 15 + 5.
    found = {target.metric: (target.ceiling, target.floor) for target in facts.targets}
    energy = found.pop("energy")
    assert found == {"latency": WHOLE_MS, "macs": (3270, 648 + 486 + 15), "params": (301, 22 + 57 + 20)}
    # Values moved (weights, input and output of each layer): 36+36+144, 222+144+54 and 35+6+5 make 682;
    # 18+36+72, 57+72+27 and 20+3+5 make 310.
    assert energy == pytest.approx(((3270 * 4.6 + 682 * 100) * 1e-9, (1149 * 4.6 + 310 * 100) * 1e-9))
    assert {target.metric: target.source for target in facts.targets} == {
        "latency": "predicted",
        "macs": "counted",
        "params": "counted",
        "energy": "estimated",
    }
    assert facts.targets[0].smallest_max_ratio == pytest.approx(0.4)
    assert smallest_policy(LADDERS).as_dict() == {"0": 2, "3": 3}


def test_without_latency_there_is_no_figure_for_it() -> None:
    facts = tiny_facts(with_latency=False)
    assert [target.metric for target in facts.targets] == ["macs", "params", "energy"]
    assert facts.latency is facts.rest_latency_ms is facts.groups[0].takes.latency_share is None
    assert headline(facts) == "2 groups can be pruned, down to 35.2% of the MACs"
    assert "0.352" in target_texts(facts.targets[0])


def test_a_ratio_is_shown_rounded_up_so_that_it_can_be_met() -> None:
    assert 1149 / 3270 < 0.3514  # rounded to the nearest it would read 0.351, which cannot be met
    assert target_texts(tiny_facts().targets[1]) == ("MACs", "3,270", "1,149", "0.352")


def test_a_residual_stream_is_told_in_words() -> None:
    facts = facts_of("resnet20")
    stream = group_of(facts, "conv1")
    assert stream.coupling == (
        "adds: conv1, layer1.0.conv2, layer1.1.conv2, layer1.2.conv2; "
        "normalised by: bn1, layer1.0.bn2, layer1.1.bn2, layer1.2.bn2; "
        "read by: layer1.0.conv1, layer1.1.conv1, layer1.2.conv1, layer2.0.conv1, layer2.0.shortcut.0"
    )
    inner = group_of(facts, "layer1.0.conv1")
    assert inner.coupling == "made by: layer1.0.conv1; normalised by: layer1.0.bn1; read by: layer1.0.conv2"
    assert [(group.name, group.reason) for group in facts.skipped] == [("fc", "it is the model's output")]


def test_a_depthwise_layer_is_named_once_and_counts_for_its_group() -> None:
    facts = facts_of("mobilenet_v2")
    depthwise = [layer for layer in facts.layers if layer.kind == "depthwise"]
    assert len(depthwise) == 17
    for layer in depthwise:
        assert layer.group is not None
        group = group_of(facts, layer.group)
        assert [(member.side, member.role) for member in group.members if member.layer == layer.name] == [
            ("out", "depthwise")
        ]
        assert f"filtered by: {layer.name}; " in group.coupling
        assert (
            group.takes.macs
            == sum(other.takes.macs for other in facts.layers if other.group == group.name)
            > layer.takes.macs
        )


def test_a_concatenation_is_no_coupling_and_its_norms_are_shared_out() -> None:
    facts = facts_of("concat")
    first, second, third = facts.groups
    assert first.coupling == "made by: first; normalised by: norm1, norm2, norm3; read by: second, third, head"
    # 9 weights a channel, and two parameters in each BatchNorm that follows; the three groups share norm3's 24.
    assert [group.takes.params for group in (first, second, third)] == [
        5 * 9 + 3 * 10,
        3 * 5 * 9 + 2 * 6,
        4 * 8 * 9 + 8,
    ]
    head = next(layer for layer in facts.layers if layer.name == "head")
    assert sum(group.takes.params for group in facts.groups) + head.takes.params == facts.params


def test_a_flattened_channel_says_how_many_inputs_it_takes_along() -> None:
    members = {(member.layer, member.side): member for member in group_of(facts_of("flatten"), "features.2").members}
    assert members["features.2", "out"].channels == 6
    assert members["hidden", "in"].channels == 36


def test_reasons_of_what_cannot_be_pruned() -> None:
    facts = facts_of("grouped")
    assert [(group.name, group.channels, group.reason) for group in facts.skipped] == [
        ("stem", 8, "a grouped convolution (4 groups)"),
        ("grouped", 8, "a grouped convolution (4 groups)"),
        ("head", 3, "it is the model's output"),
    ]
    assert [layer.name for layer in facts.layers if layer.group is None] == ["stem", "grouped", "head"]


class Gate(nn.Module):
    """A channel gate (one layer's outputs multiply another's), as in squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((self.body(x) * torch.sigmoid(self.gate(x))).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (elastic_net("resnet20").original, (1, 8, 8), "adds"),
        (elastic_net("concat").original, (1, 5, 5), "joins"),
        (Gate(), (1, 5, 5), "multiplies"),
    ],
)
def test_what_a_model_does_with_two_tensors(model: nn.Module, shape: tuple[int, int, int], words: str) -> None:
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert joining_words(frozen, shape) == words
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_group_of_a_layer_is_the_one_that_makes_its_outputs() -> None:
    model, shape = elastic_net("resnet20").original, (1, 8, 8)
    found = find_groups(model, shape)

    def group_name(layer: str) -> str:
        return group_of_layer(layer, model, found.prunable, found.skipped).name

    assert group_name("layer1.2.conv2") == "conv1"
    assert group_name("layer1.2.conv1") == group_name("layer1.2.bn1") == "layer1.2.conv1"
    with pytest.raises(InputError, match=r"--staircase fc: its channels cannot be pruned \(it is the model's output\)"):
        group_name("fc")
    with pytest.raises(InputError, match=r"--staircase layer1: no prunable group makes its outputs; name one of conv1"):
        group_name("layer1")
    with pytest.raises(InputError, match=r"--staircase conv9: the model has no such layer; its groups are conv1, .*…"):
        group_name("conv9")


def test_a_staircase_shows_every_width_or_every_kth_and_the_rungs() -> None:
    assert staircase_widths(5, (2, 5)) == (1, 2, 3, 4, 5)
    assert staircase_widths(64, (64,)) == tuple(range(1, 65))
    assert staircase_widths(200, (7, 8, 200))[:6] == (4, 7, 8, 12, 16, 20)
    assert staircase_widths(200, (7, 8, 200))[-2:] == (196, 200)
    assert len(staircase_widths(513, (513,))) <= 65


def test_a_staircase_as_text_marks_the_rungs() -> None:
    assert staircase_lines(STAIRS) == [
        f"6 * 0.0100 ms {'#' * 48}",
        f"3 * 0.0050 ms {'#' * 24}",
        f"2   0.0040 ms {'#' * 19}",
    ]


def test_a_staircase_as_a_picture(tmp_path: Path) -> None:
    write_staircase(STAIRS, tmp_path / "stairs.png")
    assert (tmp_path / "stairs.png").read_bytes().startswith(b"\x89PNG\r\n")
    write_staircase(STAIRS, tmp_path / "stairs.SVG")
    drawn = ElementTree.parse(tmp_path / "stairs.SVG").getroot()
    text = " ".join(element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "channels kept" in text
    assert "rung of the ladder" in text
    assert "var(--" not in (tmp_path / "stairs.SVG").read_text()  # stands alone: no page defines its colours
    assert "var(--accent)" in staircase_svg(STAIRS)


def test_search_time_is_evaluations_times_their_time() -> None:
    time = SearchTime(0.5, 4, 512, 3024, max_evaluations=120, setup_evaluations=12, table_s=9.0)
    assert time.estimated_search_s == 0.5 * 132 + 9
    assert replace(time, table_s=None).estimated_search_s == 66
    text = search_time_text(time)
    assert text.startswith(
        "about 1 min 15 s: 120 evaluations and 12 before it starts, one for each group, at 0.5 s each"
    )
    assert "on 512 of its 3024 images" in text
    assert [duration(seconds) for seconds in (0.0421, 9.94, 9.96, 75, 11400)] == [
        "0.042 s", "9.9 s", "10 s", "1 min 15 s", "3 h 10 min",
    ]  # fmt: skip


def test_evaluations_are_timed_on_as_many_images_as_they_get() -> None:
    elastic, shape = elastic_net("flatten"), SMALL_NETS["flatten"].input_shape
    info = DataInfo("noise", ("a", "b", "c", "d"), *shape, mean=(0.5,) * 2, std=(0.25,) * 2)
    ladders = {group.name: (1, group.channels) for group in elastic.groups}
    search = SearchConfig(max_evaluations=7, score_images=60, calibration_images=40)
    time = time_search(elastic, info, ladders, search, table_s=None)
    assert (time.images_timed, time.images) == (100, 100)
    assert (time.max_evaluations, time.setup_evaluations, time.evaluations_timed) == (7, 3, 4)
    assert 0 < time.evaluation_s < 60
    assert time.estimated_search_s == pytest.approx(10 * time.evaluation_s)


def test_inspecting_leaves_the_model_as_it_was() -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    facts = inspect_model(
        model,
        InspectedModel("tiny", None, 1.0, (1, 6, 6), 5),
        search=SearchConfig(score_images=40, calibration_images=20, min_keep=0.5, max_rungs=2),
        measure=MeasureConfig(),
        with_latency=False,
    )
    untouched = tiny()
    untouched.load_state_dict(before)
    assert same_state(model, untouched)
    assert [group.ladder for group in facts.groups] == [(2, 4), (3, 6)]
    assert not model.training


def test_json_is_plain_and_whole() -> None:
    raw = json.loads(json.dumps(as_json(whole_facts()), allow_nan=False))
    assert raw["schema"] == 1
    assert raw["model"] == {"name": "tiny", "checkpoint": None, "width": 1.0, "input_shape": [1, 6, 6], "classes": 5}
    assert raw["targets"]["latency"] == {
        "unit": "ms",
        "source": "predicted",
        "ceiling": 0.05,
        "floor": 0.02,
        "smallest_max_ratio": pytest.approx(0.4),
    }
    assert raw["groups"][0]["members"] == [
        {"layer": "0", "side": "out", "role": "makes", "channels": 4},
        {"layer": "1", "side": "out", "role": "normalises", "channels": 4},
        {"layer": "3", "side": "in", "role": "reads", "channels": 4},
    ]
    assert raw["layers"][1]["kernel"] == [3, 3]
    assert raw["search_time"]["estimated_search_s"] == 0.5 * 122 + 9
    assert raw["staircase"]["points"][0] == {"width": 2, "ms": 0.004}
    check = raw["latency_validation"]
    assert (check["n"], check["spearman"]) == (3, pytest.approx(1.0))
    assert check["median_rel_error"] == pytest.approx(1 - 0.05 / 0.051)
    assert check["points_ms"] == [[0.05, 0.051], [0.03, 0.03], [0.02, 0.019]]


def test_ranks_that_cannot_be_compared_are_null() -> None:
    validation = replace(compare([0.05, 0.03], [0.051, 0.03]), spearman=float("nan"))
    assert as_json(replace(tiny_facts(), validation=validation))["latency_validation"]["spearman"] is None


def test_the_terminal_shows_every_part() -> None:
    console = Console(width=160, highlight=False)
    with console.capture() as capture:
        print_inspection(whole_facts(), console)
    text = " ".join(capture.get().replace("│", " ").split())
    assert "tiny, 1×6×6, 5 classes, random weights" in text
    assert "Latency of the exported file in onnxruntime 1 on a CPU, 1 thread, batch 1." in text
    assert "3 6 1,944 59.4% 222 73.8% 60.0% 3 6 made by: 3; read by: 7" in text
    assert "7 5 it is the model's output" in text
    assert "3 conv 4→6, 3×3, stride 2, 3×3 out 3 1,944 59.4% 222 73.8% 0.0240 ms 60.0%" in text
    assert "all else, as fitted +0.0100 ms" in text
    assert "Latency (predicted) 0.0500 ms 0.0200 ms 0.400" in text
    assert "Energy (estimated)" in text
    assert "A search takes about 1 min 10 s: 120 evaluations" in text
    assert "3 * 0.0050 ms ####" in text
    assert "3 random policies, predicted and then measured on their exported files: median error 2.0%" in text


class Page(HTMLParser):
    """Elements, ids, text, and what a browser would fetch. Fails on unbalanced elements."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"elements left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


def page_of(facts: Inspection, folder: Path) -> Page:
    write_inspection_page(facts, folder / "page.html")
    return Page((folder / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["whole", "without latency"])
def test_the_page_is_well_formed_and_fetches_nothing(tmp_path: Path, name: str) -> None:
    page = page_of(whole_facts() if name == "whole" else tiny_facts(with_latency=False), tmp_path)
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "url(http" not in source
    assert "@import" not in source
    assert page.tags.count("svg") == (3 if name == "whole" else 1)


def test_the_page_shows_groups_layers_and_floors(tmp_path: Path) -> None:
    text = page_of(whole_facts(), tmp_path).text
    assert "2 groups can be pruned, down to 40.0% of the predicted latency" in text
    assert "Latency (predicted) 0.0500 ms 0.0200 ms 0.400" in text
    assert "made by: 3; read by: 7" in text
    assert "7 5 it is the model's output" in text
    assert "Staircase of group 3" in text
    assert "median error 2.0%" in text
    assert "A search takes about 1 min 10 s" in text


def test_names_are_data_not_markup(tmp_path: Path) -> None:
    page = page_of(replace(tiny_facts(name='<script>"[red]"'), search_time=None), tmp_path)
    assert "script" not in page.tags
    assert '<script>"[red]"' in page.text
    console = Console(width=160)
    with console.capture() as capture:
        print_inspection(tiny_facts(name="[red]x.py[/red]:net"), console)
    assert "[red]x.py[/red]:net" in capture.get()


def test_the_diagram_has_a_column_for_each_group() -> None:
    first, second = diagram_columns(tiny_facts())
    assert (first.group, first.outputs, first.inputs, first.first, first.last) == ("0", (0,), (1,), 0, 1)
    assert (second.group, second.outputs, second.inputs, second.first, second.last) == ("3", (1,), (2,), 1, 2)

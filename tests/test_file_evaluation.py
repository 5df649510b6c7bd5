"""Exported files on labelled images: the comparison worked out by hand, and files that do not fit."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.bench.measurement import BenchSettings, prepare
from autoprune.compute.memory import free_bytes
from autoprune.data import DataInfo, ImageSplit
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.jobs.evaluate import check_files, evaluate_files
from autoprune.measure.matched import accuracy_interval, change_of_accuracy
from autoprune.measure.stats import DRIFT, mean_ratio

INFO = DataInfo("squares", ("dark", "bright"), 1, 4, 4, mean=(0.5,), std=(0.5,))


class Brightness(nn.Module):
    """Answers "bright" above a threshold of the mean pixel; wrong about all images if `turned`."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.sign = -1.0 if turned else 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))[:, None] * self.sign
        return torch.cat([-mean, mean], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    export_onnx(Brightness(), folder / "right.onnx", INFO)
    export_onnx(Brightness(turned=True), folder / "wrong.onnx", INFO)
    return folder


def squares(count: int) -> ImageSplit:
    labels = torch.arange(count) % 2
    return ImageSplit((labels * 255).to(torch.uint8)[:, None, None, None].expand(count, 1, 4, 4).contiguous(), labels)


def test_the_interval_of_an_accuracy_by_hand() -> None:
    """Wilson's of 90 right of 100 is 82.6% to 94.5%; of all right it ends at one, and has a width."""
    right = np.arange(100) < 90
    assert accuracy_interval(right) == (pytest.approx(0.82563, abs=1e-4), pytest.approx(0.94477, abs=1e-4))
    assert accuracy_interval(np.ones(100, dtype=bool)) == (pytest.approx(0.96300, abs=1e-4), 1.0)


def test_change_of_accuracy_by_hand() -> None:
    """Of 8 images three are gained and one is lost: 2 / 8; in the middle 2 / 10, spread sqrt(5 - 4 / 10) / 10."""
    before = np.array([True, False, False, False, True, True, True, False])
    after = np.array([False, True, True, True, True, True, True, False])
    change, (low, high) = change_of_accuracy(before, after)
    half = 1.959964 * math.sqrt(4.6) / 10
    assert change == 0.25
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half))


def test_files_that_answer_alike_still_have_an_interval() -> None:
    right = np.ones(98, dtype=bool)
    assert change_of_accuracy(right, right) == (0.0, (pytest.approx(-0.01959964), pytest.approx(0.01959964)))


@given(
    pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60),
)
def test_turning_the_files_round_turns_the_change_round(pairs: list[tuple[bool, bool]]) -> None:
    before, after = np.array(pairs).T
    change, (low, high) = change_of_accuracy(before, after)
    assert low < high
    assert change_of_accuracy(after, before) == (-change, (pytest.approx(-high), pytest.approx(-low)))


def test_mean_ratio_by_hand() -> None:
    """Blocks of one with ratios 0.5 and 2: mean 3 / 3, Student's t of one degree, logarithms ln 2 apart by two, of this
    measurement and of another."""
    found = mean_ratio(np.array([2.0, 1.0]), np.array([1.0, 2.0]))
    half = math.hypot(63.657 * math.sqrt(2) * math.log(2), 0.01)
    assert (found.ratio, found.blocks) == (1.0, 2)
    assert found.ci95 == pytest.approx((math.exp(-half), math.exp(half)))


def test_the_mean_has_the_slow_images_in_it() -> None:
    reference, candidate = np.ones(1000), np.full(1000, 0.2)
    candidate[::10] = 1.2  # a tenth, as many in each block
    found = mean_ratio(reference, candidate)
    assert found.ratio == pytest.approx(0.3)
    assert found.ci95 == pytest.approx((0.3 * math.exp(-DRIFT), 0.3 * math.exp(DRIFT)))


@pytest.mark.parametrize("times", [(np.ones(3), np.ones(4)), (np.ones(1), np.ones(1))])
def test_a_ratio_needs_pairs(times: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="two at least"):
        mean_ratio(*times)


def test_what_files_answer(folder: Path) -> None:
    files = [str(folder / "right.onnx"), str(folder / "wrong.onnx"), str(folder / "right.onnx")]
    found = evaluate_files(check_files(files, INFO), squares(20), INFO, split="test", threads=1)
    assert [file.accuracy for file in found.files] == [1.0, 0.0, 1.0]
    assert [file.name for file in found.files] == ["right.onnx", "wrong.onnx", "right.onnx (2)"]
    assert [file.accuracy_change for file in found.files] == [None, -1.0, 0.0]
    assert [file.level_share for file in found.files] == [None] * 3
    assert found.files[0].latency_ratio is None
    for file in found.files[1:]:
        assert file.latency_ratio == file.latency_ms_mean / found.files[0].latency_ms_mean
        assert file.latency_ms_p50 <= file.latency_ms_p95 <= file.latency_ms_max
    assert found.as_json()["device"]["threads"] == 1
    assert (found.data, found.split, found.images) == ("squares", "test", 20)


def test_one_image_is_not_enough(folder: Path) -> None:
    with pytest.raises(InputError, match=r"its search split has 1 images; two at least"):
        evaluate_files(check_files([str(folder / "right.onnx")], INFO), squares(1), INFO, split="search", threads=1)


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    other = DataInfo("other", ("a", "b", "c"), 1, 4, 4, mean=(0.5,), std=(0.5,))
    larger = DataInfo("larger", ("a", "b"), 1, 8, 8, mean=(0.5,), std=(0.5,))
    brighter = DataInfo("brighter", ("a", "b"), 1, 4, 4, mean=(0.6,), std=(0.5,))
    right = folder / "right.onnx"
    foreign = onnx.load(right)
    foreign.graph.input[0].name = foreign.graph.node[0].input[0] = "x"
    foreign.graph.node[0].input[0] = "x"
    onnx.save(foreign, tmp_path / "foreign.onnx")
    levels = onnx.load(right)
    onnx.helper.set_model_props(levels, {"levels": "many"})
    onnx.save(levels, tmp_path / "levels.onnx")
    (tmp_path / "broken.onnx").write_bytes(right.read_bytes()[:50])
    for file, info, message in (
        (tmp_path / "none.onnx", INFO, "no such file"),
        (tmp_path / "broken.onnx", INFO, "ONNX Runtime cannot load it"),
        (tmp_path / "foreign.onnx", INFO, "takes x and gives logits; must take images and give logits"),
        (right, other, r"gives \(2,\) logits of an image, other has 3 classes"),
        (tmp_path / "levels.onnx", INFO, "its metadata say it has many levels"),
        (right, larger, r"takes images of \(1, 4, 4\), larger has \(1, 8, 8\)"),
        (right, brighter, r"was exported for pixels of autoprune.mean 0.5, brighter has \(0.6,\)"),
    ):
        with pytest.raises(InputError, match=rf"{file.name}: .*{message}"):
            check_files([str(file)], info)


def node(kind: str, *inputs: str, to: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, [to], **attributes)


def constant(value: Any, to: str, dtype: Any) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.array(value, dtype=dtype))
    return onnx.helper.make_node("Constant", [], [to], value=tensor)


def write_file(
    path: Path, nodes: list[onnx.NodeProto], *outputs: onnx.ValueInfoProto, levels: str | None = None
) -> str:
    """A file that makes `sum`, (batch, 1), of images, and whatever `nodes` make of it."""
    value = onnx.helper.make_tensor_value_info
    first = [constant([1, 2, 3], "axes", np.int64), node("ReduceSum", "images", "axes", to="flat", keepdims=0)]
    first += [constant([-1, 1], "column", np.int64), node("Reshape", "flat", "column", to="sum")]
    images = value("images", onnx.TensorProto.FLOAT, ["batch", *INFO.input_shape])
    logits = value("logits", onnx.TensorProto.FLOAT, ["batch", 2])
    graph = onnx.helper.make_graph([*first, *nodes], "made", [images], [logits, *outputs])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if levels is not None:
        onnx.helper.set_model_props(model, {"levels": levels})
    onnx.save(model, path)
    return str(path)


TWO = node("Concat", "sum", "sum", to="logits", axis=1)
NOT_A_NUMBER = [node("Div", "sum", "sum", to="lost"), node("Concat", "sum", "lost", to="logits", axis=1)]


def huge(dims: list[int]) -> list[onnx.NodeProto]:
    """Allocates so much when it runs: the size depends on the image, so that nothing is folded before."""
    return [
        _cast_sum(),
        constant([dims], "dims", np.int64),
        node("Add", "zero", "dims", to="rows"),
        constant([-1], "flat_shape", np.int64),
        node("Reshape", "rows", "flat_shape", to="shape"),
        node("ConstantOfShape", "shape", to="huge"),
        node("ReduceSum", "huge", to="total", keepdims=0),
        node("Add", "sum", "total", to="both"),
        node("Concat", "both", "both", to="logits", axis=1),
    ]


def _cast_sum() -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", ["sum"], ["zero"], to=onnx.TensorProto.INT64)


@pytest.mark.parametrize("dims", [[2**20, 2**20], [2**40, 2**20], [2**18, 2**17]], ids=["4 TB", "too many", "128 GiB"])
def test_a_file_that_allocates_terabytes_is_refused(tmp_path: Path, dims: list[int]) -> None:
    if math.prod(dims) * 4 < (free_bytes() or math.inf):
        pytest.skip("this machine has as much memory")
    file = write_file(tmp_path / "huge.onnx", huge(dims))
    with pytest.raises(InputError, match=r"huge\.onnx: does not run on an image of \(1, 4, 4\) \("):
        check_files([file], INFO)
    with pytest.raises(InputError, match=r"huge\.onnx: does not run on inputs of shape 1,1,4,4 \("):
        prepare([file], BenchSettings())


def test_a_file_that_answers_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nan\.onnx: answers NaN or infinity to a black image"):
        check_files([write_file(tmp_path / "nan.onnx", NOT_A_NUMBER)], INFO)


def test_what_goes_wrong_on_real_images_names_the_file(folder: Path, tmp_path: Path) -> None:
    """A square root is NaN for dark images alone, whose pixels are below 0; a shape that does not fit fails there."""
    right = str(folder / "right.onnx")
    nan = [node("Sqrt", "sum", to="root"), node("Concat", "sum", "root", to="logits", axis=1)]
    files = check_files([right, write_file(tmp_path / "later.onnx", nan)], INFO)
    with pytest.raises(InputError, match=r"later\.onnx: answers NaN or infinity to image \d+; export it again"):
        evaluate_files(files, squares(20), INFO, split="test", threads=1)
    fails = [
        _cast_sum(),
        constant([2], "two", np.int64),
        node("Mul", "zero", "two", to="doubled"),
        node("Add", "doubled", "two", to="columns"),
        constant([1], "one_dimension", np.int64),
        node("Reshape", "columns", "one_dimension", to="width"),
        node("Expand", "sum", "width", to="wide"),
        node("Concat", "wide", to="logits", axis=1),
    ]
    files = check_files([right, write_file(tmp_path / "fails.onnx", fails)], INFO)
    with pytest.raises(InputError, match=r"fails\.onnx: does not run on the images of squares \("):
        evaluate_files(files, squares(20), INFO, split="test", threads=1)


LEVEL = onnx.helper.make_tensor_value_info("level", onnx.TensorProto.INT64, ["batch"])


@pytest.mark.parametrize("levels", ["0", "-1", "1.5", "٣", "101", "1" * 5000, ""])
def test_levels_that_cannot_be_are_refused(tmp_path: Path, levels: str) -> None:
    file = write_file(tmp_path / "levels.onnx", [TWO, constant([0], "level", np.int64)], LEVEL, levels=levels)
    with pytest.raises(InputError, match=r"levels\.onnx: its metadata say it has .* levels, and it gives logits, l"):
        check_files([file], INFO)


@pytest.mark.parametrize("level", [-1, 2, 2**40])
def test_a_level_that_there_is_not_is_refused(tmp_path: Path, level: int) -> None:
    file = write_file(tmp_path / "levels.onnx", [TWO, constant([level], "level", np.int64)], LEVEL, levels="2")
    with pytest.raises(InputError, match=r"levels\.onnx: its metadata say it has 2 levels, and one that answered"):
        check_files([file], INFO)


def test_levels_without_their_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"levels\.onnx: its metadata say it has 2 levels, and it gives logits;"):
        check_files([write_file(tmp_path / "levels.onnx", [TWO], levels="2")], INFO)


@pytest.mark.parametrize("threads", [0, 10**6])
def test_threads_are_those_of_this_machine(folder: Path, threads: int) -> None:
    files = check_files([str(folder / "right.onnx")], INFO)
    with pytest.raises(InputError, match=r"measure\.threads: must be a whole number from 1 to "):
        evaluate_files(files, squares(4), INFO, split="test", threads=threads)

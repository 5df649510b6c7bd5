"""Exported files on labelled images: the comparison worked out by hand, and files that do not fit."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.bench.stats import RESOLUTION, mean_ratio
from autoprune.data import DataInfo, ImageSplit
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.file_evaluation import change_of_accuracy, check_files, evaluate_files

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
    """Blocks of one with ratios 0.5 and 2: mean 3 / 3, Student's t of one degree, logarithms ln 2 apart by two."""
    found = mean_ratio(np.array([2.0, 1.0]), np.array([1.0, 2.0]))
    half = 63.657 * math.sqrt(2) * math.log(2) / math.sqrt(2)
    assert (found.ratio, found.rounds, found.blocks) == (1.0, 2, 2)
    assert found.ci95 == pytest.approx((math.exp(-half), math.exp(half)))


def test_the_mean_has_the_slow_images_in_it() -> None:
    reference, candidate = np.ones(1000), np.full(1000, 0.2)
    candidate[::10] = 1.2  # a tenth, as many in each block
    found = mean_ratio(reference, candidate)
    assert found.ratio == pytest.approx(0.3)
    assert found.ci95 == pytest.approx((0.3 * math.exp(-RESOLUTION), 0.3 * math.exp(RESOLUTION)))
    assert found.differs


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

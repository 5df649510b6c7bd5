"""A model is asked before any work whether it can be followed and whether its file answers as it does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from judging_for_tests import accuracy
from small_job import CLASSES, SIZE, bars
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from autoprune.compute.kernels.memory_format import is_channels_first, keep_channels_first, laid_out
from autoprune.config import MeasureConfig, RunConfig
from autoprune.data import DataInfo, ImageSplit, SearchData
from autoprune.errors import InputError, ModelError, RunError
from autoprune.export.onnx_file import check_parity, export_onnx, parity_max_abs
from autoprune.foundation import progress
from autoprune.models import save_weights
from autoprune.steps.gate import check_answers, check_runtime, made_plain, runs_channels_last, tell_accuracy

INFO = DataInfo("bars", CLASSES, 1, SIZE, SIZE, (0.4,), (0.2,))


@pytest.fixture(scope="module")
def data() -> SearchData:
    images, labels, _ = bars("train")
    split = ImageSplit(torch.from_numpy(images), torch.from_numpy(np.asarray(labels)).long())
    return SearchData(INFO, split.select(torch.arange(400)), split.select(torch.arange(400, 600)))


class Small(nn.Module):
    """A convolution, a head, and something in between."""

    def __init__(self, between: str = "") -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1, stride=4)
        self.head, self.between = nn.Linear(6 * 16, 3), between

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.between == "values" and x.mean() > 0.3:
            x = -x
        if self.between == "tracing" and torch.jit.is_tracing():
            x = x + 1
        x = torch.relu(self.second(x))
        if self.between == "length":
            return self.head(x.reshape(len(x), -1))  # type: ignore[no-any-return]
        if self.between == "view":
            return self.head(x.view(-1, 96))  # type: ignore[no-any-return]
        if self.between == "eigenvalues":
            x = x + torch.linalg.eigvals(x[..., :2, :2]).real.mean()
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "message"),
    [
        ("values", "control flow of the model depends on the values of its inputs"),
        ("tracing", "its exported file does not answer as it does on 1 images"),
        ("length", "its exported file does not answer as it does on 1 images"),
        ("eigenvalues", "the model cannot be exported to ONNX"),
    ],
)
def test_a_model_whose_file_would_answer_otherwise_is_refused(
    between: str, message: str, data: SearchData, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_answers(Small(between).eval(), data, "mine")
    assert len(str(caught.value)) < 900
    assert "graph(" not in capfd.readouterr().out  # which the exporter likes to print


@pytest.mark.parametrize("between", ["", "view"])
def test_a_model_whose_file_answers_as_it_does_passes(between: str, data: SearchData) -> None:
    model = Small(between).eval()
    check_answers(model, data, "mine")
    assert is_channels_first(model) == (between == "view")


def test_a_view_needs_its_channels_first_and_gets_them_in_every_copy() -> None:
    model = Small("view").eval()
    images = torch.randn(4, 1, SIZE, SIZE)
    last = images.contiguous(memory_format=torch.channels_last)
    last = last.as_strided(last.shape, (SIZE * SIZE, 1, SIZE, 1))  # as what is loaded by rows of pixels lies
    assert not runs_channels_last(model, images)
    assert runs_channels_last(Small().eval(), images)
    expected = model(images)
    keep_channels_first(model)
    keep_channels_first(model)
    assert len(model._forward_pre_hooks) == 1
    torch.testing.assert_close(laid_out(model)(last), expected)
    assert laid_out(Small()).second.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr,operator]


def test_a_file_of_other_weights_has_no_parity(tmp_path: Path) -> None:
    model, other = Small().eval(), Small().eval()
    file = tmp_path / "model.onnx"
    export_onnx(model, file, INFO)
    images = torch.randn(5, 1, SIZE, SIZE)
    assert check_parity(model, file, images) == parity_max_abs(model, file, images) < 1e-4
    with pytest.raises(RunError, match="answers otherwise than the module that it was made of, by up to"):
        check_parity(other, file, images)


def test_weights_made_of_others_are_baked_in_and_frozen_ones_thawed(capsys: pytest.CaptureFixture[str]) -> None:
    model = Small()
    parametrizations.weight_norm(model.first)
    prune.l1_unstructured(model.second, "weight", amount=0.5)
    model.head.requires_grad_(False)
    images = torch.randn(2, 1, SIZE, SIZE)
    expected = model(images)
    progress.show(True)
    try:
        made_plain(model)
    finally:
        progress.show(False)
    torch.testing.assert_close(model(images), expected)
    assert {name for name, _ in model.named_parameters()} == {
        f"{layer}.{field}" for layer in ("first", "second", "head") for field in ("weight", "bias")
    }
    assert all(parameter.requires_grad for parameter in model.parameters())
    said = capsys.readouterr().err
    assert "parametrised weights are baked in, as they act: first, second" in said
    assert "2 frozen parameters are thawed for fine-tuning: head.weight, head.bias" in said


class Judge(nn.Module):
    """As the brightness of the halves tells, each class `shift` further; without a shift always the same class."""

    def __init__(self, shift: int | None) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            return torch.zeros(len(x), 3)
        halves = x.mean((1, 3)).unflatten(1, (2, -1)).mean(2)  # (N, 2): upper, lower
        answers = torch.cat([halves, halves.mean(1, keepdim=True) + 0.05], 1) - 0.4 * halves.min(1).values[:, None]
        return answers.roll(self.shift, 1)


def test_an_original_that_does_as_guessing_does_is_told_and_one_of_other_classes_is_refused(
    data: SearchData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(tmp_path / "net.pth")
    torch.save({"state_dict": {}, "best_acc": 0.99}, weights)
    progress.show(True)
    try:
        tell_accuracy(Judge(None), data, weights)
        said = capsys.readouterr().err
        assert "of 200 images of the search split, no more than guessing is (33.5%)" in said
        assert "says 99.0%" not in said
        tell_accuracy(Judge(0), data, weights)
        assert "guessing" not in capsys.readouterr().err
        with pytest.raises(
            ModelError, match=r"^model\.checkpoint=\S+net\.pth: is right on \d\.\d% of 200 images .*order"
        ):
            tell_accuracy(Judge(1), data, weights)
    finally:
        progress.show(False)


class NeverTheFirst(Judge):
    """Right of all classes but the first, which it never answers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 9.0 * torch.eye(3)[0]


def test_a_split_that_is_sorted_by_class_is_judged_all_over(data: SearchData) -> None:
    """As folders of pictures are: the first images alone would all be of the class that this model never answers."""
    order = data.search.labels.argsort().repeat_interleave(16)
    assert len(data.search.labels[order[:1000]].unique()) == 1
    tell_accuracy(
        NeverTheFirst(0), SearchData(data.info, data.train, data.search.select(order)), "resnet20-fashion-mnist"
    )


def test_guessing_is_to_answer_the_commonest_class(data: SearchData, capsys: pytest.CaptureFixture[str]) -> None:
    first = torch.arange(200)[data.search.labels == 0]
    at = torch.cat([first, torch.arange(200)[data.search.labels == 1][:7]])  # 66 and 7
    few = SearchData(data.info, data.train, data.search.select(at))
    progress.show(True)
    try:
        tell_accuracy(Judge(None), few, "resnet20-fashion-mnist")
        assert "no more than guessing is (90.4%)" in capsys.readouterr().err
    finally:
        progress.show(False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1e30, 3e38])
def test_answers_that_overflow_are_refused_before_any_work(data: SearchData, factor: float) -> None:
    model = Small().eval()
    with torch.no_grad():
        model.head.weight.mul_(factor)
    with pytest.raises(ModelError, match=r"^mine: the model's answers are not finite on the data's images"):
        check_answers(model, data, "mine")


def test_an_original_that_does_worse_than_its_checkpoint_says_is_told(
    data: SearchData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Judge(0).eval()
    weights = tmp_path / "net.pth"
    labels = torch.cat([data.search.labels[:60].roll(1), data.search.labels[60:]])  # a third of them are wrong
    data = SearchData(data.info, data.train, ImageSplit(data.search.images, labels))
    found = accuracy(model, data.search, INFO)
    progress.show(True)
    try:
        for noted, is_told in (({"best_acc": 100 * found + 7}, True), ({"acc1": found}, False), ({"epoch": 90}, False)):
            torch.save({"state_dict": model.state_dict(), **noted}, weights)
            tell_accuracy(model, data, str(weights))
            assert ("on the search split it is" in capsys.readouterr().err) == is_told
        save_weights(model, tmp_path / "net.safetensors", {"search_accuracy": f"{found + 0.06:.4f}"})
        tell_accuracy(model, data, str(tmp_path / "net.safetensors"))
        assert "data.mean=[0.4] and data.std=[0.2]?" in capsys.readouterr().err
    finally:
        progress.show(False)


RUNTIMES = """
import numpy as np
from autoprune.runtimes.onnxruntime import LoadedSession, OnnxRuntime

class Changed(LoadedSession):
    def __call__(self, *arrays):
        return change(super().__call__(*arrays))

class Mine(OnnxRuntime):
    def open_model(self, model, *, threads):
        loaded = super().open_model(model, threads=threads)
        return Changed(loaded.session, loaded.inputs)
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("answers * np.nan", "answers otherwise than the module that it was made of, by up to nan"),
        ("answers + 0.1", r"answers otherwise than the module that it was made of, by up to 0\.1"),
        ("answers[::-1]", "answers otherwise than"),  # of a batch
        ("answers[:, :2]", "answers otherwise than"),
        ("1 / 0", r"does not run \(division by zero\)"),
        ("next(iter(()))", r"does not run \(StopIteration\)"),  # which says nothing
    ],
)
def test_a_runtime_that_answers_otherwise_is_named_before_any_work(
    change: str, message: str, data: SearchData, tmp_path: Path
) -> None:
    file, model = tmp_path / "mine.py", Judge(0).eval()
    config = RunConfig(measure=MeasureConfig(runtime=f"{file}:Mine"))
    file.write_text(f"{RUNTIMES}\ndef change(answers): return {change}\n")
    with pytest.raises(InputError, match=rf"measure\.runtime={file}:Mine: {message}"):
        check_runtime(model, data, config)
    file.write_text(f"{RUNTIMES}\ndef change(answers): return answers\n")
    check_runtime(model, data, config)

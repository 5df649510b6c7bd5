"""Splits are disjoint, stratified and repeatable; limits keep them so."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_job import bars, net

from autoprune.config import DataConfig, RunConfig
from autoprune.data import DataInfo, SearchData, load_search_data
from autoprune.data.splits import ImageSplit, check_varied, count_repeated, cut_search_split, stratified_indices
from autoprune.errors import DataError
from autoprune.foundation import progress
from autoprune.steps.subject import load_subject


def numbered(labels: list[int]) -> ImageSplit:
    """Images that hold their own number, so that they can be told apart after a cut."""
    images = torch.arange(len(labels) * 4, dtype=torch.int32).view(-1, 1).view(torch.uint8).reshape(-1, 4, 2, 2)
    return ImageSplit(images, torch.tensor(labels))


label_lists = st.lists(st.integers(0, 4), min_size=2, max_size=80)


@given(label_lists, st.data(), st.integers(0, 9))
def test_a_cut_is_disjoint_whole_and_stratified(labels: list[int], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    whole = numbered(labels)
    rest, search = cut_search_split(whole, count, seed=seed)
    assert (len(rest), len(search)) == (len(labels) - count, count)

    def keys(split: ImageSplit) -> set[tuple[bytes, int]]:
        return {(image.numpy().tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)}

    assert keys(rest) | keys(search) == keys(whole)
    assert not keys(rest) & keys(search)
    for label in set(labels):
        exact = labels.count(label) * count / len(labels)
        assert abs(int((search.labels == label).sum()) - exact) < 1


@given(label_lists, st.data(), st.integers(0, 9))
def test_the_same_seed_gives_the_same_cut(labels: list[int], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(labels)))
    first, second = (stratified_indices(torch.tensor(labels), count, seed=seed, purpose="x") for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, first.unique())  # sorted, none twice


def test_another_seed_or_purpose_gives_another_cut() -> None:
    labels = torch.arange(1000) % 10
    cuts = [
        stratified_indices(labels, 100, seed=seed, purpose=purpose).tolist()
        for seed, purpose in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert cuts[0] != cuts[1] != cuts[2] != cuts[0]
    assert [np.bincount(labels.numpy()[cut]).tolist() for cut in cuts] == [[10] * 10] * 3


def test_cuts_that_leave_nothing_are_refused() -> None:
    split = numbered([0, 1, 0, 1])
    for count in (4, 5000):
        with pytest.raises(DataError, match=f"data.search_images={count} leaves nothing of the 4 training images"):
            cut_search_split(split, count, seed=0)
    for count in (0, 5):
        with pytest.raises(DataError, match=f"cannot take {count} of 4 images"):
            stratified_indices(split.labels, count, seed=0, purpose="x")


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images must be"),
        (torch.zeros(2, 1, 3, 4), torch.zeros(2, dtype=torch.int64), "uint8, got (2, 1, 3, 4) torch.float32"),
        (torch.zeros(2, 1, 3, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "got (3,)"),
        (torch.zeros(2, 1, 3, 4, dtype=torch.uint8), torch.zeros(2), "got (2,) torch.float32"),
    ],
)
def test_splits_check_shapes_and_types(images: torch.Tensor, labels: torch.Tensor, part: str) -> None:
    with pytest.raises(DataError) as caught:
        ImageSplit(images, labels)
    assert part in str(caught.value)


def test_info_tells_what_a_model_needs() -> None:
    info = DataInfo("x", ("a", "b"), in_channels=3, height=4, width=5, mean=(0, 0, 0), std=(1, 1, 1))
    assert info.num_classes == 2
    assert info.input_shape == (3, 4, 5)


def split_of(*shape: int, labels: tuple[int, ...] = (0, 1)) -> ImageSplit:
    return ImageSplit(torch.zeros(len(labels), *shape, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (32, 24, 4), (4, 4, 3), (224, 224, 3)])
def test_channels_at_the_end_are_refused_with_a_hint(shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=r"looks like \(N, H, W, C\): give images\.transpose\(0, 3, 1, 2\)"):
        split_of(*shape)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 4), (3, 4, 4), (16, 16, 16), (3, 3, 3), (9, 1, 128), (64, 3, 3)])
def test_channels_in_front_pass(shape: tuple[int, int, int]) -> None:
    split_of(*shape)


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        ([[1]], torch.zeros(1, dtype=torch.int64), "images must be a dense torch.Tensor on the CPU, got list"),
        (np.zeros((1, 1, 2, 2), np.uint8), torch.zeros(1, dtype=torch.int64), "got ndarray"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0], "labels must be a dense torch.Tensor on the CPU, got list"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8, device="meta"), torch.zeros(1, dtype=torch.int64), "on meta"),
        (torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, dtype=torch.int64), "they hold NaN or infinity"),
        (torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64), "(images * 255).round()"),
    ],
)
def test_what_is_no_split_is_named(images: Any, labels: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        ImageSplit(images, labels)
    assert part in str(caught.value)


INFO = DataInfo("x", ("a", "b"), 1, 8, 8, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("train", "search", "part"),
    [
        (
            split_of(1, 8, 8),
            split_of(1, 8, 8, labels=()),
            "SearchData.search must hold images with labels in 0..1, got no",
        ),
        (split_of(1, 8, 8), split_of(1, 9, 8), r"SearchData.search has images of (1, 9, 8), train of (1, 8, 8)"),
        (
            split_of(1, 8, 8, labels=(0, 2)),
            split_of(1, 8, 8),
            "SearchData.train must hold images with labels in 0..1, got 0..2",
        ),
        (split_of(1, 8, 8, labels=(0, -1)), split_of(1, 8, 8), "got -1..0"),
        (split_of(1, 8, 8), "search", "SearchData.search: must be an ImageSplit, got str"),
    ],
)
def test_splits_that_do_not_belong_together_are_named(train: ImageSplit, search: ImageSplit, part: str) -> None:
    with pytest.raises(DataError) as caught:
        SearchData(INFO, train, search)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"classes": ("a", "a")}, "DataInfo.classes: two classes are called 'a'"),
        ({"classes": ()}, "DataInfo.classes: must name at least one"),
        ({"classes": 3}, "DataInfo.classes: must be a list of names"),
        ({"in_channels": 0}, "DataInfo.in_channels: must be a whole number above 0, got 0"),
        ({"width": 2.5}, "DataInfo.width: must be a whole number above 0, got 2.5"),
        ({"mean": (0.5, 0.5)}, "DataInfo.mean: must be 1 finite number(s), one per channel, got"),
        ({"mean": (math.nan,)}, "DataInfo.mean: must be 1 finite"),
        ({"mean": None}, "DataInfo.mean: must be 1 finite"),
        ({"std": (0.0,)}, "DataInfo.std: must be 1 finite number(s), one per channel, above 0"),
        ({"std": (math.inf,)}, "DataInfo.std: must be 1 finite"),
    ],
)
def test_facts_that_cannot_be_are_named(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError) as caught:
        replace(INFO, **changes)
    assert part in str(caught.value)


def test_lists_become_tuples() -> None:
    info = DataInfo("x", ["a,b", "😀"], 1, 8, 8, mean=[0.5], std=[1])  # type: ignore[arg-type]
    assert (info.classes, info.mean, info.std) == (("a,b", "😀"), (0.5,), (1.0,))


@pytest.mark.parametrize(("lowest", "highest", "passes"), [(0, 0, False), (7, 9, False), (7, 10, True)])
def test_images_in_which_nothing_can_be_seen_are_refused(lowest: int, highest: int, passes: bool) -> None:
    images = torch.full((4, 3, 2, 2), lowest, dtype=torch.uint8)
    images[1, 2, 0, 0] = highest
    split = ImageSplit(images, torch.tensor([0, 1, 0, 1]))
    if passes:
        check_varied(split, "here")
        return
    with pytest.raises(DataError, match=f"^here: all 4 images are one and the same plain {lowest}, {lowest}, "):
        check_varied(split, "here")


def test_images_that_are_known_already_are_counted() -> None:
    images = torch.arange(6 * 4, dtype=torch.uint8).reshape(6, 1, 2, 2)
    assert count_repeated(images[2:], [images[:3], images[5:]]) == 2
    assert count_repeated(images, []) == 0


def test_a_run_says_what_of_its_test_split_is_no_test(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels, names = bars("train")
    whole = ImageSplit(torch.as_tensor(images[:30]), torch.as_tensor(labels[:30]))
    info = DataInfo("bars", tuple(names), *whole.images.shape[1:], (0.5,), (0.5,))
    data = SearchData(info, whole.select(torch.arange(20)), whole.select(torch.arange(20, 30)))
    monkeypatch.setattr(progress, "_shown", True)
    load_subject(RunConfig(), model=net(3, 1).eval(), data=data, test=whole.select(torch.arange(15, 25)))
    assert "bars: 10 of 10 test images are training images too, pixel by pixel" in capsys.readouterr().err
    black = ImageSplit(torch.zeros_like(whole.images), whole.labels)
    with pytest.raises(DataError, match=r"^data\.name=bars: the test split: all 30 images are one"):
        load_subject(RunConfig(), model=net(3, 1).eval(), data=data, test=black)


def test_a_fifth_of_a_small_train_split_is_kept_for_the_search(tmp_path: Path) -> None:
    (tmp_path / "few.py").write_text(
        "import numpy as np\n"
        "def load(split):\n"
        "    labels = np.arange(200) % 4\n"
        "    return np.random.default_rng(0).integers(0, 255, (200, 1, 8, 8), dtype=np.uint8), labels, tuple('abcd')\n"
    )
    name = f"{tmp_path / 'few.py'}:load"
    data = load_search_data(DataConfig(name=name))
    assert (len(data.train), len(data.search)) == (160, 40)
    assert len(load_search_data(DataConfig(name=name, search_images=8)).search) == 8

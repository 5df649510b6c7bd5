"""Splits are disjoint, stratified and repeatable; limits keep them so."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.data import DataInfo
from autoprune.data.splits import ImageSplit, cut_search_split, stratified_indices
from autoprune.errors import DataError


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

"""Data from the user's own factory, and what it may get wrong."""

from pathlib import Path

import pytest
import torch

from autoprune.config import DataConfig
from autoprune.data import load_search_data, load_test_split
from autoprune.errors import DataError, InputError

GOOD = """
import numpy as np

def make(split):
    count = {"train": 40, "test": 10}[split]
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 3, 2, 2)
    images.flags.writeable = False
    return images, np.arange(count) % 2, ["even", "odd"]
"""


def written(tmp_path: Path, code: str) -> DataConfig:
    path = tmp_path / "mine.py"
    path.write_text(code)
    return DataConfig(name=f"{path}:make", search_images=10)


def test_a_factory_of_arrays(tmp_path: Path) -> None:
    config = written(tmp_path, GOOD)
    data = load_search_data(config)
    assert (data.info.classes, data.info.input_shape) == (("even", "odd"), (3, 2, 2))
    assert (len(data.train), len(data.search), len(load_test_split(config))) == (30, 10, 10)
    assert torch.bincount(data.search.labels).tolist() == [5, 5]
    assert load_test_split(config).labels.dtype == torch.int64


def test_a_factory_of_tensors(tmp_path: Path) -> None:
    code = "import torch\ndef make(split):\n    return torch.ones(9, 1, 2, 2, dtype=torch.uint8), [0, 1, 2] * 3, 'abc'"
    test = load_test_split(written(tmp_path, code))
    assert test.images.shape == (9, 1, 2, 2)
    assert test.labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return 5", "TypeError"),
        ("return [], []", "ValueError"),
        ("raise KeyError(split)", "KeyError: 'train'"),
        ("return np.zeros((4, 2, 2), np.uint8), [0, 1, 0, 1], 'ab'", "got (4, 2, 2)"),
        ("return np.zeros((4, 1, 2, 2)), [0, 1, 0, 1], 'ab'", "torch.float64"),
        ("return np.zeros((4, 1, 2, 2), np.uint8), [0, 1, 0], 'ab'", "labels must be (4,)"),
        ("return np.zeros((4, 1, 2, 2), np.uint8), [0, 0.5, 0, 1], 'ab'", "labels are float64"),
        ("return np.zeros((4, 1, 2, 2), np.uint8), [0, 1, 0, 2], 'ab'", "labels in 0..1"),
        ("return np.zeros((4, 1, 2, 2), np.uint8), [0, 1, 0, -1], 'ab'", "labels in 0..1"),
        ("return np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, int), 'ab'", "must hold images"),
        ("return np.zeros((4, 1, 2, 2), np.uint8), [0, 1, 0, 1], None", "TypeError"),
    ],
)
def test_faults_of_the_factory_are_told(tmp_path: Path, body: str, part: str) -> None:
    config = written(tmp_path, f"import numpy as np\ndef make(split):\n    {body}\n")
    with pytest.raises(DataError) as caught:
        load_search_data(config)
    assert str(caught.value).startswith(f"data.name={config.name}: ")
    assert part in str(caught.value)


def test_a_factory_without_an_argument_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the factory must take 'train' and return"):
        load_search_data(written(tmp_path, "def make(): ..."))


def test_a_factory_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match=r"data\.name=no/file\.py:make: .*no such file"):
        load_test_split(DataConfig(name="no/file.py:make"))


ORDERS = """
import numpy as np

def make(split):
    names = ["cat", "dog", "müll, 1"] if split == "train" else TEST_NAMES
    labels = np.arange(12) % 3
    # Each image holds the place of its class in train.
    images = np.array([PLACES[label] if split == "test" else label for label in labels], np.uint8)
    return np.broadcast_to(images[:, None, None, None], (12, 1, 6, 6)), labels, names
"""


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["dog", "müll, 1", "cat"], [1, 2, 0]),
        (["mu\u0308ll, 1", "dog", "cat"], [2, 1, 0]),  # u and a diaeresis, as a Mac writes it
    ],
)
def test_classes_in_another_order_are_mapped_by_name(tmp_path: Path, names: list[str], places: list[int]) -> None:
    config = written(tmp_path, ORDERS.replace("TEST_NAMES", repr(names)).replace("PLACES", repr(places)))
    data = load_search_data(config)
    assert data.info.classes == ("cat", "dog", "müll, 1")
    for test in (load_test_split(config), load_test_split(config, classes=data.info.classes)):
        assert (test.images[:, 0, 0, 0].long() == test.labels).all()
        assert torch.bincount(test.labels).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["cat", "dog", "fish"], "train alone has 'müll, 1'; train lacks 'fish'"),
        (["cat", "dog", "müll, 1", "fish"], "train lacks 'fish'"),
    ],
)
def test_other_classes_than_those_of_train_are_refused(tmp_path: Path, names: list[str], part: str) -> None:
    code = "import numpy as np\ndef make(split):\n    names = NAMES if split == 'test' else ['cat', 'dog', 'müll, 1']\n"
    code += "    return np.zeros((12, 1, 6, 6), np.uint8), [0, 1, 2] * 4, names\n"
    with pytest.raises(DataError, match=r"'test': its classes are not those of train \(") as caught:
        load_test_split(written(tmp_path, code.replace("NAMES", repr(names))))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (
            "return np.zeros((4, 16, 16, 3), np.uint8), [0, 1, 0, 1], 'ab'",
            "looks like (N, H, W, C): give images.transpose",
        ),
        ("return np.zeros((4, 28, 28, 1), np.uint8), [0, 1, 0, 1], 'ab'", "looks like (N, H, W, C)"),
        ("return np.zeros((4, 4, 4, 3), np.uint8), [0, 1, 0, 1], 'ab'", "looks like (N, H, W, C)"),
        ("return np.zeros((4, 9, 9), np.uint8), [0, 1, 0, 1], 'ab'", "images[:, None]"),
        ("return np.full((4, 1, 9, 9), np.nan), [0, 1, 0, 1], 'ab'", "they hold NaN or infinity"),
        ("return np.full((4, 1, 9, 9), 0.5), [0, 1, 0, 1], 'ab'", "(images * 255).round() as uint8"),
        ("return np.full((4, 1, 9, 9), -2.5), [0, 1, 0, 1], 'ab'", "pixels are bytes 0..255, before any normalisation"),
        ("return np.zeros((4, 1, 9, 9), int), [0, 1, 0, 1], 'ab'", "whole numbers 0..255 as uint8"),
        ("return np.zeros((4, 1, 9, 9), object), [0, 1, 0, 1], 'ab'", "images are an array of objects"),
        ("return [np.zeros((1, 9, n), np.uint8) for n in (8, 9)], [0, 1], 'ab'", "ValueError"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), ['a', 'b', 'a', 'b'], 'ab'", "labels are <U1"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), np.eye(4, dtype=int), 'abcd'", "got (4, 4)"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), [0, 1, 0, 1], {'b', 'a'}", "in the order of the labels, got a set"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), [0, 1, 0, 1], {'b': 1, 'a': 0}", "the labels, got a dict"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), [0, 1, 0, 1], ['a', 'a']", "two classes are called 'a'"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), [0, 1, 0, 1], ['a', '\\udcff']", "no text that a file can hold"),
        ("return np.zeros((4, 1, 9, 9), np.uint8), [0, 0, 0, 0], ['a']", "needs at least two"),
    ],
)
def test_arrays_that_are_no_images_get_a_hint(tmp_path: Path, body: str, part: str) -> None:
    config = written(tmp_path, f"import numpy as np\ndef make(split):\n    {body}\n")
    with pytest.raises(DataError) as caught:
        load_search_data(config)
    assert str(caught.value).startswith(f"data.name={config.name}: ")
    assert part in str(caught.value)


def test_given_statistics_take_the_place_of_computed_ones(tmp_path: Path) -> None:
    config = written(tmp_path, GOOD)
    given = config.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    info = load_search_data(given).info
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert load_search_data(config).info.mean != info.mean
    with pytest.raises(DataError, match=r"data\.mean, data\.std: 1 number\(s\) in each, but the images have 3 channel"):
        load_search_data(config.model_copy(update={"mean": (0.5,), "std": (0.5,)}))

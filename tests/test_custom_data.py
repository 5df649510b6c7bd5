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

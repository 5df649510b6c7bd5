"""Folders of real PNG and JPEG files, grey and RGB, whole and broken."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autoprune.config import DataConfig
from autoprune.data import imagefolder, load_search_data, load_test_split, pictures
from autoprune.errors import DataError, RunError
from autoprune.foundation import progress

RNG = np.random.default_rng(0)


def picture(path: Path, value: int | tuple[int, ...], size: tuple[int, int] = (8, 6), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def grey_folder(root: Path, per_class: int = 6) -> Path:
    """Two classes: "dark" has pixels 10, 11, …, "light" 200, 201, …; pictures 8 wide and 6 high."""
    for split in ("train", "test"):
        for name, base in (("dark", 10), ("light", 200)):
            for index in range(per_class):
                picture(root / split / name / f"{index}.png", base + index)
    return root


def config(root: Path, **changes: int) -> DataConfig:
    return DataConfig.model_validate({"name": f"imagefolder:{root}", "search_images": 4, **changes})


def test_grey_pictures(tmp_path: Path) -> None:
    data = load_search_data(config(grey_folder(tmp_path)))
    assert data.info.classes == ("dark", "light")
    assert data.info.input_shape == (1, 6, 8)
    assert (len(data.train), len(data.search)) == (8, 4)
    assert torch.bincount(data.search.labels).tolist() == [2, 2]
    for split in (data.train, data.search):
        assert ((split.images[:, 0, 0, 0] >= 200) == (split.labels == 1)).all()
    test = load_test_split(config(tmp_path))
    assert test.images[:, 0, 0, 0].tolist() == [*range(10, 16), *range(200, 206)]
    assert test.labels.tolist() == [0] * 6 + [1] * 6


def test_statistics_by_hand(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 255)):
        picture(tmp_path / "train" / name / "x.png", value)
        picture(tmp_path / "train" / name / "y.png", value)
    info = load_search_data(config(tmp_path, search_images=1)).info
    assert info.mean == pytest.approx((0.5,))
    assert info.std == pytest.approx((0.5,))


def test_rgb_pictures_keep_their_channels_in_order(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "a" / "0.png", (1, 2, 3), mode="RGB")
        picture(tmp_path / split / "b" / "0.png", (4, 5, 6, 255), mode="RGBA")
    loaded = imagefolder.load(tmp_path, "train", image_size=None)
    assert loaded.images.shape == (2, 3, 6, 8)
    assert loaded.images[:, :, 0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_one_coloured_picture_makes_all_splits_rgb(tmp_path: Path) -> None:
    """A grey first picture must not take the colours from the others, nor the test split another shape."""
    grey_folder(tmp_path)
    picture(tmp_path / "train" / "light" / "z.png", (9, 8, 7), mode="RGB")
    assert imagefolder.load(tmp_path, "train", image_size=None).images[-1, :, 0, 0].tolist() == [9, 8, 7]
    test = load_test_split(config(tmp_path))
    assert test.images.shape == (12, 3, 6, 8)
    assert test.images[0, :, 0, 0].tolist() == [10, 10, 10]


def test_coloured_test_pictures_of_a_grey_problem_become_grey(tmp_path: Path) -> None:
    grey_folder(tmp_path)
    picture(tmp_path / "test" / "dark" / "0.png", (50, 50, 50), mode="RGB")
    test = load_test_split(config(tmp_path))
    assert test.images.shape == (12, 1, 6, 8)
    assert test.images[0, 0, 0, 0] == 50


def test_jpeg_and_sixteen_bit_and_palette_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    picture(folder / "0.jpg", 100)
    picture(folder / "1.JPEG", 101)
    Image.fromarray(np.full((6, 8), 102 * 256 + 77, dtype=np.uint16)).save(folder / "2.png")
    picture(folder / "3.png", (103, 255), mode="LA")
    picture(folder / "4.pgm", 104)
    picture(folder / "5.png", 1, mode="1")
    (folder / "notes.txt").write_text("no picture")
    picture(tmp_path / "train" / "b" / "0.bmp", 0)
    loaded = imagefolder.load(tmp_path, "train", image_size=None)
    assert loaded.images[:, 0, 3, 4].tolist() == [100, 101, 102, 103, 104, 255, 0]


def test_mixed_sizes_need_image_size(tmp_path: Path) -> None:
    grey_folder(tmp_path)
    odd = picture(tmp_path / "train" / "light" / "odd.png", 7, size=(20, 10))
    with pytest.raises(DataError, match=r"odd\.png: 20x10 pixels, but 0\.png has 8x6; set data\.image_size"):
        load_search_data(config(tmp_path))
    stripes = np.zeros((10, 20), dtype=np.uint8)
    stripes[:, 5:15] = 90  # the centre square
    Image.fromarray(stripes).save(odd)
    loaded = imagefolder.load(tmp_path, "train", image_size=10)
    assert loaded.images.shape == (13, 1, 10, 10)
    assert (loaded.images[-1] == 90).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24))
def test_scaling_gives_the_size_asked_for(width: int, height: int, image_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = picture(Path(folder) / "x.png", 77, size=(width, height))
        array = pictures.decode(path, image_size=image_size, mode="L").pixels
    assert array.shape == (image_size, image_size)
    assert (array == 77).all()


def test_a_search_split_that_is_there_is_taken(tmp_path: Path) -> None:
    grey_folder(tmp_path)
    for name, value in (("dark", 20), ("light", 220)):
        picture(tmp_path / "search" / name / "0.png", value)
    data = load_search_data(config(tmp_path))
    assert data.search.images[:, 0, 0, 0].tolist() == [20, 220]
    assert len(data.train) == 12


def test_a_search_split_of_another_size_is_refused(tmp_path: Path) -> None:
    grey_folder(tmp_path)
    for name in ("dark", "light"):
        picture(tmp_path / "search" / name / "0.png", 1, size=(9, 9))
    with pytest.raises(DataError, match=r"search has images of \(1, 9, 9\), train of \(1, 6, 8\)"):
        load_search_data(config(tmp_path))


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    grey_folder(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "dark" / "._0.png").write_bytes(b"resource fork")
    assert load_search_data(config(tmp_path)).info.classes == ("dark", "light")


def test_limits_are_stratified(tmp_path: Path) -> None:
    data = load_search_data(config(grey_folder(tmp_path), max_train_images=4))
    assert torch.bincount(data.train.labels).tolist() == [2, 2]
    assert torch.bincount(load_test_split(config(tmp_path, max_test_images=6)).labels).tolist() == [3, 3]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train: no such folder; an image folder holds train/CLASS"):
        load_search_data(config(tmp_path))
    picture(tmp_path / "train" / "only" / "0.png", 1)
    with pytest.raises(DataError, match=r"train: 1 class folder\(s\); a classifier needs at least two"):
        load_search_data(config(tmp_path))
    (tmp_path / "train" / "second").mkdir()
    with pytest.raises(DataError, match=r"train/second: no pictures"):
        load_search_data(config(tmp_path))
    picture(tmp_path / "train" / "second" / "0.png", 1)
    with pytest.raises(DataError, match=r"data\.search_images=4 leaves nothing of the 2 training images"):
        load_search_data(config(tmp_path))
    with pytest.raises(DataError, match=r"test: no such folder"):
        load_test_split(config(tmp_path))
    picture(tmp_path / "test" / "only" / "0.png", 1)
    with pytest.raises(DataError, match=r"test/second: no pictures"):
        load_test_split(config(tmp_path))
    picture(tmp_path / "test" / "third" / "0.png", 1)
    with pytest.raises(DataError, match=r"test: third is no class of .*train"):
        load_test_split(config(tmp_path))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_broken_pictures_are_named_whatever_is_broken(tmp_path: Path, suffix: str) -> None:
    """Each prefix and each of 60 bit flips of a real file either reads as a picture or gives a `DataError`."""
    grey_folder(tmp_path)
    path = tmp_path / "train" / "dark" / f"0.{suffix}"
    Image.fromarray(RNG.integers(0, 255, (6, 8), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    for place in RNG.integers(0, len(whole), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            pictures.decode(path, image_size=None, mode="L")
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused >= 30
    path.write_bytes(whole[:40])
    with pytest.raises(DataError, match=rf"0\.{suffix}: not a readable picture"):
        load_search_data(config(tmp_path))


@pytest.mark.parametrize("name", ["cifar1000", "fashion_mnist", ""])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    for load in (load_search_data, load_test_split):
        with pytest.raises(DataError, match=r"unknown; use fashion-mnist, imagefolder:DIR or path/file\.py:factory"):
            load(DataConfig(name=name))


def test_image_size_is_refused_where_nothing_is_scaled() -> None:
    with pytest.raises(DataError, match=r"data\.image_size=32: only imagefolder:DIR scales"):
        load_search_data(DataConfig(image_size=32))


def mixed_folder(root: Path) -> Path:
    """Grey ones first, then coloured, transparent, deep and turned ones."""
    grey_folder(root, per_class=40)
    for index in range(30):
        picture(root / "train" / "light" / f"c{index}.png", (index, 8, 7), mode="RGB")
        picture(root / "train" / "light" / f"d{index}.png", (index, 8, 7, 9 * index % 256), mode="RGBA")
        Image.fromarray(RNG.integers(0, 60_000, (6, 8), dtype=np.uint16)).save(
            root / "train" / "dark" / f"e{index}.png"
        )
    turned = Image.Exif()
    turned[pictures.ORIENTATION_TAG] = 3
    Image.new("RGB", (8, 6), (9, 9, 1)).save(root / "train" / "dark" / "z.jpg", exif=turned)
    return root


def test_forked_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    root = mixed_folder(tmp_path)
    monkeypatch.setattr(progress, "_shown", True)
    found, said = {}, {}
    for workers in (1, 2):
        monkeypatch.setattr(imagefolder, "usual_workers", lambda workers=workers: workers)
        splits = [imagefolder.load(root, split, image_size=None) for split in ("train", "test")]
        found[workers] = [split.images for split in splits]
        said[workers] = capsys.readouterr().err
    assert all(torch.equal(one, other) for one, other in zip(found[1], found[2], strict=True))
    assert said[1] == said[2] != ""
    assert len(found[1][0]) == 2 * 40 + 3 * 30 + 1


@pytest.mark.parametrize("workers", [1, 2])
def test_forked_processes_name_the_same_picture(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mixed_folder(tmp_path)
    monkeypatch.setattr(imagefolder, "usual_workers", lambda: workers)
    whole = picture(root / "train" / "dark" / "x.png", 5, size=(80, 60)).read_bytes()
    with pytest.raises(DataError, match=r"dark/x\.png: 80x60 pixels, but 0\.png has 8x6"):
        imagefolder.load(root, "train", image_size=None)
    (root / "train" / "dark" / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"dark/x\.png: not a readable picture"):
        imagefolder.load(root, "train", image_size=8)
    (root / "train" / "light" / "10.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"light/10\.png: not a readable picture"):
        imagefolder.load(root, "train", image_size=8)


def test_a_process_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, here = mixed_folder(tmp_path), os.getpid()
    monkeypatch.setattr(imagefolder, "usual_workers", lambda: 2)
    looked = imagefolder.read
    monkeypatch.setattr(
        imagefolder, "read", lambda *args, **keys: looked(*args, **keys) if os.getpid() == here else os._exit(1)
    )
    with pytest.raises(RunError, match=r"a process that reads pictures was killed.*OMP_NUM_THREADS=1"):
        imagefolder.load(root, "train", image_size=None)

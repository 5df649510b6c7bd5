"""Data sets, held in memory. `load_search_data` is all that searches see; `load_test_split` is for the last step."""

from dataclasses import replace
from pathlib import Path

from autoprune.config import DataConfig
from autoprune.data import custom, fashion_mnist, imagefolder
from autoprune.data.augment import normalise, views
from autoprune.data.picture_files import find_classes, is_folder
from autoprune.data.splits import (
    DataInfo,
    ImageSplit,
    SearchData,
    check_split,
    count_repeated,
    cut_search_split,
    stratified_indices,
)
from autoprune.errors import DataError, cut
from autoprune.foundation.files import named_path
from autoprune.foundation.progress import say

__all__ = [
    "DataInfo",
    "ImageSplit",
    "SearchData",
    "load_search_data",
    "load_test_split",
    "normalise",
    "tell_repeated",
    "views",
]

SEARCH_IMAGES = 5000  # cut from train where nothing else is said


def load_search_data(config: DataConfig) -> SearchData:
    """Train and search splits of `config.name`; `DataError` says what is missing or broken."""
    _check(config)
    search: ImageSplit | None = None
    if config.name == fashion_mnist.INFO.name:
        info, train = fashion_mnist.INFO, fashion_mnist.load("train")
    elif (folder := _folder(config)) is not None:
        train = imagefolder.load(folder, "train", image_size=config.image_size)
        info = imagefolder.describe(config.name, find_classes(folder), train)
        if is_folder(folder / "search"):
            search = imagefolder.load(folder, "search", image_size=config.image_size)
            check_split(search, info, f"{folder}: search")
            if config.search_images is not None:
                say(f"data.search_images: without effect here, because {folder} has a search split of its own")
    else:
        train, classes = custom.load(config.name, "train")
        info = imagefolder.describe(config.name, classes, train)
    info = _with_given_statistics(info, config)
    if search is None:
        count = config.search_images or max(1, min(SEARCH_IMAGES, len(train) // 5))
        train, search = cut_search_split(train, count, seed=config.split_seed)
    return SearchData(info, _limit(train, config.max_train_images, config.split_seed), search)


def load_test_split(config: DataConfig, *, classes: tuple[str, ...] | None = None) -> ImageSplit:
    """The untouched test split: read once, at the end of a run.

    `classes` are those of the train split, which labels count in; None: the data's own factory is asked for them.
    """
    _check(config)
    if config.name == fashion_mnist.INFO.name:
        test = fashion_mnist.load("test")
    elif (folder := _folder(config)) is not None:
        test = imagefolder.load(folder, "test", image_size=config.image_size)
    else:
        test = custom.load_as(config.name, "test", classes or custom.load(config.name, "train")[1])
    return _limit(test, config.max_test_images, config.split_seed)


def tell_repeated(data: SearchData, test: ImageSplit) -> None:
    """Say how many test images a model has seen in training, or a search in choosing: what they show is no accuracy."""
    repeated = count_repeated(test.images, (data.train.images, data.search.images))
    if repeated:
        say(
            f"{data.info.name}: {repeated:,} of {len(test):,} test images are training images too, pixel by pixel; the "
            f"accuracy on them is no test"
        )


def _check(config: DataConfig) -> None:
    if config.name != fashion_mnist.INFO.name and ":" not in config.name:
        raise DataError(
            f"data.name={cut(config.name)}: unknown; use fashion-mnist, imagefolder:DIR or path/file.py:factory"
        )
    if config.image_size is not None and _folder(config) is None:
        raise DataError(f"data.image_size={config.image_size}: only imagefolder:DIR scales its pictures")


def _folder(config: DataConfig) -> Path | None:
    kind, separator, folder = config.name.partition(":")
    return named_path(folder) if separator and kind == "imagefolder" else None


def _with_given_statistics(info: DataInfo, config: DataConfig) -> DataInfo:
    if config.mean is None or config.std is None:
        return info
    if len(config.mean) != info.in_channels:
        raise DataError(
            f"data.mean, data.std: {len(config.mean)} number(s) in each, but the images have {info.in_channels} "
            f"channel(s); give one for each channel"
        )
    return replace(info, mean=config.mean, std=config.std)


def _limit(split: ImageSplit, count: int | None, seed: int) -> ImageSplit:
    if count is None or count >= len(split):
        return split
    return split.select(stratified_indices(split.labels, count, seed=seed, purpose="subset"))

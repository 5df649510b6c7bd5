"""How many images a configuration asks for, against those that there are: refused, or clipped and said."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.errors import DataError
from autoprune.machine import require_memory
from autoprune.progress import say
from autoprune.stages.subject import Subject


@dataclass(frozen=True)
class ActivationBytes:
    """Of one image: what all layers give together, kept for the backward pass, and the most at one layer."""

    total: int
    largest: int


def check_amounts(config: RunConfig, subject: Subject) -> None:
    """Raises `DataError` if a split lacks classes or the measured batch exceeds the test images, and `ConfigError` if a
    batch exceeds the memory that is free. What exceeds its split otherwise is clipped, and said."""
    train, search, test = len(subject.data.train), len(subject.data.search), len(subject.test)
    classes = subject.data.info.num_classes
    for field, images in (("data.search_images", search), ("data.max_train_images", train)):
        if images < classes:
            raise DataError(
                f"{field}: {images} images are fewer than the {classes} classes, so some would never be seen; raise it "
                "or give more data"
            )
    measured = config.measure.batch_size
    if measured > test:
        raise DataError(f"measure.batch_size={measured}: the test split has {test} images; lower it")
    per_image = activation_bytes(subject.model, subject.data.info.input_shape)
    require_memory(measured * per_image.largest, field=f"measure.batch_size={measured}", fix="lower it")

    learns = config.finetune.epochs > 0 or config.elastic.epochs > 0 or config.adaptive.enabled
    batches = (
        ("train.batch_size", config.train.batch_size, not subject.is_trained),
        ("finetune.batch_size", config.finetune.batch_size, learns),
    )
    for field, batch, is_used in batches:
        if is_used:
            _say_clipped(field, batch, train, "train")
            require_memory(min(batch, train) * per_image.total, field=f"{field}={batch}", fix="lower it")
    _say_clipped("search.score_images", config.search.score_images, search, "search")
    _say_clipped("search.calibration_images", config.search.calibration_images, train, "train")
    _say_clipped("data.max_train_images", config.data.max_train_images, train, "train")
    _say_clipped("data.max_test_images", config.data.max_test_images, test, "test")


def activation_bytes(model: nn.Module, input_shape: tuple[int, int, int]) -> ActivationBytes:
    """Count what the leaves of `model`, in evaluation mode, give for one image (C, H, W)."""
    given: list[int] = []

    def note(_module: nn.Module, inputs: Any, output: Any) -> None:
        given.append(_bytes(inputs) + _bytes(output))

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.no_grad():
            given.append(_bytes(model(torch.zeros(2, *input_shape))))
    finally:
        for hook in hooks:
            hook.remove()
    # Half of what goes in and out of each: it goes out of one and into the next. Of two images, so once more half.
    return ActivationBytes(sum(given) // 4, max(given) // 2)


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    return 0


def _say_clipped(field: str, asked: int | None, there: int, split: str) -> None:
    if asked is not None and asked > there:
        say(f"{field}={asked}: the {split} split has {there} images, so all of them are taken")

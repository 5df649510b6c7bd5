"""How many images a configuration asks for, against those that there are: refused, or clipped and said."""

from autoprune.compute.machine import require_memory, training_batches
from autoprune.config import RunConfig
from autoprune.errors import DataError
from autoprune.foundation.progress import say
from autoprune.measure.activation_memory import activation_bytes
from autoprune.steps.subject import Subject


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
    needed = per_image.of_table(measured) if measured > 1 else per_image.largest
    require_memory(needed, field=f"measure.batch_size={measured}", fix="lower it")

    for field, batch in training_batches(config, is_trained=subject.is_trained).items():
        _say_clipped(field, batch, train, "train")
        require_memory(min(batch, train) * per_image.total, field=f"{field}={batch}", fix="lower it")
    _say_clipped("search.score_images", config.search.score_images, search, "search")
    _say_clipped("search.calibration_images", config.search.calibration_images, train, "train")
    _say_clipped("data.max_train_images", config.data.max_train_images, train, "train")
    _say_clipped("data.max_test_images", config.data.max_test_images, test, "test")


def _say_clipped(field: str, asked: int | None, there: int, split: str) -> None:
    if asked is not None and asked > there:
        say(f"{field}={asked}: the {split} split has {there} images, so all of them are taken")

"""What a run works on: a model and its data, checked against each other before any work starts."""

from dataclasses import dataclass

from torch import nn

from autoprune.compute.machine import require_batches
from autoprune.config import RunConfig
from autoprune.data import ImageSplit, SearchData, load_search_data, load_test_split, tell_repeated
from autoprune.data.augment import check_augmentation
from autoprune.data.splits import check_split, check_varied
from autoprune.errors import InputError, cut
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.models import ModelSpec, build_model, check_classifier, check_weights, load_weights
from autoprune.pruning.plain import check_module, own_copy
from autoprune.steps.gate import check_answers, check_task_of, made_plain, tell_accuracy
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import make_task
from autoprune.tasks.task import Task


@dataclass(frozen=True)
class Subject:
    """The model and its data. `test` is for the last step alone: `prepare` and the search are given `data`."""

    model: nn.Module
    spec: ModelSpec | None  # None: the model came as an object
    data: SearchData
    test: ImageSplit
    is_trained: bool
    task: Task = CLASSIFICATION
    has_own_data: bool = False  # they came as objects


def load_subject(
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    data: SearchData | None = None,
    test: ImageSplit | None = None,
) -> Subject:
    """The configuration's model and data, or those given (the model, taken as trained, is copied).

    Raises `DataError` or `ModelError` for whatever does not exist, load or fit.
    """
    task = make_task(config.task)
    is_trained = model is not None or config.model.checkpoint is not None
    if not is_trained and not task.needs_labels:
        raise InputError(f"task={config.task}: has no labels to train a model with; give model.checkpoint")
    has_own_data = data is not None
    data = load_search_data(config.data) if data is None else data
    require_batches(config, len(data.train), data.info.input_shape, is_trained=is_trained)
    test = load_test_split(config.data, classes=data.info.classes) if test is None else test
    for split, where in ((data.train, "the train split"), (data.search, "the search split"), (test, "the test split")):
        check_split(split, data.info, where)
        check_varied(split, f"data.name={cut(data.info.name)}: {where}")
    tell_repeated(data, test)
    spec = None
    if model is None:
        spec = ModelSpec(config.model.name, data.info.num_classes, data.info.in_channels, config.model.width)
        seed_everything(derive_seed(config.seed, "initial weights"))
        model = build_model(spec)
    else:
        check_weights(model, config.model.name)  # first: a model of another type takes no images at all
        model = own_copy(model)
    check_module(model)
    check_weights(model, config.model.name)
    check_classifier(model, config.model.name, data.info.input_shape, data.info.num_classes)
    if config.model.checkpoint is not None:
        load_weights(model, config.model.checkpoint, key=config.model.checkpoint_key)
    check_weights(model, config.model.checkpoint or config.model.name)
    check_augmentation(config.finetune.augment, data.info, "finetune.augment")
    if not is_trained:
        check_augmentation(config.train.augment, data.info, "train.augment")
    made_plain(model)
    check_answers(model, data, config.model.name)
    check_task_of(model, data, task, config)
    if config.model.checkpoint is not None and task is CLASSIFICATION:
        tell_accuracy(model, data, config.model.checkpoint)
    return Subject(model, spec, data, test, is_trained, task, has_own_data)

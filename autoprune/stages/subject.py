"""What a run works on: a model and its data, checked against each other before any work starts."""

from dataclasses import dataclass

import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.data import DataInfo, ImageSplit, SearchData, load_search_data, load_test_split
from autoprune.errors import DataError, ModelError
from autoprune.models import ModelSpec, build_model, check_classifier, load_weights
from autoprune.pruning.plain import check_module, own_copy
from autoprune.seeding import derive_seed, seed_everything
from autoprune.stages.gate import check_answers, made_plain


@dataclass(frozen=True)
class Subject:
    """The model and its data. `test` is for the last step alone: `prepare` and the search are given `data`."""

    model: nn.Module
    spec: ModelSpec | None  # None: the model came as an object
    data: SearchData
    test: ImageSplit
    is_trained: bool


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
    data = load_search_data(config.data) if data is None else data
    test = load_test_split(config.data) if test is None else test
    for split, where in ((data.train, "the train split"), (data.search, "the search split"), (test, "the test split")):
        _check_split(split, data.info, where)
    spec, is_trained = None, True
    if model is None:
        spec = ModelSpec(config.model.name, data.info.num_classes, data.info.in_channels, config.model.width)
        seed_everything(derive_seed(config.seed, "initial weights"))
        model = build_model(spec)
        is_trained = config.model.checkpoint is not None
    else:
        model = own_copy(model)
    check_module(model)
    check_classifier(model, config.model.name, data.info.input_shape, data.info.num_classes)
    if config.model.checkpoint is not None:
        load_weights(model, config.model.checkpoint)
    _check_finite(model, config.model.checkpoint or config.model.name)
    made_plain(model)
    check_answers(model, data, config.model.name)
    return Subject(model, spec, data, test, is_trained)


def _check_split(split: ImageSplit, info: DataInfo, where: str) -> None:
    if tuple(split.images.shape[1:]) != info.input_shape:
        raise DataError(f"{where} has images of {tuple(split.images.shape[1:])}, its data of {info.input_shape}")
    if len(split) == 0 or not 0 <= int(split.labels.min()) <= int(split.labels.max()) < info.num_classes:
        raise DataError(f"{where} must hold images with labels in 0..{info.num_classes - 1}")


def _check_finite(model: nn.Module, where: str) -> None:
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{where}: {name} holds NaN or infinity; give the weights of a training that went well")

"""Inspecting a model: build it, measure what a search would meet, and assemble the facts."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.data import DataInfo, ImageSplit, SearchData
from autoprune.errors import InputError, ModelError
from autoprune.foundation.progress import bar
from autoprune.foundation.seeding import derive_seed, rng, seed_everything
from autoprune.inspection.facts import (
    InspectedModel,
    Inspection,
    LatencyFacts,
    SearchTime,
    Staircase,
    assemble,
    group_of_layer,
    smallest_policy,
    staircase_widths,
)
from autoprune.measure.timing import time_once_ms
from autoprune.models import ModelSpec, build_model, check_weights, load_weights
from autoprune.prediction.latency_model import build_latency_model, group_staircase, with_branch_rung
from autoprune.prediction.latency_validation import validate_latency
from autoprune.prediction.staircase import candidate_widths, least_width
from autoprune.prediction.whole_models import random_policies
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.importance import rank_channels
from autoprune.pruning.plain import bake, check_module
from autoprune.search.evaluate import Evaluator

EVALUATIONS_TIMED = 4
EVALUATION_S = 1.0  # about as long as a timed evaluation may take; one that takes longer gets fewer images
LEAST_IMAGES = 24
PROBE_IMAGES = 8


def load_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int | None,
    width: float,
    checkpoint: str | None,
    checkpoint_key: str | None = None,
) -> tuple[nn.Module, int]:
    """The model and its number of classes: `classes`, or what the model gives when that is None.

    Raises `ModelError` if it cannot be built or loaded, `InputError` naming the option if shape or classes do not fit.
    """
    shown = ",".join(map(str, input_shape))
    seed_everything(derive_seed(0, "initial weights"))
    spec = ModelSpec(name, 10 if classes is None else classes, input_shape[0], width)
    model = build_model(spec)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *input_shape))
    except Exception as error:  # the user's model may raise anything
        raise InputError(
            f"--input-shape {shown}: {name} does not take such images ({error}); give the shape it is made for, C,H,W"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        got = tuple(logits.shape[1:]) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"{name}: not a classifier: it gives {got} for each image")
    if classes is not None and logits.shape[1] != classes:
        raise InputError(f"--classes {classes}: {name} gives {logits.shape[1]} values for each image")
    if checkpoint is not None:
        load_weights(model, checkpoint, key=checkpoint_key)
    check_weights(model, checkpoint or name)
    check_module(model)
    bake(model)
    return model, logits.shape[1]


def inspect_model(
    model: nn.Module,
    described: InspectedModel,
    *,
    search: SearchConfig,
    measure: MeasureConfig,
    with_latency: bool = True,
    table_path: Path | None = None,
    staircase_of: str | None = None,
    validations: int = 0,
) -> Inspection:
    """All facts about a classifier in evaluation mode; `model` is left as it was.

    Without latency only evaluations are timed, and the ladders are evenly spaced widths. `staircase_of` names a layer
    and `validations` a number of random policies to predict and measure: both need latency.

    Raises `ModelError` if nothing can be pruned, `InputError` if `staircase_of` names no layer of a group.
    """
    info = _no_data(described)
    found = find_groups(model, described.input_shape)
    shown = torch.zeros(1, *described.input_shape)  # no criterion that needs images is used
    ranking = rank_channels(model, found.prunable, "l2", images=shown, labels=torch.zeros(1, dtype=torch.int64))
    elastic = ElasticModel(model, found.prunable, ranking)
    shapes = CutShapes(elastic, described.input_shape)
    asked = None if staircase_of is None else group_of_layer(staircase_of, model, found.prunable, found.skipped)
    latency = measured = table_s = None
    if with_latency:
        started = time.perf_counter()
        latency = build_latency_model(shapes, info, search=search, measure=measure, table_path=table_path)
        table_s = time.perf_counter() - started
        ladders = latency.ladders
        measured = LatencyFacts(
            latency.layers_ms(elastic.full_policy),
            latency.predicted_latency_ms(elastic.full_policy),
            latency.predicted_latency_ms(smallest_policy(ladders)),
            device=latency.table.device.cpu,
            runtime=latency.table.device.runtime,
        )
    else:
        ladders = {
            group.name: with_branch_rung(_even_ladder(group.channels, search), group, search)
            for group in elastic.groups
        }
    facts = assemble(described, found.skipped, shapes, ladders, search=search, measure=measure, latency=measured)
    if latency is not None and staircase_of is not None and asked is not None:
        rungs = ladders[asked.name]
        points = group_staircase(latency, asked, staircase_widths(asked.channels, rungs))
        facts = replace(facts, staircase=Staircase(staircase_of, asked.name, asked.channels, tuple(points), rungs))
    if latency is not None and validations:
        checked = validate_latency(latency, info, measure=measure, n=validations, seed=0)
        facts = replace(facts, validation=checked)
    return replace(facts, search_time=time_search(elastic, info, ladders, search, table_s=table_s))


def time_search(
    elastic: ElasticModel,
    info: DataInfo,
    ladders: Mapping[str, tuple[int, ...]],
    search: SearchConfig,
    *,
    table_s: float | None,
) -> SearchTime:
    """Time a few evaluations of random policies on random images.

    With a large model they get fewer images than a search would use, and the time is scaled up by the images.
    """
    images = search.score_images + search.calibration_images
    timed = min(images, max(LEAST_IMAGES, int(EVALUATION_S / _seconds_an_image(elastic.original, info))))
    scored = round(timed * search.score_images / images)
    data = SearchData(info, _noise(info, timed - scored), _noise(info, scored))
    policies = random_policies(ladders, EVALUATIONS_TIMED + 1, purpose="timed evaluations")
    seconds = []
    with bar("timing evaluations", len(policies)) as progress:
        evaluator = Evaluator(
            elastic, data, score_images=scored, calibration_images=timed - scored, repairs=search.repair
        )
        for policy in policies:
            started = time.perf_counter()
            elastic.cut(policy)
            cut_s = time.perf_counter() - started
            evaluator.score(policy)
            whole_s = time.perf_counter() - started - cut_s  # which cuts once more
            seconds.append(cut_s + max(whole_s - cut_s, 0.0) * images / timed)
            progress.advance()
    return SearchTime(
        evaluation_s=float(np.median(seconds[1:])),  # the first one warms up
        evaluations_timed=EVALUATIONS_TIMED,
        images_timed=timed,
        images=images,
        max_evaluations=search.max_evaluations,
        setup_evaluations=len(elastic.groups),
        table_s=table_s,
    )


def _even_ladder(channels: int, search: SearchConfig) -> tuple[int, ...]:
    step = -(-channels // search.max_rungs)
    least = least_width(channels, min_keep=search.min_keep)
    return tuple(sorted({least, *candidate_widths(channels, step=step, min_keep=search.min_keep)}))


def _no_data(described: InspectedModel) -> DataInfo:
    """Names and figures for images that do not exist."""
    channels, height, width = described.input_shape
    classes = tuple(map(str, range(described.classes)))
    return DataInfo("random images", classes, channels, height, width, (0.5,) * channels, (0.25,) * channels)


def _noise(info: DataInfo, count: int) -> ImageSplit:
    generator = rng(0, "random images")
    pixels = generator.integers(0, 256, (count, *info.input_shape), dtype=np.uint8)
    return ImageSplit(torch.from_numpy(pixels), torch.from_numpy(generator.integers(0, info.num_classes, count)))


def _seconds_an_image(model: nn.Module, info: DataInfo) -> float:
    images = torch.rand(PROBE_IMAGES, *info.input_shape)
    with torch.inference_mode(), evaluation_mode(model):
        times_ms = [time_once_ms(lambda: model(images)) for _ in range(4)]
        return min(times_ms) / 1e3 / PROBE_IMAGES

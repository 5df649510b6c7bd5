"""NVIDIA ModelOpt's FastNAS: a map of each layer's sensitivity, and one threshold that meets a bound on FLOPs."""

from typing import Any

import modelopt.torch.prune as mtp
import torch
from modelopt.torch.prune.fastnas import FastNASConfig
from torch import Tensor, nn

from autoprune.data import ImageSplit, normalise
from autoprune.data.splits import stratified_indices
from autoprune.training.scores import Judge
from peers.task import Task

# It recalibrates BatchNorm before each score only if it has been given so many batches before.
CALIBRATION_BATCHES, CALIBRATION_BATCH = 50, 32


def prune(task: Task) -> nn.Module:
    """Candidates are scored by top-1, as ModelOpt's own examples do; the map is worked out once for each divisor."""
    info = task.data.info
    scored = _some(task.data.search, task.score_images)
    calibration = normalise(_calibration(task.data.train), info)
    pruned, _ = mtp.prune(
        task.model,
        mode=[("fastnas", _rules(task.value))],
        constraints={"flops": f"{100 * (1 - task.knob):.3f}%"},
        dummy_input=torch.zeros(1, *info.input_shape),
        config={
            "data_loader": calibration.split(CALIBRATION_BATCH),
            "collect_func": lambda batch: batch,
            # `accuracy` calls model.eval(), at which ModelOpt recalibrates; without it BatchNorms stay the original's.
            "score_func": Judge(scored, info),
            "checkpoint": str(task.scratch / f"fastnas-{task.value}.pth"),
            "verbose": False,
        },
    )
    return pruned


def _rules(divisor: int | None) -> dict[str, Any]:
    """ModelOpt's own rules for all kinds of layers, with another divisor of their channels or features."""
    rules = FastNASConfig().model_dump()
    return {
        kind: {"*": {key: divisor if key.endswith("_divisor") else value for key, value in rule["*"].items()}}
        for kind, rule in rules.items()
        if rule is not None
    }


def _calibration(train: ImageSplit) -> Tensor:
    """Images in an order by chance (a folder's come class by class); few images are shown more than once."""
    wanted = CALIBRATION_BATCHES * CALIBRATION_BATCH
    images = _some(train, wanted).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order.repeat(-(-wanted // len(images)))[:wanted]]


def _some(split: ImageSplit, count: int) -> ImageSplit:
    return split.select(stratified_indices(split.labels, min(count, len(split)), seed=0, purpose="peers"))

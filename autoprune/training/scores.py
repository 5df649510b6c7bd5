"""How a task judges a network on a split."""

from functools import cached_property

import torch
from torch import Tensor, nn

from autoprune.config import AugmentConfig
from autoprune.data import DataInfo, ImageSplit, normalise, views
from autoprune.store.score import told_merit
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import main_metric, mean_of, merits_of, metric_of
from autoprune.tasks.task import PerExample, Task

EVALUATION_BATCH = 500


class Judge:
    """The main metric of a task, of networks on one split; they are left in evaluation mode.

    Where the task needs no labels, the `original` says what is right; it is asked once.
    """

    def __init__(
        self, split: ImageSplit, info: DataInfo, task: Task = CLASSIFICATION, *, original: nn.Module | None = None
    ) -> None:
        self._split, self._info, self._task, self._original = split, info, task, original

    def __call__(self, model: nn.Module) -> float:
        """The mean, with a sign that makes higher values better."""
        return mean_of(merits_of(self.each(model)))

    def each(self, model: nn.Module) -> PerExample:
        """What it comes to for each image, (N,)."""
        self.name, found = main_metric(self._task, outputs_of(model, self._split, self._info), self._targets)
        self._last = metric_of(found)
        return found

    def told(self, merit: float) -> str:
        """What a network came to, by the metric's own name and sign; one must have been judged."""
        return told_merit(merit, self.name, self._last)

    @cached_property
    def _targets(self) -> Tensor:
        if self._task.needs_labels:
            return self._split.labels
        assert self._original is not None, "without labels the original says what is right"
        return outputs_of(self._original, self._split, self._info)


def merits_in_views(
    model: nn.Module,
    split: ImageSplit,
    augmentation: AugmentConfig,
    info: DataInfo,
    task: Task,
    *,
    original: nn.Module,
) -> Tensor:
    """(views, N): the main metric in all `autoprune.data.views` of the images, which are first shown as they are, with
    a sign that makes higher values better; bool where each image is right or wrong."""
    shown = (ImageSplit(images, split.labels) for images in views(split.images, augmentation))
    return torch.stack([merits_of(Judge(seen, info, task, original=original).each(model)) for seen in shown])


def outputs_of(model: nn.Module, split: ImageSplit, info: DataInfo) -> Tensor:
    """(N, ...) float32, of all images of `split`; the model is left in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        batches = torch.split(split.images, EVALUATION_BATCH)
        return torch.cat([model(normalise(images, info)).float() for images in batches])

"""What a model answers on a split, and how much of it is right."""

import torch
from torch import Tensor, nn

from autoprune.data import Augmentation, DataInfo, ImageSplit, normalise, views

EVALUATION_BATCH = 500


def accuracy(model: nn.Module, split: ImageSplit, info: DataInfo) -> float:
    """Share of `split` that `model` classifies right; the model is left in evaluation mode."""
    return int(right_answers(model, split, info).sum()) / len(split)


def right_answers(model: nn.Module, split: ImageSplit, info: DataInfo) -> Tensor:
    """(N,) bool: which images of `split` the model classifies right; it is left in evaluation mode."""
    return logits_of(model, split, info).argmax(1) == split.labels


def right_in_views(model: nn.Module, split: ImageSplit, augmentation: Augmentation, info: DataInfo) -> Tensor:
    """(views, N) bool: the same for all `autoprune.data.views` of the images, which are first shown as they are."""
    shown = views(split.images, augmentation)
    return torch.stack([right_answers(model, ImageSplit(images, split.labels), info) for images in shown])


def logits_of(model: nn.Module, split: ImageSplit, info: DataInfo) -> Tensor:
    """(N, classes) float32, of all images of `split`; the model is left in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        starts = range(0, len(split), EVALUATION_BATCH)
        batches = (normalise(split.images[start : start + EVALUATION_BATCH], info) for start in starts)
        return torch.cat([model(images).float() for images in batches])

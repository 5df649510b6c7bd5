"""Scores and accuracies of image classification, in short."""

from torch import nn

from autoprune.data import DataInfo, ImageSplit
from autoprune.store.score import DIVERGENCE, Metric, Score
from autoprune.training.scores import Judge


def scored(
    kl: float,
    cross_entropy: float,
    top1: float,
    images: int,
    kl_se: float = 0.0,
    cross_entropy_se: float = 0.0,
    look: int = 0,
    complete: bool = True,
) -> Score:
    """What `Classification` would say with these figures."""
    metrics = {
        DIVERGENCE: Metric(kl, kl_se, higher_is_better=False),
        "top1": Metric(top1, (top1 * (1.0 - top1) / images) ** 0.5, is_share=True),
        "cross_entropy": Metric(cross_entropy, cross_entropy_se, higher_is_better=False),
    }
    return Score(metrics, images, look, complete)


def accuracy(model: nn.Module, split: ImageSplit, info: DataInfo) -> float:
    """Share of `split` that `model` classifies right; the model is left in evaluation mode."""
    return Judge(split, info)(model)

"""What training sees: the train split, shuffled and augmented; the same for the same seed, whoever asks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.config import AugmentConfig
from autoprune.data import SearchData, normalise
from autoprune.data.augment import AugmentationDraws, augment, draw, mixed_labels
from autoprune.foundation.seeding import derive_seed


@dataclass(frozen=True)
class Origin:
    """What a batch of a train split is drawn from: equal origins, equal batches."""

    seed: int
    epoch: int
    number: int  # within the epoch
    size: int
    augmentation: AugmentConfig


@dataclass(frozen=True)
class Batch:
    """What one step sees: normalised images (N, C, H, W), labels (N,) or, of mixed images, shares of the classes
    (N, classes), their places in the train split (N,), and which form of augmentation each is in (N,), as far as forms
    are told apart: equal places and forms, equal images. No origin: it is not drawn from a split."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    forms: Tensor | None
    origin: Origin | None = None


def epoch_batches(
    data: SearchData, augmentation: AugmentConfig, *, batch_size: int, epoch: int, seed: int
) -> Iterator[Batch]:
    """The train split, shuffled and augmented: the same for the same epoch and seed, whoever asks."""
    height, width = data.info.input_shape[1:]
    for origin, chosen, drawn in epoch_draws(data, augmentation, batch_size=batch_size, epoch=epoch, seed=seed):
        labels = data.train.labels[chosen]
        if augmentation.cutmix_size:
            labels = mixed_labels(labels, data.info.num_classes, (height, width), augmentation, drawn)
        yield Batch(
            normalise(augment(data.train.images[chosen], augmentation, drawn), data.info),
            labels,
            chosen,
            drawn.forms(augmentation),
            origin,
        )


def epoch_draws(
    data: SearchData, augmentation: AugmentConfig, *, batch_size: int, epoch: int, seed: int
) -> Iterator[tuple[Origin, Tensor, AugmentationDraws]]:
    """Which images (N,) each batch of an epoch takes, and what chance decided for them; no image is touched."""
    order = torch.randperm(len(data.train), generator=_generator(seed, f"batches {epoch}"))
    height, width = data.info.input_shape[1:]
    draws = draw(len(order), (height, width), augmentation, _generator(seed, f"augmentation {epoch}"))
    # Batches of full size only: a small last one would disturb BatchNorm; a tiny data set is one batch.
    size = min(batch_size, len(order))
    for number in range(len(order) // size):
        chosen = order[number * size : (number + 1) * size]
        yield Origin(seed, epoch, number, size, augmentation), chosen, draws.select(chosen)


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose))

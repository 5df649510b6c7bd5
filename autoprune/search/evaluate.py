"""Scoring a candidate: cut, recalibrate BatchNorm, compare with the original on images of the search split."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import ImageSplit, SearchData, normalise
from autoprune.data.splits import stratified_indices
from autoprune.foundation.seeding import rng
from autoprune.pruning.elastic import ElasticModel
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.training.batchnorm import even_batches, fold_batchnorm, foldable_layers, recalibrate_batchnorm
from autoprune.training.memory_format import laid_out
from autoprune.training.repair import WeightRepair
from autoprune.training.train import has_fast_bf16

SECOND_LOOK = 512  # images of the search split; the first look is at the calibration images as they pass
FOLDING_IMAGES = 16  # that show whether normalisation can be folded


class Evaluator:
    """Scores policies of one elastic model; calibration images come from train, scoring images from search."""

    def __init__(
        self, elastic: ElasticModel, data: SearchData, *, score_images: int, calibration_images: int, repairs: bool
    ) -> None:
        self.elastic, self.info = elastic, data.info
        scored = _shuffled(_subset(data.search, score_images, "score"))
        self.labels = scored.labels
        self.images = normalise(scored.images, data.info)  # (N, C, H, W)
        calibrated = _shuffled(_subset(data.train, calibration_images, "calibration"))
        self.calibration = normalise(calibrated.images, data.info)
        self.calibration_labels = calibrated.labels
        self.repair = WeightRepair(elastic, self.calibration) if repairs else None
        elastic.original.eval()
        self.reference = _log_probabilities(elastic.original, self.images)  # (N, classes)
        self.calibration_reference = _log_probabilities(elastic.original, self.calibration)
        self.foldable = foldable_layers(elastic.original, self.calibration[:FOLDING_IMAGES])

    def candidate(self, policy: PruningPolicy) -> nn.Module:
        """The cut, its weights repaired and its BatchNorms recalibrated, ready to run."""
        model = self.repaired_cut(policy)
        self.recalibrate(model)
        return model

    def recalibrate(self, model: nn.Module) -> Tensor:
        """Give `model` the BatchNorm statistics of the calibration images, in place; what it answers to them."""
        return recalibrate_batchnorm(model, self.calibration)

    def score(self, policy: PruningPolicy) -> Score:
        """The complete score."""
        *_, complete = self.looks(policy)
        return complete

    def looks(self, policy: PruningPolicy) -> Iterator[Score]:
        """Scores of the calibration images, of the first `SECOND_LOOK` images, and of all; each when it is asked for.

        The first one costs nothing: calibration runs these images anyway. The candidate runs as fast as it can:
        normalisation folded, in bfloat16 where the CPU computes in that.
        """
        model = self.repaired_cut(policy)
        with _fast_arithmetic():
            answers = self.recalibrate(model)
        passing = F.log_softmax(answers, dim=1)
        yield replace(_score(passing, self.calibration_reference, self.calibration_labels), complete=False)
        fold_batchnorm(model, self.foldable)
        log_p = self.reference[:0]
        for look, images in enumerate(sorted({min(SECOND_LOOK, len(self.images)), len(self.images)}), 1):
            with _fast_arithmetic():
                log_p = torch.cat([log_p, _log_probabilities(model, self.images[len(log_p) : images])])
            score = _score(log_p, self.reference[:images], self.labels[:images])
            yield replace(score, look=look, complete=images == len(self.images))

    @property
    def original_top1(self) -> float:
        """The original's accuracy on the images that candidates are scored on."""
        return float((self.reference.argmax(1) == self.labels).float().mean())

    def score_model(self, model: nn.Module) -> Score:
        """The complete score of any classifier of these images, as it stands; it is left in evaluation mode."""
        model.eval()
        return _score(_log_probabilities(model, self.images), self.reference, self.labels)

    def repaired_cut(self, policy: PruningPolicy) -> nn.Module:
        """The cut with weights that make up for what is gone; its BatchNorms are still those of the original."""
        kept = self.elastic.kept_channels(policy)
        model = laid_out(self.elastic.cut_to(kept))
        if self.repair is not None:
            self.repair.apply(model, kept)
        return model


def _score(log_p: Tensor, reference: Tensor, labels: Tensor) -> Score:
    """A complete score from log-probabilities (n, classes) of n images, the original's, and their classes (n,)."""
    kls = F.kl_div(log_p, reference, reduction="none", log_target=True).sum(1)
    cross_entropies = F.nll_loss(log_p, labels, reduction="none")
    return Score(
        max(kls.mean().item(), 0.0),
        cross_entropies.mean().item(),
        (log_p.argmax(1) == labels).float().mean().item(),
        len(labels),
        kl_se=_standard_error(kls),
        cross_entropy_se=_standard_error(cross_entropies),
    )


def _log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([F.log_softmax(model(batch).float(), dim=1) for batch in even_batches(images)])


def _fast_arithmetic() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())


def _subset(split: ImageSplit, count: int, purpose: str) -> ImageSplit:
    if count >= len(split):
        return split
    return split.select(stratified_indices(split.labels, count, seed=0, purpose=purpose))


def _shuffled(split: ImageSplit) -> ImageSplit:
    """In an order by chance, always the same: the first images of a folder are often all of one class."""
    return split.select(torch.from_numpy(rng(0, "order of scoring").permutation(len(split))))


def _standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0

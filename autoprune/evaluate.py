"""Scoring a candidate: cut, recalibrate BatchNorm, compare with the original on images of the search split."""

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.batchnorm import even_batches, fold_batchnorm, foldable_layers, recalibrate_batchnorm
from autoprune.data import ImageSplit, SearchData, normalise
from autoprune.data.splits import stratified_indices
from autoprune.elastic import ElasticModel
from autoprune.policy import PruningPolicy
from autoprune.repair import WeightRepair
from autoprune.reward import Score
from autoprune.seeding import rng
from autoprune.train import has_fast_bf16

LOOKS = (128, 512)  # images after which a candidate may be dropped
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
        self.calibration = normalise(_subset(data.train, calibration_images, "calibration").images, data.info)
        self.repair = WeightRepair(elastic, self.calibration) if repairs else None
        self.reference = _log_probabilities(elastic.original.eval(), self.images)  # (N, classes)
        self.foldable = foldable_layers(elastic.original, self.calibration[:FOLDING_IMAGES])

    def of(self, elastic: ElasticModel) -> "Evaluator":
        """The same evaluation, against the same original, of other weights, which are trained to be cut as they are."""
        other = copy.copy(self)
        other.elastic, other.repair = elastic, None
        return other

    def candidate(self, policy: PruningPolicy) -> nn.Module:
        """The cut, its weights repaired and its BatchNorms recalibrated, ready to run."""
        model = self.repaired_cut(policy)
        self.recalibrate(model)
        return model

    def recalibrate(self, model: nn.Module) -> None:
        """Give `model` the BatchNorm statistics of the calibration images, in place."""
        recalibrate_batchnorm(model, self.calibration)

    def score(self, policy: PruningPolicy) -> Score:
        """The complete score."""
        *_, complete = self.looks(policy)
        return complete

    def looks(self, policy: PruningPolicy) -> Iterator[Score]:
        """Scores of the first `LOOKS` images, then the complete score; worked out as they are asked for.

        The candidate runs as fast as it can: normalisation folded, in bfloat16 where the CPU computes in that.
        """
        model = self.repaired_cut(policy)
        with _fast_arithmetic():
            self.recalibrate(model)
            fold_batchnorm(model, self.foldable)
        log_p = self.reference[:0]
        for images in (*(count for count in LOOKS if count < len(self.images)), len(self.images)):
            with _fast_arithmetic():
                log_p = torch.cat([log_p, _log_probabilities(model, self.images[len(log_p) : images])])
            yield self._score_of(log_p)

    def score_model(self, model: nn.Module) -> Score:
        """The complete score of any classifier of these images, as it stands; it is left in evaluation mode."""
        return self._score_of(_log_probabilities(model.eval(), self.images))

    def repaired_cut(self, policy: PruningPolicy) -> nn.Module:
        """The cut with weights that make up for what is gone; its BatchNorms are still those of the original."""
        kept = self.elastic.kept_channels(policy)
        model = self.elastic.cut_to(kept).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.repair is not None:
            self.repair.apply(model, kept)
        return model  # type: ignore[no-any-return]

    def _score_of(self, log_p: Tensor) -> Score:
        """From log-probabilities (n, classes) of the first n images."""
        n = len(log_p)
        reference, labels = self.reference[:n], self.labels[:n]
        kls = F.kl_div(log_p, reference, reduction="none", log_target=True).sum(1)
        cross_entropies = F.nll_loss(log_p, labels, reduction="none")
        top1 = (log_p.argmax(1) == labels).float().mean()
        return Score(
            max(kls.mean().item(), 0.0),
            cross_entropies.mean().item(),
            top1.item(),
            n,
            kl_se=_standard_error(kls),
            cross_entropy_se=_standard_error(cross_entropies),
            complete=n == len(self.images),
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

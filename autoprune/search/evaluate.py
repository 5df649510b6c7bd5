"""Scoring a candidate: cut, recalibrate BatchNorm, compare with the original on images of the search split."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.compute.compute import HERE, Compute
from autoprune.compute.kernels.memory_format import laid_out
from autoprune.data import ImageSplit, SearchData, normalise
from autoprune.data.splits import stratified_indices
from autoprune.foundation.seeding import rng
from autoprune.pruning.elastic import ElasticModel
from autoprune.space.layer_option import apply_options
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Metric, Score, told_merit
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import score_of
from autoprune.tasks.task import Task
from autoprune.tracing.written import written
from autoprune.training.batchnorm import even_batches, fold_batchnorm, foldable_layers, recalibrate_batchnorm
from autoprune.training.repair import WeightRepair

SECOND_LOOK = 512  # images of the search split; the first look is at the calibration images as they pass
FOLDING_IMAGES = 16  # that show whether normalisation can be folded


class Evaluator:
    """Scores policies of one elastic model; calibration images come from train, scoring images from search."""

    def __init__(
        self,
        elastic: ElasticModel,
        data: SearchData,
        *,
        score_images: int,
        calibration_images: int,
        repairs: bool,
        task: Task = CLASSIFICATION,
        compute: Compute = HERE,
    ) -> None:
        self.elastic, self.info, self.task, self.compute = elastic, data.info, task, compute
        scored = _shuffled(_subset(data.search, score_images, "score"))
        self._shown = hashlib.blake2b()
        self.labels = scored.labels
        self.images = normalise(scored.images, data.info)  # (N, C, H, W)
        calibrated = _shuffled(_subset(data.train, calibration_images, "calibration"))
        for split in (scored, calibrated):
            for tensor in (split.images, split.labels):
                self._shown.update(tensor.contiguous().numpy().data)
        self.calibration = normalise(calibrated.images, data.info)
        self.calibration_labels = calibrated.labels
        self.repair = WeightRepair(elastic, self.calibration) if repairs else None
        elastic.original.eval()
        self.reference = _outputs(elastic.original, self.images)  # (N, ...)
        self.calibration_reference = _outputs(elastic.original, self.calibration)
        self.foldable = foldable_layers(elastic.original, self.calibration[:FOLDING_IMAGES])

    def seen(self) -> bytes:
        """A hash of the images and labels that tell scores, and of what the original does with them."""
        network = self._shown.copy()
        network.update(written(self.elastic.original, self.images[:1]).encode())
        return network.digest()

    def candidate(self, policy: PruningPolicy) -> nn.Module:
        """The cut, its weights repaired and its BatchNorms recalibrated, ready to run."""
        model = self.repaired_cut(policy)
        self.recalibrate(model)
        return model

    def recalibrate(self, model: nn.Module) -> Tensor:
        """Give `model` the BatchNorm statistics of the calibration images, in place; what it answers to them."""
        return recalibrate_batchnorm(model, self.calibration, self.compute)

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
        with self.compute.fast_arithmetic():
            passing = self.recalibrate(model)
        first = score_of(self.task, passing, self.calibration_reference, self.calibration_labels)
        yield replace(first, complete=False)
        fold_batchnorm(model, self.foldable)
        outputs = self.reference[:0]
        for look, images in enumerate(sorted({min(SECOND_LOOK, len(self.images)), len(self.images)}), 1):
            with self.compute.fast_arithmetic():
                outputs = torch.cat([outputs, _outputs(model, self.images[len(outputs) : images])])
            score = score_of(self.task, outputs, self.reference[:images], self.labels[:images])
            yield replace(score, look=look, complete=images == len(self.images))

    @property
    def original_metric(self) -> tuple[str, Metric]:
        """What the original comes to on the images that candidates are scored on: the task's main metric, by name."""
        return score_of(self.task, self.reference, self.reference, self.labels).main

    def told(self, merit: float) -> str:
        """What a network came to, by the main metric's own name and sign."""
        return told_merit(merit, *self.original_metric)

    def score_model(self, model: nn.Module) -> Score:
        """The complete score of any network of these images, as it stands; it is left in evaluation mode."""
        model.eval()
        return score_of(self.task, _outputs(model, self.images), self.reference, self.labels)

    def repaired_cut(self, policy: PruningPolicy) -> nn.Module:
        """The cut with weights that make up for what is gone; its BatchNorms are still those of the original."""
        kept = self.elastic.kept_channels(policy)
        model = laid_out(self.elastic.cut_to(kept))
        if self.repair is not None:
            self.repair.apply(model, kept)
        apply_options(self.elastic.options, model, policy)
        return model


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch).float() for batch in even_batches(images)])


def _subset(split: ImageSplit, count: int, purpose: str) -> ImageSplit:
    if count >= len(split):
        return split
    return split.select(stratified_indices(split.labels, count, seed=0, purpose=purpose))


def _shuffled(split: ImageSplit) -> ImageSplit:
    """In an order by chance, always the same: the first images of a folder are often all of one class."""
    return split.select(torch.from_numpy(rng(0, "order of scoring").permutation(len(split))))

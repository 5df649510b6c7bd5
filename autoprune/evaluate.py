"""Scoring a candidate: cut, recalibrate BatchNorm, compare with the original on images of the search split."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import ImageSplit, SearchData, normalise
from autoprune.data.splits import stratified_indices
from autoprune.elastic import ElasticModel
from autoprune.policy import PruningPolicy
from autoprune.reward import Score

BATCH = 256


def recalibrate_batchnorm(model: nn.Module, images: Tensor) -> None:
    """Replace the running statistics of every BatchNorm by those of `images` (N, C, H, W), in place.

    Right after a cut the statistics are those of channels that are gone, and accuracy is near chance (Li et al. 2020,
    EagleEye). The statistics are plain means over batches.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    with torch.inference_mode():
        for batch in _batches(images):
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


class Evaluator:
    """Scores policies of one elastic model; calibration images come from train, scoring images from search."""

    def __init__(self, elastic: ElasticModel, data: SearchData, *, score_images: int, calibration_images: int) -> None:
        self.elastic, self.info = elastic, data.info
        scored = _subset(data.search, score_images, "score")
        self.labels = scored.labels
        self.images = normalise(scored.images, data.info)  # (N, C, H, W)
        self.calibration = normalise(_subset(data.train, calibration_images, "calibration").images, data.info)
        self.reference = self._log_probabilities(elastic.original)  # (N, classes)

    def of(self, elastic: ElasticModel) -> "Evaluator":
        """The same evaluation, against the same original, of other weights."""
        other = copy.copy(self)
        other.elastic = elastic
        return other

    def candidate(self, policy: PruningPolicy) -> nn.Module:
        """The cut with its BatchNorms recalibrated, ready to run."""
        model = self.elastic.cut(policy).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recalibrate(model)
        return model  # type: ignore[no-any-return]

    def recalibrate(self, model: nn.Module) -> None:
        """Give `model` the BatchNorm statistics of the calibration images, in place."""
        recalibrate_batchnorm(model, self.calibration)

    def score(self, policy: PruningPolicy) -> Score:
        return self.score_model(self.candidate(policy))

    def score_model(self, model: nn.Module) -> Score:
        """The score of any classifier of these images, as it stands; it is left in evaluation mode."""
        log_p = self._log_probabilities(model)
        kl = F.kl_div(log_p, self.reference, reduction="batchmean", log_target=True)
        cross_entropy = F.nll_loss(log_p, self.labels)
        top1 = (log_p.argmax(1) == self.labels).float().mean()
        return Score(max(kl.item(), 0.0), cross_entropy.item(), top1.item(), len(self.labels))

    def _log_probabilities(self, model: nn.Module) -> Tensor:
        model.eval()
        with torch.inference_mode():
            return torch.cat([F.log_softmax(model(batch).float(), dim=1) for batch in _batches(self.images)])


def _subset(split: ImageSplit, count: int, purpose: str) -> ImageSplit:
    if count >= len(split):
        return split
    return split.select(stratified_indices(split.labels, count, seed=0, purpose=purpose))


def _batches(images: Tensor) -> Sequence[Tensor]:
    """At most `BATCH` images each, evenly: BatchNorm cannot be calibrated on a last batch of one image."""
    return images.tensor_split(-(-len(images) // BATCH))

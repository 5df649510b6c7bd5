"""The levels of an input-adaptive model that are trained: nested cuts that share their weights, in one training.

Each level has BatchNorms of its own: the statistics of a channel depend on how many channels feed it (Yu et al. 2019,
switchable batch normalisation).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.compute.compute import HERE, Compute
from autoprune.config import FinetuneConfig
from autoprune.data import ImageSplit, SearchData
from autoprune.pruning.copies import copied
from autoprune.pruning.elastic import ElasticModel
from autoprune.space.policy import PruningPolicy, check_nested
from autoprune.training.batches import Batch
from autoprune.training.batchnorm import recalibrate_batchnorm
from autoprune.training.distill import finetune_recipe, taught_value
from autoprune.training.pace import in_time
from autoprune.training.scores import outputs_of
from autoprune.training.teacher import Teacher
from autoprune.training.train import EpochLog, Loss, Training, fit


class Levels(nn.Module):
    """Nested `policies`, the smallest first, over one set of convolutions and linear layers.

    The set starts as the elastic model's, as wide as the largest of them; `elastic.original` is not changed. Raises
    `ValueError` for policies that are not nested.
    """

    def __init__(self, elastic: ElasticModel, policies: Sequence[PruningPolicy]) -> None:
        super().__init__()
        check_nested(policies)
        self.policies = tuple(policies)
        self._elastic = elastic.narrow(self.policies[-1])
        self.shared = self._elastic.original
        self.cuts = nn.ModuleList(self._elastic.cut(level) for level in self.policies)
        normalised = {name for name, module in self.shared.named_modules() if _is_norm(module)}
        self._sliced = tuple(
            name for name, _ in self.shared.named_parameters() if name.rpartition(".")[0] not in normalised
        )
        self.requires_grad_(True)  # whether or not the original was frozen
        for cut in self.cuts:  # what a cut has of these is never read: it computes with slices of the shared ones
            own = dict(cut.named_parameters())  # without those of branches that are gone
            for name in self._sliced:
                if name in own:
                    own[name].requires_grad_(False)

    def __len__(self) -> int:
        return len(self.cuts)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised to the logits (N, levels, classes) of every level, the smallest first."""
        answers = [functional_call(cut, self._slices(level), (images,)) for level, cut in enumerate(self.cuts)]
        return torch.stack(answers, dim=1)

    def extracted(self, level: int) -> nn.Module:
        """A level as a model of its own, in evaluation mode; it shares nothing."""
        model = copied(self.cuts[level])
        with torch.no_grad():
            for name, tensor in self._slices(level).items():
                model.get_parameter(name).copy_(tensor)
        model.eval()
        return model.requires_grad_(True)

    def recalibrate(self, images: Tensor, compute: Compute = HERE) -> None:
        """Give every level the BatchNorm statistics of `images` (N, C, H, W), in place."""
        for level, cut in enumerate(self.cuts):
            model = self.extracted(level)
            recalibrate_batchnorm(model, images, compute)
            buffers = dict(model.named_buffers())
            for name, buffer in cut.named_buffers():
                buffer.copy_(buffers[name])

    def _slices(self, level: int) -> dict[str, Tensor]:
        cut = self._elastic.cut_parameters(self.policies[level])
        return {name: cut[name] for name in self._sliced if name in cut}


def train_levels(
    levels: Levels,
    data: SearchData,
    *,
    teacher: Teacher,
    config: FinetuneConfig,
    learning_rate: float,
    seed: int,
    description: str = "levels",
    state_path: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> Levels:
    """Train all levels in every step, each taught by `teacher`, which is not changed.

    The state with the highest accuracy on the search split, a mean over the levels, is returned.
    """

    def score(model: nn.Module) -> float:
        return float(right_by_level(model, data.search, data).float().mean())

    training = Training(levels, data, levels_loss(teacher, config), score, seed, description)
    recipe = finetune_recipe(config, learning_rate=learning_rate, compute=teacher.compute)
    plan_path = None if state_path is None else state_path.with_suffix(".json")
    recipe = in_time(recipe, training, teacher=teacher, plan_path=plan_path)
    trained = fit(training, recipe, state_path=state_path, on_epoch=on_epoch)
    assert isinstance(trained, Levels)
    return trained


def levels_loss(teacher: Teacher, config: FinetuneConfig) -> Loss:
    """The distillation loss of a batch, a mean over the levels; the teacher is asked once for all of them."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        taught = teacher(batch)
        answers = model(batch.images).float().unbind(1)
        values = [taught_value(teacher.task, logits, taught, batch.labels, config) for logits in answers]
        return torch.stack(values).mean()

    return loss


def right_by_level(model: nn.Module, split: ImageSplit, data: SearchData) -> Tensor:
    """(levels, N) bool: which images each level classifies right."""
    named = outputs_of(model, split, data.info).argmax(2).T
    return named == split.labels


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)

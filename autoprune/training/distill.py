"""Fine-tuning a pruned model, taught by the original (Hinton et al. 2015; Zagoruyko & Komodakis 2017)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.compute.compute import HERE, Compute
from autoprune.config import FinetuneConfig
from autoprune.data import SearchData
from autoprune.pruning.elastic import changed_layers
from autoprune.pruning.forward_pass import watched
from autoprune.tasks.judging import targets_of
from autoprune.tasks.task import Task
from autoprune.training.batches import Batch
from autoprune.training.pace import in_time
from autoprune.training.scores import Judge
from autoprune.training.teacher import Teacher
from autoprune.training.train import EpochLog, FitRecipe, Loss, Settle, Training, cosine, fit, labelled_loss


def finetune(
    model: nn.Module,
    data: SearchData,
    *,
    teacher: Teacher,
    config: FinetuneConfig,
    learning_rate: float,
    seed: int,
    description: str = "fine-tuning",
    state_path: Path | None = None,
    plan_path: Path | None = None,
    until_epoch: int | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    settle: Settle | None = None,
) -> nn.Module:
    """Train `model`, a cut of the teacher's, and return the state that does best on the search split.

    Layers that lost channels learn `config.pruned_lr_factor` times faster. The teacher's model is not changed. With
    `until_epoch` it stops there; a later call with the same `state_path` goes on. What a time budget holds is planned
    once for all trainings with the same `plan_path`. `settle` is applied after each step.
    """
    pruned = changed_layers(teacher.model, model)
    factors = {
        name: config.pruned_lr_factor for name, _ in model.named_parameters() if name.rpartition(".")[0] in pruned
    }
    # Of the cut: a branch of the teacher's may be gone.
    layers = stage_layers(model, data.info.input_shape) if config.feature_weight > 0 else ()
    loss = distillation_loss(teacher, config, layers)
    score = Judge(data.search, data.info, teacher.task, original=teacher.model)
    training = Training(model, data, loss, score, seed, description, score.told)
    recipe = finetune_recipe(config, learning_rate=learning_rate, compute=teacher.compute, settle=settle)
    return fit(
        training,
        in_time(recipe, training, teacher=teacher, plan_path=plan_path),
        lr_factors=factors,
        state_path=state_path,
        until_epoch=until_epoch,
        on_epoch=on_epoch,
    )


def finetune_recipe(
    config: FinetuneConfig, *, learning_rate: float, compute: Compute = HERE, settle: Settle | None = None
) -> FitRecipe:
    """How the training loop fine-tunes with `config`, for its epochs or minutes, whichever are over first."""
    return FitRecipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=learning_rate,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        schedule=cosine,
        augmentation=config.augment,
        muon_step=config.muon_step,
        max_s=None if config.max_minutes is None else 60 * config.max_minutes,
        compute=compute,
        settle=settle,
    )


def distillation_loss(teacher: Teacher, config: FinetuneConfig, layers: Sequence[str] = ()) -> Loss:
    """(1 - w) * the task's loss + w * its distillation at temperature T + feature term over `layers`.

    Features are too large to keep: with `layers` the teacher is asked each time. With w = 0 and no `layers` it is not
    asked at all, where there are labels.
    """
    if config.distill_weight == 0 and not layers and teacher.task.needs_labels:
        return labelled_loss(teacher.task)
    answer = teacher.computed if layers else teacher

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with _features(teacher.model, layers) as taught:
            teacher_logits = answer(batch)
        with _features(model, layers) as learnt:
            logits = model(batch.images).float()
        value = taught_value(teacher.task, logits, teacher_logits, batch.labels, config)
        for layer in layers:
            value = value + config.feature_weight * attention_distance(learnt[layer], taught[layer])
        return value

    return loss


def taught_value(task: Task, outputs: Tensor, taught: Tensor, labels: Tensor, config: FinetuneConfig) -> Tensor:
    """The loss without its feature term, of float32 outputs (N, ...), the teacher's, and labels (N,)."""
    weight = config.distill_weight
    own = task.loss(outputs, targets_of(task, labels, taught), smoothing=0.0)
    return (1 - weight) * own + weight * task.distillation(outputs, taught, temperature=config.temperature)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the normalised attention maps of (N, C, H, W) features; the C may differ.

    Zagoruyko & Komodakis 2017, equation 2, with the sum of squares over channels as the map.
    """
    maps = [F.normalize(_energy(features).flatten(1), dim=1) for features in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def _energy(features: Tensor) -> Tensor:
    """(N, C, H, W) to the sum of squares over channels (N, H, W), float32: as a norm it is one pass, not four."""
    norms: Tensor = torch.linalg.vector_norm(features, dim=1, dtype=torch.float32)
    return norms.square()


def stage_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The last convolution or BatchNorm at each resolution: where stages end."""
    last: dict[tuple[int, ...], str] = {}
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    model.eval()
    with torch.no_grad(), _features(model, names) as features:
        model(torch.zeros(1, *input_shape))
    for name, output in features.items():
        last[tuple(output.shape[2:])] = name
    return tuple(last.values())


@contextmanager
def _features(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named layers, by name, in order of execution, while the block runs."""
    outputs: dict[str, Tensor] = {}
    modules = {layer: model.get_submodule(layer) for layer in layers}
    with watched(modules, lambda layer, _read, made: outputs.update({layer: made})):
        yield outputs

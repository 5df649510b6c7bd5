"""Training: one loop for baselines and fine-tuning, resumable after each epoch, bound by the network alone."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute.compute import HERE, Compute
from autoprune.compute.kernels.memory_format import laid_out
from autoprune.compute.kernels.muon import MuonSGD, hidden_convolutions
from autoprune.compute.threads import computing_with
from autoprune.config import AugmentConfig, TrainConfig
from autoprune.data import SearchData
from autoprune.errors import RunError
from autoprune.foundation.files import atomic_path
from autoprune.foundation.progress import bar
from autoprune.foundation.seeding import derive_seed
from autoprune.models.checkpoint import load_tensor_state, tensor_state
from autoprune.pruning.copies import copied
from autoprune.store.kept import Count, Finite, closed
from autoprune.store.score import told_merit
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.task import Task
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.scores import Judge

MOMENTUM = 0.9


# (model in training mode, batch) to a scalar loss.
Loss = Callable[[nn.Module, Batch], Tensor]
# Share of the steps done (0..1) to a share of the top learning rate (0..1).
Schedule = Callable[[float], float]
# Sets weights right in place after a step.
Settle = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Training:
    """What is trained, on which data, by which loss, and how each epoch is judged: the higher the score, the better."""

    model: nn.Module
    data: SearchData
    loss: Loss
    score: Callable[[nn.Module], float]
    seed: int
    description: str
    told: Callable[[float], str] = told_merit  # a score in words, as progress shows it


@dataclass(frozen=True)
class FitRecipe:
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    schedule: Schedule
    augmentation: AugmentConfig
    muon_step: float = 0.0  # at convolutions, of a weight's norm, instead of SGD's step
    max_s: float | None = None  # a time budget: the schedule runs out with it, if not with the epochs before
    compute: Compute = HERE
    settle: Settle | None = None
    threads: int | None = None  # None: as many as there are


@closed
@dataclass(frozen=True)
class EpochLog:
    epoch: Count
    train_loss: Finite
    search_accuracy: Finite  # the training's score: higher is better, whatever the task
    learning_rate: Finite


def one_cycle(share_done: float) -> float:
    """Linear warm-up over the first fifth from 1/25, then a cosine to zero (Smith & Topin 2018)."""
    warm_up = 0.2
    if share_done < warm_up:
        return 0.04 + 0.96 * share_done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (share_done - warm_up) / (1 - warm_up)))


def cosine(share_done: float) -> float:
    """A cosine from 1 to zero after a warm-up over the first twentieth, so that BatchNorm settles first."""
    warm_up = 0.05
    if share_done < warm_up:
        return (share_done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (share_done - warm_up) / (1 - warm_up)))


def labelled_loss(task: Task, *, smoothing: float = 0.0) -> Loss:
    """The task's own loss, of the labels of a batch."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model(batch.images).float(), batch.labels, smoothing=smoothing)

    return loss


def train_baseline(
    model: nn.Module,
    data: SearchData,
    config: TrainConfig,
    *,
    seed: int,
    task: Task = CLASSIFICATION,
    compute: Compute = HERE,
    state_path: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> nn.Module:
    """Train `model` in place from its present weights and return its best state on the search split.

    The task must be one with labels.
    """
    recipe = FitRecipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        schedule=one_cycle,
        augmentation=config.augment,
        compute=compute,
    )
    loss, judge = labelled_loss(task, smoothing=config.label_smoothing), Judge(data.search, data.info, task)
    training = Training(model, data, loss, judge, seed, "training", judge.told)
    return fit(training, recipe, state_path=state_path, on_epoch=on_epoch)


def fit(
    training: Training,
    recipe: FitRecipe,
    *,
    lr_factors: dict[str, float] | None = None,
    state_path: Path | None = None,
    until_epoch: int | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> nn.Module:
    """Train the model in place; return a copy with the weights (averaged, if EMA is on) that scored best.

    `lr_factors` multiplies the learning rate of the parameters named. With `state_path` the state is kept after each
    epoch, and a later call with the same path goes on from it, if it has the same recipe. `until_epoch` stops there, in
    the middle of the schedule, and returns what there is then.
    A time budget, of all calls together, makes the schedule depend on how fast the machine is, and so the outcome; a
    training that stops in the middle of it goes by its steps alone, so that it compares with others that do.
    `RunError` if the loss stops being finite.
    """
    model, data, seed, description = laid_out(training.model), training.data, training.seed, training.description
    optimizer = make_optimizer(model, recipe, data, lr_factors=lr_factors or {})
    averaged = copied(model)
    best = copied(model)
    first_epoch, spent_s = 0, 0.0
    best_accuracy: float | None = None
    logs: list[EpochLog] = []
    if state_path is not None and state_path.is_file():
        state = _load_state(state_path)
        load_tensor_state(model, state["model"])
        load_tensor_state(averaged, state["averaged"])
        load_tensor_state(best, state["best"])
        optimizer.load_state_dict(state["optimizer"])
        best_accuracy, first_epoch, spent_s = state["best_accuracy"], state["epoch"], state["spent_s"]
        logs = [EpochLog(**log) for log in state["logs"]]
        for log in logs:
            if on_epoch is not None:
                on_epoch(log)
    if best_accuracy is None:  # what there is before the first epoch counts too: training may only help
        best_accuracy = training.score(best)
    base_rates = [group["initial_lr"] for group in optimizer.param_groups]
    steps_per_epoch = steps_an_epoch(data, recipe)
    total_steps = recipe.epochs * steps_per_epoch
    stops_midway = until_epoch is not None and until_epoch < recipe.epochs
    started = time.perf_counter() - spent_s

    def share_done(step: int) -> float:
        timed = recipe.max_s is not None and not stops_midway
        by_time = (time.perf_counter() - started) / recipe.max_s if timed and recipe.max_s else 0.0
        return min(max(step / total_steps, by_time), 1.0)

    ready = recipe.compute.prepared_for_training(model)
    with bar(description, total_steps) as progress, ready, computing_with(recipe.threads):
        progress.advance(first_epoch * steps_per_epoch)
        for epoch in range(first_epoch, min(recipe.epochs, until_epoch or recipe.epochs)):
            torch.manual_seed(derive_seed(seed, f"epoch {epoch}"))  # dropout and the like
            model.train()
            loss_sum, step = 0.0, epoch * steps_per_epoch
            for batch in epoch_batches(data, recipe.augmentation, batch_size=recipe.batch_size, epoch=epoch, seed=seed):
                share = share_done(step)
                if share == 1.0:
                    break
                scale = recipe.schedule(share)
                for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = base_rate * scale
                step += 1
                # A short memory at first, so that the average does not drag the start along.
                decay = min(recipe.ema_decay, step / (step + 10))
                loss_sum += take_step(model, averaged, optimizer, training.loss, batch, decay, recipe)
                progress.advance(1, None)
            steps = step - epoch * steps_per_epoch
            if not steps:  # the time was over with the last epoch
                break
            if not math.isfinite(loss_sum):
                raise RunError(f"{description}: the loss is {loss_sum} in epoch {epoch + 1}; lower the learning rate")
            search_accuracy = training.score(averaged)
            if not math.isfinite(search_accuracy):
                raise RunError(
                    f"{description}: the score is {search_accuracy} after epoch {epoch + 1}; lower the learning rate"
                )
            if search_accuracy >= best_accuracy:
                best_accuracy = search_accuracy
                load_tensor_state(best, tensor_state(averaged))
            logs.append(EpochLog(epoch + 1, loss_sum / steps, search_accuracy, recipe.learning_rate * scale))
            progress.advance(0, f"epoch {epoch + 1}/{recipe.epochs} search {training.told(search_accuracy)}")
            if state_path is not None:
                _save_state(
                    state_path,
                    {
                        "epoch": epoch + 1,
                        "model": tensor_state(model),
                        "averaged": tensor_state(averaged),
                        "best": tensor_state(best),
                        "optimizer": optimizer.state_dict(),
                        "best_accuracy": best_accuracy,
                        "spent_s": time.perf_counter() - started,
                        "logs": [asdict(log) for log in logs],
                    },
                )
            if on_epoch is not None:
                on_epoch(logs[-1])
            if steps < steps_per_epoch:
                break
    found = best if until_epoch is None else averaged
    found.eval()
    return found


def make_optimizer(
    model: nn.Module, recipe: FitRecipe, data: SearchData, *, lr_factors: Mapping[str, float]
) -> MuonSGD:
    """SGD with momentum, or Muon's step where the recipe says so; at the recipe's top rate.

    One group for each (learning rate, decayed or not, SGD or Muon); vectors (biases, BatchNorm) are not decayed.
    """
    turned = hidden_convolutions(model, data.info.in_channels) if recipe.muon_step > 0 else frozenset[str]()
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        muon = name in turned
        rate = lr_factors.get(name, 1.0) * (recipe.muon_step if muon else recipe.learning_rate)
        groups.setdefault((rate, parameter.ndim > 1 and not muon, muon), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": rate,
            "initial_lr": rate,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "muon": muon,
        }
        for (rate, decayed, muon), parameters in groups.items()
    ]
    return MuonSGD(settings, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True)


def take_step(
    model: nn.Module,
    averaged: nn.Module,
    optimizer: MuonSGD,
    loss: Loss,
    batch: Batch,
    average_decay: float,
    recipe: FitRecipe,
) -> float:
    """One step of the optimizer and of the average, both in place; the loss."""
    with recipe.compute.fast_arithmetic():
        value = loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    _settle(model, recipe)
    _average(averaged, model, average_decay)
    _settle(averaged, recipe)
    return value.item()


def _settle(model: nn.Module, recipe: FitRecipe) -> None:
    if recipe.settle is not None:
        recipe.settle(model)


def spent_s(state_path: Path) -> float:
    """Seconds that the training of a state has taken so far; 0 if there is none."""
    return float(_load_state(state_path)["spent_s"]) if state_path.is_file() else 0.0


def steps_an_epoch(data: SearchData, recipe: FitRecipe) -> int:
    return max(1, len(data.train) // recipe.batch_size)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    ours, theirs = [], []
    state = tensor_state(model)
    for name, mean in tensor_state(averaged).items():
        value = state.get(name)
        if value is None or mean.shape != value.shape:  # extra state of a model's own, which has no average
            continue
        if mean.is_floating_point():
            ours.append(mean)
            theirs.append(value)
        else:
            mean.copy_(value)
    torch._foreach_lerp_(ours, theirs, 1.0 - decay)


def _save_state(path: Path, state: dict[str, object]) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load_state(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # the reader raises almost anything on broken bytes
        raise RunError(f"{path}: corrupt training state ({error}); delete it to start this training again") from None

"""What is asked of a model before any work: that it can be followed, and that its file answers as it does."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.compute.kernels.memory_format import keep_channels_first
from autoprune.config import RunConfig
from autoprune.data import SearchData, normalise
from autoprune.data.splits import stratified_indices
from autoprune.errors import ConfigError, InputError, ModelError, RunError
from autoprune.export.onnx_file import ONNX_RUNTIME, check_parity, export_onnx
from autoprune.foundation.progress import say
from autoprune.foundation.scratch import scratch_folder
from autoprune.models.stated_accuracy import stated_accuracy
from autoprune.models.weight_files import weights_path
from autoprune.pruning.copies import copied
from autoprune.pruning.cost import pair
from autoprune.pruning.groups import guessed_groups
from autoprune.pruning.plain import bake, check_module, own_copy
from autoprune.runtimes.find import find_runtime
from autoprune.search.reward import make_reward
from autoprune.tasks.judging import score_of, targets_of
from autoprune.tasks.task import Task
from autoprune.training.scores import Judge

JUDGED_IMAGES = 512
BY_LUCK = 2.0  # standard errors above guessing that a network which learnt nothing may reach
CLEARLY_BELOW = 0.5  # of what guessing gets right: whoever has that few has learnt something, about other classes
CLEARLY_WORSE = 0.05  # of all images; the search split is not the one that the checkpoint speaks of
BATCHES = (1, 2, 5, 16)  # of real images, the first of the search split


def made_plain(model: nn.Module) -> None:
    """In place: parametrisations are baked in and frozen parameters thawed, which is said; convolutions have pairs."""
    check_module(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            for field in ("stride", "dilation"):
                setattr(layer, field, pair(getattr(layer, field)))
            if not isinstance(layer.padding, str):
                layer.padding = pair(layer.padding)
    if baked := bake(model):
        say(f"parametrised weights are baked in, as they act: {_some(baked)}")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        model.requires_grad_(True)
        say(f"{len(frozen)} frozen parameters are thawed for fine-tuning: {_some(frozen)}")


def keep_its_format(model: nn.Module, data: SearchData) -> None:
    """A model that does not run with its channels last in memory is made to keep them first."""
    if not runs_channels_last(model, normalise(data.search.images[:2], data.info)):
        keep_channels_first(model)


def check_answers(model: nn.Module, data: SearchData, name: str) -> None:
    """Raise `ModelError` unless `model` can be followed and its exported file answers as it does, on real images.

    Several batch sizes are tried: code may have taken one for a number.
    """
    shown = normalise(data.search.images[: max(BATCHES)], data.info)
    _check_finite(model, shown, name)
    guessed_groups(model, (shown[:2],))
    check_training(model, shown, data.info.num_classes, name)
    keep_its_format(model, data)
    with scratch_folder() as folder:
        path = folder / "original.onnx"
        try:
            export_onnx(model, path, data.info)
        except RunError as error:
            raise ModelError(f"{name}: {_without(error, path)}; write it with operations that ONNX has") from None
        for size in BATCHES:
            _check_batch(model, path, shown[:size], name)


def runs_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether `model` runs on `images` (N, C, H, W), N > 1, when they and its weights are channels-last."""
    try:
        with torch.no_grad():
            copied(model).to(memory_format=torch.channels_last)(  # type: ignore[call-overload]
                images.contiguous(memory_format=torch.channels_last)
            )
    except Exception:  # the user's model may raise anything
        return False
    return True


def check_task_of(model: nn.Module, data: SearchData, task: Task, config: RunConfig) -> None:
    """Raise `InputError` unless the task judges what `model` puts out for real images by finite numbers, and the reward
    and the target can go by them."""
    some = data.search.select(torch.arange(min(max(BATCHES), len(data.search))))
    with torch.no_grad():
        outputs = model(normalise(some.images, data.info)).float()
    where = f"task={config.task}: cannot judge outputs {tuple(outputs.shape)}"
    try:
        score = score_of(task, outputs, outputs, some.labels)
        found = {name: metric.value for name, metric in score.metrics.items()}
        found["loss"] = float(task.loss(outputs, targets_of(task, some.labels, outputs), smoothing=0.0))
        if config.finetune.distill_weight > 0:
            found["distillation"] = float(task.distillation(outputs, outputs, temperature=config.finetune.temperature))
        if unsound := [f"{name} is {value}" for name, value in found.items() if not math.isfinite(value)]:
            raise InputError(f"task={config.task}: of the original itself the {', the '.join(unsound)}")
        where = f"search.reward.form={config.search.reward.form}: fails for a score of task={config.task}"
        make_reward(config.search.reward)(score, cost=0.5, original_cost=1.0)
    except InputError:
        raise
    except Exception as error:  # what is the user's own may raise anything
        raise InputError(f"{where} ({type(error).__name__}: {error})") from error
    name, metric = score.main
    if config.drop_target is not None and not metric.is_share:
        raise ConfigError(f"target.max_drop: is a share of the images, and {name} of task={config.task} is none")


def check_runtime(model: nn.Module, data: SearchData, config: RunConfig) -> None:
    """Raise `InputError` unless the runtime that files are measured in answers as `model` does, on real images."""
    if config.measure.runtime == ONNX_RUNTIME.name:  # as `check_answers` found
        return
    shown, runtime = normalise(data.search.images[: max(BATCHES)], data.info), find_runtime(config.measure.runtime)
    with scratch_folder() as folder, torch.random.fork_rng(devices=[]):
        path = folder / "original.onnx"
        export_onnx(model, path, data.info)
        try:
            for size in BATCHES:
                check_parity(model, path, shown[:size], runtime=runtime)
        except RunError as error:
            raise InputError(f"measure.runtime={config.measure.runtime}: {_without(error, path)}") from error


def _check_finite(model: nn.Module, images: Tensor, name: str) -> None:
    """Raise `ModelError` unless `model` answers `images` (N, C, H, W) with numbers whose squares are finite."""
    try:
        with torch.no_grad():
            answer = model(images)
    except Exception as error:  # the user's model may raise anything
        raise ModelError(f"{name}: does not take {len(images)} images of the data ({str(error)[:200]})") from None
    if not torch.isfinite(answer.square().sum()):
        raise ModelError(
            f"{name}: the model's answers are not finite on the data's images, or their squares are not; give weights "
            f"of a training that went well, and images normalised as in it (data.mean, data.std)"
        )


def check_training(model: nn.Module, images: Tensor, classes: int, name: str) -> None:
    """Raise `ModelError` unless a copy of `model` in training mode answers `images` (N, C, H, W) with (N, classes)."""
    with torch.random.fork_rng(devices=[]):
        try:
            trained = own_copy(model)
            trained.train()
            answer = trained(images)
        except Exception as error:  # the user's model may raise anything
            raise ModelError(
                f"{name}: does not run in training mode ({type(error).__name__}: {str(error)[:200]}); fine-tuning "
                f"needs a forward that takes images alone"
            ) from None
    if not isinstance(answer, Tensor) or answer.shape != (len(images), classes):
        given = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(
            f"{name}: answers {given} in training mode, not ({len(images)}, {classes}); take auxiliary heads off "
            f"(torchvision: aux_logits=False, aux_loss=None) and return the logits alone"
        )


def tell_accuracy(model: nn.Module, data: SearchData, checkpoint: str) -> None:
    """Say so if `model` does no better on the search split than guessing, or clearly worse than its checkpoint says.

    Raises `ModelError` if it does clearly worse than guessing: then its classes are not those of the data.
    """
    count = min(len(data.search), JUDGED_IMAGES)
    some = data.search.select(stratified_indices(data.search.labels, count, seed=0, purpose="judged"))  # in any order
    found = Judge(some, data.info)(model)
    if _tell_chance(found, some.labels, data.info.num_classes, checkpoint):
        return
    stated = stated_accuracy(weights_path(checkpoint))
    if stated is not None and found < stated - CLEARLY_WORSE:
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (data.info.mean, data.info.std))
        say(
            f"{checkpoint}: says {stated:.1%} of the images are right, on the search split it is {found:.1%}: was it "
            f"trained on other images, sizes or classes, or normalised otherwise than with data.mean=[{mean}] and "
            f"data.std=[{std}]?"
        )


def _tell_chance(found: float, labels: Tensor, classes: int, checkpoint: str) -> bool:
    """Whether the share `found` of the right answers to `labels` (N,) is one that guessing reaches; that is said."""
    count = len(labels)
    blind = 1 / classes
    commonest = int(torch.bincount(labels, minlength=classes).max()) / count
    chance = max(blind, commonest)
    if found < CLEARLY_BELOW * blind and found < blind - BY_LUCK * _standard_error(blind, count):
        raise ModelError(
            f"model.checkpoint={checkpoint}: is right on {found:.1%} of {count} images of the search split, guessing "
            f"on {blind:.1%}: its classes are not those of data.name, or in another order; give the data the order "
            f"that it was trained with, or a checkpoint of these classes"
        )
    if found > chance + BY_LUCK * _standard_error(chance, count):
        return False
    say(
        f"warning: {checkpoint}: is right on {found:.1%} of {count} images of the search split, no more than guessing "
        f"is ({chance:.1%}): it has learnt nothing of this data, and what is cut from it means as little; give "
        f"model.checkpoint weights that were trained on it, or none: a baseline is trained first"
    )
    return True


def _standard_error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _check_batch(model: nn.Module, path: Path, images: Tensor, name: str) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            check_parity(model, path, images)
    except RunError as error:
        raise ModelError(
            f"{name}: its exported file does not answer as it does on {len(images)} images ({_without(error, path)}): "
            f"control flow that depends on the input, or on the batch's size, cannot be exported; use tensor "
            f"operations, and x.shape[0] for len(x)"
        ) from None


def _without(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

"""Fine-tuning a pruned model, taught by the original (Hinton et al. 2015; Zagoruyko & Komodakis 2017)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.config import FinetuneConfig
from autoprune.data import Augmentation, SearchData
from autoprune.elastic import changed_layers
from autoprune.train import Batch, EpochLog, FitRecipe, Loss, cosine, fit


def finetune(
    model: nn.Module,
    data: SearchData,
    *,
    teacher: nn.Module,
    config: FinetuneConfig,
    learning_rate: float,
    seed: int,
    answers: "RememberedLogits | None" = None,
    description: str = "fine-tuning",
    state_path: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> nn.Module:
    """Train `model`, a cut of `teacher`, and return the state that does best on the search split.

    Layers that lost channels learn `config.pruned_lr_factor` times faster. The teacher is not changed. With
    `config.augmented_forms` its answers are kept, in `answers` if given: for several models tuned with equal seeds.
    """
    pruned = changed_layers(teacher, model)
    factors = {
        name: config.pruned_lr_factor for name, _ in model.named_parameters() if name.rpartition(".")[0] in pruned
    }
    recipe = finetune_recipe(config, epochs=config.epochs, learning_rate=learning_rate)
    layers = stage_layers(teacher, data.info.input_shape) if config.feature_weight > 0 else ()
    if answers is None and config.augmented_forms is not None:
        answers = RememberedLogits(teacher, images=len(data.train))
    return fit(
        model,
        data,
        loss=distillation_loss(teacher.eval(), config, layers, answers=answers),
        recipe=recipe,
        seed=seed,
        description=description,
        lr_factors=factors,
        state_path=state_path,
        on_epoch=on_epoch,
    )


def finetune_recipe(config: FinetuneConfig, *, epochs: int, learning_rate: float) -> FitRecipe:
    """How the training loop fine-tunes with `config`, for so many epochs."""
    return FitRecipe(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=learning_rate,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        schedule=cosine,
        augmentation=Augmentation(config.augment.crop_padding, config.augment.flip, config.augment.erase_size),
        augmented_forms=config.augmented_forms,
    )


def distillation_loss(
    teacher: nn.Module, config: FinetuneConfig, layers: Sequence[str] = (), *, answers: "RememberedLogits | None" = None
) -> Loss:
    """(1 - w) * cross-entropy + w * T^2 * KL(teacher || student at temperature T) + feature term over `layers`.

    With `answers` the teacher is asked once for each form of each image, which saves a third of a step when a form
    comes back. Features are too large to keep: with `layers` it is asked each time.
    """
    taught_logits = (lambda batch: teacher(batch.images)) if answers is None or layers else answers

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad(), _Features(teacher, layers) as taught:
            teacher_logits = taught_logits(batch).float()
        with _Features(model, layers) as learnt:
            logits = model(batch.images).float()
        value = taught_value(logits, teacher_logits, batch.labels, config)
        for layer in layers:
            value = value + config.feature_weight * attention_distance(learnt.outputs[layer], taught.outputs[layer])
        return value

    return loss


def taught_value(logits: Tensor, teacher_logits: Tensor, labels: Tensor, config: FinetuneConfig) -> Tensor:
    """The loss without its feature term, of float32 logits (N, classes) and labels (N,)."""
    weight, temperature = config.distill_weight, config.temperature
    # Hinton et al. 2015, section 2: gradients shrink with 1/T^2, so the term is multiplied by T^2.
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * temperature**2 * soft


class RememberedLogits:
    """What `model` answers to batches of a split of `images` images; each answer is computed once."""

    def __init__(self, model: nn.Module, *, images: int) -> None:
        self._model, self._images = model, images
        self._known: dict[int, Tensor] = {}  # for each form: which images (images,) bool
        self._logits: dict[int, Tensor] = {}  # and their logits (images, classes)

    def __call__(self, batch: Batch) -> Tensor:
        """(N, classes), of the type that the model gives."""
        known = self._known.setdefault(batch.form, torch.zeros(self._images, dtype=torch.bool))
        if not known[batch.indices].all():
            answers = self._model(batch.images)
            kept = self._logits.setdefault(batch.form, answers.new_zeros(self._images, answers.shape[1]))
            kept[batch.indices] = answers
            known[batch.indices] = True
        return self._logits[batch.form][batch.indices]


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the normalised attention maps of (N, C, H, W) features; the C may differ.

    Zagoruyko & Komodakis 2017, equation 2, with the sum of squares over channels as the map.
    """
    maps = [F.normalize(features.float().square().mean(1).flatten(1), dim=1) for features in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def stage_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The last convolution or BatchNorm at each resolution: where stages end."""
    last: dict[tuple[int, ...], str] = {}
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad(), _Features(model.eval(), names) as features:
        model(torch.zeros(1, *input_shape))
    for name, output in features.outputs.items():
        last[tuple(output.shape[2:])] = name
    return tuple(last.values())


class _Features:
    """The outputs of the named layers, by name, in order of execution, while the block runs."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._model, self._layers = model, layers
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "_Features":
        for layer in self._layers:
            module = self._model.get_submodule(layer)
            self._handles.append(
                module.register_forward_hook(lambda _module, _args, output, layer=layer: self._keep(layer, output))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, layer: str, output: Tensor) -> None:
        self.outputs[layer] = output

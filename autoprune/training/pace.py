"""How fast a training goes on this machine, and what of it a time budget holds: known before it begins."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import nn

from autoprune.data import SearchData
from autoprune.progress import duration, say
from autoprune.pruning.copies import copied
from autoprune.seeding import derive_seed
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.fast_batchnorm import fast_batchnorm
from autoprune.training.memory_format import laid_out
from autoprune.training.strided_convolution import safe_strided_convolutions
from autoprune.training.teacher import Teacher
from autoprune.training.train import FitRecipe, Loss, has_fast_bf16, steps_an_epoch

WARM_STEPS, TIMED_STEPS = 2, 5


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, forward and backward, and how many more one takes whose teacher has to be asked."""

    step_s: float
    asking_s: float = 0.0

    def epoch_s(self, steps: int, asked: float) -> float:
        """Of an epoch of so many steps, about this share of whose images the teacher is asked."""
        return steps * (self.step_s + asked * self.asking_s)


def pace_of(model: nn.Module, data: SearchData, loss: Loss, recipe: FitRecipe, *, seed: int) -> Pace:
    """Medians of a few steps, and of the same ones again, which a teacher has answered then; `model` is not changed.

    Batches are others than those of the training, of which a teacher may have answered some already.
    """
    model = laid_out(copied(model))
    model.train()

    def batches() -> Iterator[Batch]:
        other = derive_seed(seed, "pace")
        every = epoch_batches(data, recipe.augmentation, batch_size=recipe.batch_size, epoch=0, seed=other)
        return islice(every, WARM_STEPS + TIMED_STEPS)

    with fast_batchnorm(model), safe_strided_convolutions(model):
        first, again = (_step_s(model, batches(), loss) for _ in range(2))
    return Pace(again, max(0.0, first - again))


def _step_s(model: nn.Module, batches: Iterator[Batch], loss: Loss) -> float:
    """The median, from batch to batch: drawing and augmenting them is part of a step."""
    times_s = []
    started = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
            value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        now = time.perf_counter()
        times_s.append(now - started)
        started = now
    return statistics.median(times_s[WARM_STEPS:] or times_s)


def in_time(
    recipe: FitRecipe,
    model: nn.Module,
    data: SearchData,
    loss: Loss,
    *,
    teacher: Teacher,
    seed: int,
    description: str,
) -> FitRecipe:
    """The recipe with the epochs that its time holds, and a top learning rate for so few; as it is where all fit.

    A schedule cut short at the learning rate of a long one leaves a cut worse than it could be: ResNet-20 at half its
    latency loses 0.59 points after two epochs at 0.1, and 0.39 at 0.03 (Fashion-MNIST, ten views of the search split).
    The rate goes with the root of the share of the steps. Muon's steps (`muon_step`) stay as they are. Epochs take less
    and less where the `teacher` has answered ever more.
    """
    if recipe.max_s is None or recipe.epochs == 0:
        return recipe
    pace = pace_of(model, data, loss, recipe, seed=seed)
    asked = teacher.to_be_asked(
        data, recipe.augmentation, batch_size=recipe.batch_size, epochs=recipe.epochs, seed=seed
    )
    epochs_s = [pace.epoch_s(steps_an_epoch(data, recipe), share) for share in asked]
    held = epochs_held(epochs_s, recipe.max_s)
    if held >= recipe.epochs:
        return recipe
    rate = recipe.learning_rate * math.sqrt(held / recipe.epochs)
    say(
        f"{description}: an epoch takes about {duration(statistics.fmean(epochs_s))} here, {duration(recipe.max_s)} "
        f"hold {held:.1f} of {recipe.epochs}; the learning rate for so few is {rate:.2g}"
    )
    return replace(recipe, epochs=math.ceil(held), learning_rate=rate)


def epochs_held(epochs_s: Sequence[float], max_s: float) -> float:
    """How many of epochs that take so long fit into `max_s`, the last one in part."""
    left_s = max_s
    for number, epoch_s in enumerate(epochs_s):
        if epoch_s > left_s:
            return number + left_s / epoch_s
        left_s -= epoch_s
    return float(len(epochs_s))

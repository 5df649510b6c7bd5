"""How fast a training goes on this machine, and what of it a time budget holds: known before it begins."""

import math
import statistics
import time
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from autoprune.data import SearchData
from autoprune.progress import duration, say
from autoprune.pruning.copies import copied
from autoprune.seeding import derive_seed
from autoprune.training.batches import epoch_batches
from autoprune.training.fast_batchnorm import fast_batchnorm
from autoprune.training.memory_format import laid_out
from autoprune.training.strided_convolution import safe_strided_convolutions
from autoprune.training.train import FitRecipe, Loss, has_fast_bf16, steps_an_epoch

WARM_STEPS, TIMED_STEPS = 2, 5


def seconds_a_step(model: nn.Module, data: SearchData, loss: Loss, recipe: FitRecipe, *, seed: int) -> float:
    """The median time of a step, forward, backward and with its teacher; `model` is not changed.

    Batches are others than those of the training: a teacher may have answered to these already, for another one.
    """
    model = laid_out(copied(model))
    model.train()
    batches = epoch_batches(
        data, recipe.augmentation, batch_size=recipe.batch_size, epoch=0, seed=derive_seed(seed, "pace")
    )
    times_s = []
    with fast_batchnorm(model), safe_strided_convolutions(model):
        started = time.perf_counter()
        for batch in islice(batches, WARM_STEPS + TIMED_STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
                value = loss(model, batch)
            value.backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
            now = time.perf_counter()
            times_s.append(now - started)
            started = now
    return statistics.median(times_s[WARM_STEPS:] or times_s)


def in_time(
    recipe: FitRecipe, model: nn.Module, data: SearchData, loss: Loss, *, seed: int, description: str
) -> FitRecipe:
    """The recipe with the epochs that its time holds, and a top learning rate for so few; as it is where all fit.

    A schedule cut short at the learning rate of a long one leaves a cut worse than it could be: ResNet-20 at half its
    latency loses 0.59 points after two epochs at 0.1, and 0.39 at 0.03 (Fashion-MNIST, ten views of the search split).
    The rate goes with the root of the share of the steps. Muon's steps (`muon_step`) stay as they are.
    """
    if recipe.max_s is None or recipe.epochs == 0:
        return recipe
    epoch_s = seconds_a_step(model, data, loss, recipe, seed=seed) * steps_an_epoch(data, recipe)
    share = recipe.max_s / (epoch_s * recipe.epochs)
    if share >= 1:
        return recipe
    rate = recipe.learning_rate * math.sqrt(share)
    say(
        f"{description}: an epoch takes about {duration(epoch_s)} here, {duration(recipe.max_s)} hold "
        f"{share * recipe.epochs:.1f} of {recipe.epochs}; the learning rate for so few is {rate:.2g}"
    )
    return replace(recipe, epochs=math.ceil(share * recipe.epochs), learning_rate=rate)

"""How fast a training goes on this machine, and what of it a time budget holds: known before it begins."""

import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoprune.compute.kernels.memory_format import laid_out
from autoprune.compute.threads import computing_with, fewer_threads
from autoprune.errors import RunError
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.progress import duration, say
from autoprune.foundation.seeding import derive_seed
from autoprune.pruning.copies import copied
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.teacher import Teacher
from autoprune.training.train import FitRecipe, Training, make_optimizer, steps_an_epoch, take_step

WARM_STEPS, TIMED_STEPS = 2, 5
CLEARLY_MORE = 1.05  # of the epochs that all threads do; what is nearer to it is noise


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, how many more one takes whose teacher has to be asked, and those of judging an epoch."""

    step_s: float
    asking_s: float = 0.0
    judging_s: float = 0.0

    def epoch_s(self, steps: int, asked: float) -> float:
        """Of an epoch of so many steps, about this share of whose images the teacher is asked."""
        return steps * (self.step_s + asked * self.asking_s) + self.judging_s


class Plan(BaseModel):
    """What a time budget holds of a training: kept in a file, so that a training that is stopped, and others that are
    compared with it, go by the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=0, strict=True)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    threads: int | None = Field(default=None, gt=0, strict=True)  # None: as many as there are


def in_time(recipe: FitRecipe, training: Training, *, teacher: Teacher, plan_path: Path | None = None) -> FitRecipe:
    """The recipe with the epochs that its time holds, and a top learning rate for so few; as it is where all fit.

    A schedule cut short at the learning rate of a long one leaves a cut worse than it could be: ResNet-20 at half its
    latency loses 0.59 points after two epochs at 0.1, and 0.39 at 0.03 (Fashion-MNIST, ten views of the search split).
    The rate goes with the root of the share of the steps. Muon's steps (`muon_step`) stay as they are. Epochs take less
    and less where the `teacher` has answered ever more. Where a neighbour holds up one of the threads, and not all
    epochs fit, fewer threads may do more of them, and are taken. A plan in `plan_path` is followed, a new one is kept
    there; `RunError` if the file holds none.
    """
    if recipe.max_s is None or recipe.epochs == 0:
        return recipe
    if plan_path is not None and plan_path.is_file():
        plan = _read_plan(plan_path)
    else:
        held, threads = _held(training, recipe, teacher), None
        if held < recipe.epochs:
            for fewer in fewer_threads():
                with computing_with(fewer):
                    others_held = _held(training, recipe, teacher)
                if others_held > CLEARLY_MORE * held:
                    held, threads = others_held, fewer
        rate = recipe.learning_rate * math.sqrt(held / recipe.epochs)
        plan = Plan(epochs=math.ceil(held), learning_rate=rate, threads=threads)
        if held < recipe.epochs:
            by = "" if threads is None else f" with {threads} of {torch.get_num_threads()} threads"
            say(
                f"{training.description}: an epoch takes about {duration(recipe.max_s / held)} here{by}, "
                f"{duration(recipe.max_s)} hold {held:.1f} of {recipe.epochs}; the learning rate for so few is "
                f"{plan.learning_rate:.2g}"
            )
        if plan_path is not None:
            write_json(plan_path, plan.model_dump())
    there = torch.get_num_threads()
    threads = plan.threads if plan.threads is not None and plan.threads < there else None  # a plan may be of elsewhere
    return replace(recipe, epochs=plan.epochs, learning_rate=plan.learning_rate, threads=threads)


def pace_of(training: Training, recipe: FitRecipe, *, teacher: Teacher) -> Pace:
    """Medians of a few steps for which the `teacher` is asked, and of the same ones again, which it has answered then,
    and the time of one score; the model is not changed."""
    model, averaged, data = laid_out(copied(training.model)), copied(training.model), training.data
    optimizer = make_optimizer(model, recipe, data, lr_factors={})
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model.train()

    def batches() -> Iterator[Batch]:
        other = derive_seed(training.seed, "pace")
        epochs = (
            epoch_batches(data, recipe.augmentation, batch_size=recipe.batch_size, epoch=epoch, seed=other)
            for epoch in itertools.count()
        )
        return itertools.islice(itertools.chain.from_iterable(epochs), WARM_STEPS + TIMED_STEPS)

    def step_s() -> float:
        """The median, from batch to batch: drawing and augmenting them is part of a step."""
        times_s = []
        started = time.perf_counter()
        for batch in batches():
            take_step(model, averaged, optimizer, training.loss, batch, recipe.ema_decay, recipe)
            now = time.perf_counter()
            times_s.append(now - started)
            started = now
        return statistics.median(times_s[WARM_STEPS:])

    with recipe.compute.prepared_for_training(model):
        with teacher.asking_anew():
            first = step_s()
        again = step_s()
    started = time.perf_counter()
    training.score(averaged)
    return Pace(again, max(0.0, first - again), time.perf_counter() - started)


def epochs_held(epochs_s: Iterable[float], max_s: float) -> float:
    """How many of epochs that take so long fit into `max_s`, the last one in part; those after it are not asked for."""
    held, left_s = 0, max_s
    for epoch_s in epochs_s:
        if epoch_s > left_s:
            return held + left_s / epoch_s
        held, left_s = held + 1, left_s - epoch_s
    return float(held)


def _held(training: Training, recipe: FitRecipe, teacher: Teacher) -> float:
    """How many epochs the time holds at the pace that is measured now."""
    pace, steps = pace_of(training, recipe, teacher=teacher), steps_an_epoch(training.data, recipe)
    asked = teacher.to_be_asked(
        training.data, recipe.augmentation, batch_size=recipe.batch_size, epochs=recipe.epochs, seed=training.seed
    )
    return epochs_held((pace.epoch_s(steps, share) for share in asked), recipe.max_s or math.inf)


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate(read_json(path))
    except ValidationError:
        raise RunError(f"{path}: corrupt plan of a training; delete it to have it made anew") from None

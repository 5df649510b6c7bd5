"""A task by name, and what it says of outputs: per example, and as a score."""

import inspect
import math

import torch
from torch import Tensor

from autoprune.errors import InputError, shown
from autoprune.foundation.factories import check_call, load_factory
from autoprune.store.score import DIVERGENCE, ROUNDING, Metric, Score
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.task import PerExample, Task

FIELD = "task"
TASKS: dict[str, Task] = {"classification": CLASSIFICATION}


def make_task(name: str) -> Task:
    """One of `TASKS`, or what a user's own `path/file.py:factory` gives. Raises `InputError` for a file that gives no
    task."""
    if name in TASKS:
        return TASKS[name]
    where = f"{FIELD}={name}"
    factory = load_factory(name, field=FIELD)
    check_call(factory, field=where)
    task: Task = factory()
    if (fault := fault_of(task)) is not None:
        raise InputError(f"{where}: {fault}")
    return task


def fault_of(task: object) -> str | None:
    """What `task` lacks of a task; None for one."""
    if not isinstance(getattr(task, "needs_labels", None), bool):
        return f"{shown(task)} is no task: it must say needs_labels, True or False"
    for method, named in (
        ("loss", ("smoothing",)),
        ("divergence", ()),
        ("metrics", ()),
        ("distillation", ("temperature",)),
    ):
        found = getattr(task, method, None)
        if not callable(found):
            return f"{shown(task)} is no task: it has no method {method}"
        try:
            inspect.signature(found).bind(None, None, **dict.fromkeys(named, 0.0))
        except TypeError as error:
            return f"{method}: cannot be called with two tensors{''.join(f' and {name}' for name in named)} ({error})"
    return None


def targets_of(task: Task, labels: Tensor, original: Tensor) -> Tensor:
    """What outputs are judged by: the labels (N,), or the outputs of the original (N, ...)."""
    return labels if task.needs_labels else original


def main_metric(task: Task, outputs: Tensor, targets: Tensor) -> tuple[str, PerExample]:
    """The metric that is reported, by name. Raises `InputError` if the task gives none for each example."""
    return next(iter(checked_metrics(task, outputs, targets).items()))


def checked_metrics(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, PerExample]:
    """All metrics of `outputs`. Raises `InputError` unless there is one or more, with a value for each example."""
    found = dict(task.metrics(outputs, targets))
    for name, metric in found.items():
        if not isinstance(name, str) or not name or name == DIVERGENCE or not isinstance(metric, PerExample):
            raise InputError(f"{FIELD}: metrics must give a PerExample by name, gave {shown(name)}: {shown(metric)}")
        _check_each(f"the metric {name}", metric.values, len(outputs))
        if not metric.higher_is_better and bool((metric.values < -ROUNDING).any()):
            raise InputError(f"{FIELD}: the metric {name} is a loss, and below 0 for some examples; shift or turn it")
    if not found:
        raise InputError(f"{FIELD}: metrics gave none; one at least is needed")
    return found


def score_of(task: Task, outputs: Tensor, original: Tensor, labels: Tensor) -> Score:
    """A complete score from the outputs for n examples, the original's, and their labels (n,).

    Raises `InputError` for what a user's task gives wrong.
    """
    divergence = task.divergence(outputs, original)
    _check_each("divergence", divergence, len(outputs))
    away = metric_of(PerExample(divergence, higher_is_better=False))
    metrics = {DIVERGENCE: Metric(max(away.value, 0.0), away.standard_error, higher_is_better=False)}
    for name, found in checked_metrics(task, outputs, targets_of(task, labels, original)).items():
        metrics[name] = metric_of(found)
    return Score(metrics, images=len(outputs))


def metric_of(found: PerExample) -> Metric:
    """The mean with its standard error."""
    mean, count = mean_of(found.values), len(found.values)
    if found.is_share:
        return Metric(mean, math.sqrt(mean * (1.0 - mean) / count), found.higher_is_better, is_share=True)
    error = found.values.std().item() / math.sqrt(count) if count > 1 else 0.0
    return Metric(mean, error, found.higher_is_better)


def mean_of(values: Tensor) -> float:
    """The mean of numbers, or the share that is true."""
    return int(values.sum()) / len(values) if values.dtype == torch.bool else values.mean().item()


def merits_of(found: PerExample) -> Tensor:
    """The values, with a sign that makes higher ones better: bool, or double."""
    if found.higher_is_better:
        return found.values
    return -found.values.double()


def _check_each(name: str, values: object, count: int) -> None:
    given = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
    if not isinstance(values, torch.Tensor) or values.shape != (count,):
        raise InputError(f"{FIELD}: {name} must be a tensor ({count},), one value for each example, got {given}")
    if values.dtype != torch.bool and not values.dtype.is_floating_point:
        raise InputError(f"{FIELD}: {name} must be bool (right or wrong) or floating point, got {values.dtype}")

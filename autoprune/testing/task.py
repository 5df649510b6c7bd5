"""The contract of a task."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from autoprune.errors import InputError
from autoprune.tasks.judging import checked_metrics, fault_of, merits_of, targets_of
from autoprune.tasks.task import Task
from autoprune.testing.errors import ContractError

EXAMPLES, CLASSES = 24, 5
NEAR = 1e-4  # what rounding may change


def check_task(make: Callable[[], Task], *, outputs: Tensor | None = None, labels: Tensor | None = None) -> None:
    """A task's divergence is 0 for the same outputs and never below; its losses are finite, can be differentiated and
    are lower for better outputs, whose metrics are no worse; each example is judged by itself, and nothing is kept.

    It is tried on `outputs` (N, ...) that are good ones for `labels` (N,), no two neighbours alike: without them, on
    logits of five classes.
    """
    task = make()
    if (fault := fault_of(task)) is not None:
        raise ContractError(fault)
    is_own = outputs is not None
    if outputs is None or labels is None:
        labels = torch.arange(EXAMPLES) % CLASSES
        noise = torch.randn(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(0))
        outputs, is_own = noise + 4.0 * F.one_hot(labels, CLASSES), False
    before = outputs.clone()
    off = outputs + 0.3 * outputs.roll(1, 0)
    first = _judged(task, off, outputs, labels)
    _check_divergence(task, outputs)
    _check_losses(task, outputs, labels)
    if task.needs_labels and not is_own:
        _check_mixed(task, outputs, labels)
    _check_direction(task, outputs, labels)
    if not outputs.equal(before):
        raise ContractError("outputs: were changed in place")
    for other, when in ((task, "the second time"), (make(), "made anew")):
        for name, values in _judged(other, off, outputs, labels).items():
            if not torch.equal(values, first[name]):
                raise ContractError(f"{name}: {when} it gave other values; a task keeps nothing between calls")
    # Each in another order, and without the others.
    for places in (torch.randperm(len(off), generator=torch.Generator().manual_seed(1)), torch.arange(len(off) // 2)):
        for name, values in _judged(task, off[places], outputs[places], labels[places]).items():
            if not torch.allclose(values.double(), first[name][places].double(), rtol=NEAR, atol=NEAR):
                raise ContractError(f"{name}: an example's value must not depend on the others, or on their order")


def _judged(task: Task, off: Tensor, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """All that a task says of each example: of outputs (N, ...) that are a little `off` those of the original."""
    try:
        metrics = checked_metrics(task, off, targets_of(task, labels, outputs))
    except InputError as error:
        raise ContractError(str(error)) from None
    found = {"divergence": task.divergence(off, outputs)} | {name: metric.values for name, metric in metrics.items()}
    if (shape := tuple(found["divergence"].shape)) != (len(outputs),):
        raise ContractError(f"divergence: must give ({len(outputs)},), one value for each example, gave {shape}")
    for name, values in found.items():
        is_loss = name == "divergence" or not metrics[name].higher_is_better
        if not torch.isfinite(values.double()).all():
            raise ContractError(f"{name}: is not finite")
        if is_loss and bool((values.double() < -NEAR).any()):
            raise ContractError(f"{name}: lower is better, so that it is a loss; {values.min():.3g} is below 0")
    return found


def _check_divergence(task: Task, outputs: Tensor) -> None:
    same, other = task.divergence(outputs, outputs), task.divergence(outputs.roll(1, 0), outputs)
    if same.abs().max() > NEAR:
        raise ContractError(f"divergence: must be 0 for the same outputs, was up to {same.abs().max():.3g}")
    if other.min() < -NEAR or other.mean() <= same.mean() + NEAR:
        raise ContractError(
            f"divergence: must be above 0 for other outputs, and nowhere below; had a mean of {other.mean():.3g} and a "
            f"least value of {other.min():.3g}"
        )


def _check_losses(task: Task, outputs: Tensor, labels: Tensor) -> None:
    """Each is lower for good outputs than for those of the neighbours, and a small step down its gradient lowers it."""
    targets = targets_of(task, labels, outputs)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "loss": lambda given: task.loss(given, targets, smoothing=0.0),
        "loss with smoothing": lambda given: task.loss(given, targets, smoothing=0.1),
        "distillation": lambda given: task.distillation(given, outputs, temperature=1.0),
        "distillation at a temperature of 4": lambda given: task.distillation(given, outputs, temperature=4.0),
    }
    for name, loss in losses.items():
        poor = outputs.roll(1, 0).requires_grad_(True)
        value = loss(poor)
        if value.shape != () or not torch.isfinite(value):
            raise ContractError(f"{name}: must be a finite scalar, gave {value.detach()}")
        if not value.requires_grad:
            raise ContractError(f"{name}: has no gradient")
        (gradient,) = torch.autograd.grad(value, poor)
        if not torch.isfinite(gradient).all() or not gradient.any():
            raise ContractError(f"{name}: its gradient at poor outputs is 0 or not finite")
        lower = loss(poor.detach() - 0.01 * gradient / gradient.norm())
        if not (lower < value and loss(outputs) < value):
            raise ContractError(
                f"{name}: must be lower for better outputs; {value:.4g} for poor ones, {lower:.4g} a step down its "
                f"gradient, {loss(outputs):.4g} for good ones"
            )
        shuffled = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(1))
        if name == "loss" and not torch.isclose(
            task.loss(outputs[shuffled], targets[shuffled], smoothing=0.0), loss(outputs), rtol=NEAR, atol=NEAR
        ):
            raise ContractError("loss: must not depend on the order of the examples")


def _check_direction(task: Task, outputs: Tensor, labels: Tensor) -> None:
    targets = targets_of(task, labels, outputs)
    good, poor = (checked_metrics(task, given, targets) for given in (outputs, outputs.roll(1, 0)))
    for place, (name, metric) in enumerate(good.items()):
        better, worse = (merits_of(one).double().mean().item() for one in (metric, poor[name]))
        if better < worse or (place == 0 and better == worse):
            way = "higher" if metric.higher_is_better else "lower"
            raise ContractError(
                f"{name}: says {way} is better, and poor outputs do not do worse ({worse:.3g}, {better:.3g})"
            )


def _check_mixed(task: Task, outputs: Tensor, labels: Tensor) -> None:
    """Labels of mixed images are shares of the classes."""
    try:
        mixed = task.loss(outputs, F.one_hot(labels, CLASSES).float(), smoothing=0.0)
    except Exception as error:
        raise ContractError(f"loss: fails for labels of mixed images, shares of the classes ({error!r})") from error
    if not torch.isclose(mixed, task.loss(outputs, labels, smoothing=0.0), rtol=NEAR, atol=NEAR):
        raise ContractError("loss: must be the same for labels and for shares that are all of one class")

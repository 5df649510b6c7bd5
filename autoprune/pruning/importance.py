"""How much each channel of a group matters: higher scores are kept longer."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from autoprune.errors import InputError, ModelError
from autoprune.foundation.factories import check_call, load_factory
from autoprune.pruning.copies import copied
from autoprune.pruning.elastic import sliced_tensors
from autoprune.pruning.groups import Member, PrunableGroup
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import targets_of
from autoprune.tasks.task import Task

# (model whose parameters carry gradients if the criterion needs them, group) to scores (channels,).
Importance = Callable[[nn.Module, PrunableGroup], Tensor]

TAYLOR_BATCH = 256
FIELD = "search.importance"


def l2_norm(model: nn.Module, group: PrunableGroup) -> Tensor:
    """L2 norm of all the weights that make a channel, over the coupled layers (Li et al. 2017 use L1 of one layer)."""
    squares = torch.zeros(group.channels)
    for member, weight in _producers(model, group):
        squares += _to_root(weight.flatten(1).square().sum(1), member, group.channels)
    return squares.sqrt()


def bn_scale(model: nn.Module, group: PrunableGroup) -> Tensor:
    """Sum of |gamma| over the group's BatchNorms (Liu et al. 2017, network slimming); L2 norm where there is none."""
    scores = torch.zeros(group.channels)
    found = False
    for member in group.members:
        module = None if member.axis.startswith("dim") else model.get_submodule(member.module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            scores += _to_root(module.weight.detach().float().abs(), member, group.channels)
            found = True
    return scores if found else l2_norm(model, group)


def taylor(model: nn.Module, group: PrunableGroup) -> Tensor:
    """(sum of weight x gradient)^2 of the weights that make a channel (Molchanov et al. 2019, equation 8)."""
    scores = torch.zeros(group.channels)
    for member, weight in _producers(model, group, with_gradient=True):
        scores += _to_root(weight.flatten(1).sum(1), member, group.channels)
    return scores.square()


IMPORTANCES: dict[str, Importance] = {"l2": l2_norm, "bn_scale": bn_scale, "taylor": taylor}


def rank_channels(
    model: nn.Module, groups: tuple[PrunableGroup, ...], criterion: str, *, images: Tensor, labels: Tensor
) -> dict[str, tuple[int, ...]]:
    """The channels of each group by `score_channels`, most important first; ties keep their order."""
    return ranking_of(score_channels(model, groups, criterion, images=images, labels=labels))


def score_channels(
    model: nn.Module,
    groups: tuple[PrunableGroup, ...],
    criterion: str,
    *,
    images: Tensor,
    labels: Tensor,
    task: Task = CLASSIFICATION,
) -> dict[str, Tensor]:
    """The scores (channels,) of each group, finite and not negative.

    `criterion` is one of `IMPORTANCES`, or a user's own `path/file.py:function`. `images` (N, C, H, W), normalised, and
    `labels` (N,) feed the gradients of the task's loss, for "taylor" and a user's; the model is left untouched.
    Raises `ModelError` for weights that are not finite, `InputError` for a file that gives no scores.
    """
    importance = find_importance(criterion)
    is_own = criterion not in IMPORTANCES
    if is_own or importance is taylor:
        model = _with_gradients(model, images, labels, task)
    if is_own:
        where = f"{FIELD}={criterion}"
        return {group.name: checked_scores(importance(model, group), group, where=where) for group in groups}
    scored = {group.name: importance(model, group) for group in groups}
    for name, scores in scored.items():
        if not torch.isfinite(scores).all():
            raise ModelError(f"group {name}: its weights are not finite; is the checkpoint broken?")
    return scored


def find_importance(criterion: str) -> Importance:
    """One of `IMPORTANCES`, or a user's own `path/file.py:function`. Raises `InputError` for a file that has none."""
    if criterion in IMPORTANCES:
        return IMPORTANCES[criterion]
    own: Importance = load_factory(criterion, field=FIELD)
    check_call(own, nn.Module, PrunableGroup, field=f"{FIELD}={criterion}")
    return own


def checked_scores(scores: object, group: PrunableGroup, *, where: str) -> Tensor:
    """What a user's own criterion gave, float32. Raises `InputError` unless it is a finite number of 0 or more for each
    channel."""
    if not isinstance(scores, Tensor) or scores.shape != (group.channels,):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"{where}: gave {shape} for group {group.name}, must give a tensor ({group.channels},)")
    plain = scores.detach().float()
    if not torch.isfinite(plain).all() or (plain < 0).any():
        raise InputError(f"{where}: gave a score for group {group.name} that is negative or not finite")
    return plain


def ranking_of(scored: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The channels of each group, those with the highest scores first; ties keep their order."""
    return {
        name: tuple(torch.argsort(scores, descending=True, stable=True).tolist()) for name, scores in scored.items()
    }


def lost_importance(scores: Tensor, widths: Sequence[int]) -> tuple[float, ...]:
    """The share of a group's importance, 0..1, that is gone when the best `widths` of its channels stay.

    Scores are divided by their mean, so that groups compare (as in Torch-Pruning; Fang et al. 2023, section 3.3), and
    summed over the removed channels, then divided by the group's channels. Scores of 0 alone make all channels equal.
    """
    ascending = scores.double().sort().values
    if ascending[-1] == 0.0:
        ascending = torch.ones_like(ascending)
    gone = torch.cat([torch.zeros(1, dtype=torch.float64), ascending.cumsum(0)]) / ascending.sum()  # (channels + 1,)
    return tuple(float(gone[len(scores) - width]) for width in widths)


def _producers(model: nn.Module, group: PrunableGroup, *, with_gradient: bool = False) -> list[tuple[Member, Tensor]]:
    """The group's layers that make its channels, with their weights (C_out, ...), or weight x gradient."""
    found = []
    seen = set()
    for member in group.members:
        if member.axis not in ("out", "dim0"):
            continue
        for tensor, dim in sliced_tensors(model, member.module, member.axis):
            if tensor.dim() < 2 or id(tensor) in seen:  # a tied weight counts once
                continue
            seen.add(id(tensor))
            weight = tensor.detach().float()
            if with_gradient:
                weight = torch.zeros_like(weight) if tensor.grad is None else weight * tensor.grad
            found.append((member, weight.movedim(dim, 0)))
    return found


def _to_root(local_scores: Tensor, member: Member, channels: int) -> Tensor:
    return torch.zeros(channels).index_add_(0, torch.tensor(member.root), local_scores[list(member.local)])


def _with_gradients(model: nn.Module, images: Tensor, labels: Tensor, task: Task) -> nn.Module:
    model = copied(model)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for batch, truth in zip(torch.split(images, TAYLOR_BATCH), torch.split(labels, TAYLOR_BATCH), strict=True):
        outputs = model(batch)
        loss = task.loss(outputs, targets_of(task, truth, outputs.detach()), smoothing=0.0) * (len(batch) / len(images))
        loss.backward()  # type: ignore[no-untyped-call]
    return model

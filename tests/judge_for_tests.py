"""Whether a cut is right, without believing what made it: kept channels are looked up by their values.

All weights are random and distinct. What a cut left out is set to zero in a copy of the original, and both must answer
alike, on two batches of other sizes.
"""

import copy
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

ALIKE = 1e-4  # of the spread of an output


def with_distinct_values(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and statistics, no two numbers of a tensor alike; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    statistics = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
    scales = {id(norm.weight) for norm in norms} | {id(norm.running_var) for norm in norms}
    with torch.no_grad():
        for tensor in (*model.parameters(), *(one for one in statistics if one is not None)):
            size = math.prod(tensor.shape[1:]) or 1
            order = torch.randperm(tensor.numel(), generator=generator).view(tensor.shape)
            even = (order + 0.7) / tensor.numel()  # 0..1, all different
            if id(tensor) in scales or tensor.dim() == 0:
                tensor.copy_(even + 0.5)
            else:
                tensor.copy_((even - 0.5) * (12 / size) ** 0.5)
    return model.eval()


def kept_indices(original: Tensor, cut: Tensor) -> list[Tensor]:
    """For each dimension the indices of `original` that `cut` kept; fails if it is no selection of it."""
    values = original.flatten().tolist()
    often = Counter(values)
    places = {value: place for place, value in enumerate(values) if often[value] == 1}  # masks make zeros
    found = torch.tensor([places.get(value, -1) for value in cut.flatten().tolist()]).view(cut.shape)
    kept, selected = [], original
    for dim, size in enumerate(original.shape):
        step = math.prod(original.shape[dim + 1 :])
        along = torch.where(found >= 0, found // step % size, -1)
        index = along.movedim(dim, 0).reshape(cut.shape[dim], -1).amax(1)
        assert int(index.min()) >= 0, "a row of zeros alone"
        kept.append(index)
        selected = selected.index_select(dim, index)
    assert torch.equal(selected, cut), "no selection of rows and columns"
    return kept


def answers(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def distance(cut: nn.Module, original: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest difference between `cut` and `original` with what `cut` left out at zero, of an output's spread."""
    twin = copy.deepcopy(original)
    own, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (cut, original))
    with torch.no_grad():
        for name, parameter in twin.named_parameters(remove_duplicate=False):
            if name not in own or own[name].shape == parameter.shape or parameter.dim() < 2:
                continue
            for dim, index in enumerate(kept_indices(theirs[name], own[name])):
                gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
                gone[index] = False
                parameter.index_fill_(dim, torch.nonzero(gone).squeeze(1), 0.0)
    worst = 0.0
    for ours, theirs in zip(answers(cut, inputs), answers(twin, inputs), strict=True):
        assert ours.shape == theirs.shape
        worst = max(worst, float((ours - theirs).abs().max() / theirs.std().clamp_min(1e-9)))
    return worst


def other_batch(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Three samples with another mean and spread."""
    generator = torch.Generator().manual_seed(7)
    return tuple(
        torch.randn((3, *tensor.shape[1:]), generator=generator) * 2 + 0.5
        if tensor.is_floating_point()
        else tensor.repeat(2, *[1] * (tensor.dim() - 1))[:3]
        for tensor in inputs
    )


def assert_right(cut: nn.Module, original: nn.Module, inputs: Sequence[Tensor]) -> None:
    for batch in (inputs, other_batch(inputs)):
        assert distance(cut, original, batch) <= ALIKE


def share_gone(cut: nn.Module, original: nn.Module) -> float:
    def params(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    return 1 - params(cut) / params(original)

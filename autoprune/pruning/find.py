"""Finding the prunable groups of a model: read, proven, read otherwise where that did not hold, with their branches."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.pruning.branches import gone_with
from autoprune.pruning.forward_pass import normalised_layers
from autoprune.pruning.groups import ModelGroups, PrunableGroup, SkippedGroup, guessed_groups, is_whole_layer, places_of
from autoprune.pruning.plain import own_copy
from autoprune.pruning.probe import proven_groups
from autoprune.tracing.call import Split
from autoprune.tracing.told import Trace
from autoprune.tracing.tracer import Inputs

OTHER_SPLITS: tuple[Split, ...] = ("last", "first")


def find_groups(model: nn.Module, input_shape: tuple[int, int, int]) -> ModelGroups:
    """The groups of `model` for images (C, H, W), with the branches that it can do without; it is left as it was.

    Raises `ModelError` if the model does not run, looks at the values of its inputs, or has no prunable group at all.
    """
    found, _ = read_groups(own_copy(model), (torch.zeros(2, *input_shape),))  # a pass may change what a model keeps
    if not found.prunable:
        reasons = sorted({group.reason for group in found.skipped})
        raise ModelError(f"the model has no prunable group ({'; '.join(reasons) or 'no convolution or linear layer'})")
    return replace(found, prunable=_with_branches(model, found.prunable, input_shape))


def read_groups(model: nn.Module, inputs: Inputs) -> tuple[ModelGroups, Trace]:
    """The proven groups of `model`, without branches, and the forward pass that they were read from.

    Raises `ModelError` if the model does not run or looks at the values of its inputs.
    """
    guess, found = guessed_groups(model, inputs)
    fixed = [tensor.shape[1] for tensor in inputs if tensor.dim() > 1] + [group.channels for group in guess.skipped]
    proof = proven_groups(model, guess.prunable, inputs, fixed=fixed)
    failed = dict(proof.failed)
    skipped = {group.name: group for group in guess.skipped}
    for split in OTHER_SPLITS if found.is_split and failed else ():
        other, _ = guessed_groups(model, inputs, split=split)
        retried = [group for group in other.prunable if group.name in failed and _is_apart(group, proof.proven)]
        if retried:
            proof = proven_groups(model, (*proof.proven, *retried), inputs, fixed=fixed)
            proven = {group.name for group in proof.proven}
            failed = {name: why for name, why in {**proof.failed, **failed}.items() if name not in proven}
    channels = {group.name: group.channels for group in guess.prunable}
    skipped |= {name: SkippedGroup(name, channels[name], reason) for name, reason in failed.items()}
    places = places_of(model)
    return (
        ModelGroups(
            tuple(sorted(proof.proven, key=lambda group: places[group.name])),
            tuple(sorted(skipped.values(), key=lambda group: places[group.name])),
        ),
        found,
    )


def _is_apart(group: PrunableGroup, others: Sequence[PrunableGroup]) -> bool:
    """Whether no other group cuts the same channels of a layer."""
    own = {(member.module, member.axis, place) for member in group.members for place in member.local}
    return not any(
        (member.module, member.axis, place) in own
        for other in others
        for member in other.members
        for place in member.local
    )


def _with_branches(
    model: nn.Module, groups: tuple[PrunableGroup, ...], input_shape: tuple[int, int, int]
) -> tuple[PrunableGroup, ...]:
    """The groups, with the branches that the model can do without."""
    images = torch.randn(3, *input_shape, generator=torch.Generator().manual_seed(0))
    normalised = normalised_layers(model, images[:1])
    found = []
    for group in groups:
        readers = [member.module for member in group.members if member.axis == "in"]
        ends = tuple(normalised.get(name, name) for name in readers)  # or the BatchNorms that read those
        branch: tuple[str, ...] = ()
        if all(is_whole_layer(model, member) for member in group.members):
            layers = tuple(dict.fromkeys((*(member.module for member in group.members), *ends)))
            branch = gone_with(model, layers, ends, images)
        found.append(replace(group, branch=branch))
    return tuple(found)

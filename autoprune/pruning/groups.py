"""Prunable groups: which layers must lose the same channels, read once from Torch-Pruning's dependency graph.

Fang et al. 2023 (DepGraph) find the coupling; here it becomes plain data that cuts, costs and reports share.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch_pruning
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.pruning.branches import branch_outputs, gone_with
from autoprune.pruning.forward_pass import evaluation_mode, normalised_layers

Axis = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """One side of a layer that a group cuts: channel `root[i]` of the group is channel `local[i]` of the layer.

    After a flatten one root channel owns many local ones; after a concatenation a layer has members of several groups.
    """

    module: str
    axis: Axis
    local: tuple[int, ...]
    root: tuple[int, ...]


@dataclass(frozen=True)
class PrunableGroup:
    """Coupled layers. `name` is that of the first layer, in the model's order, that makes the channels.

    `branch` are the layers of a branch that the model can do without, if the channels are inside one: such a group may
    keep no channel, and these layers are gone then.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    branch: tuple[str, ...] = ()

    @property
    def least_channels(self) -> int:
        return 0 if self.branch else 1


@dataclass(frozen=True)
class SkippedGroup:
    """Channels that are not cut, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class ModelGroups:
    """All groups in the model's order of layers."""

    prunable: tuple[PrunableGroup, ...]
    skipped: tuple[SkippedGroup, ...]


def is_depthwise(module: nn.Module) -> bool:
    """One filter for each channel. A convolution of one input channel is not depthwise: its outputs are free."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def layer_sides(module: nn.Module) -> tuple[int, int]:
    """(output channels, input channels) of a convolution, a linear layer or a BatchNorm."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d), type(module)
    return module.num_features, module.num_features


def side_channels(model: nn.Module, member: Member) -> int:
    """How many channels the side of the layer has in all."""
    out_channels, in_channels = layer_sides(model.get_submodule(member.module))
    return out_channels if member.axis == "out" else in_channels


def find_groups(model: nn.Module, input_shape: tuple[int, int, int]) -> ModelGroups:
    """Read the groups of `model` for images (C, H, W); the model is left as it was.

    Raises `ModelError` if the model cannot be traced or has no prunable group at all.
    """
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    names = {module: name for name, module in model.named_modules()}
    prunable: list[PrunableGroup] = []
    skipped: list[SkippedGroup] = []
    with evaluation_mode(model):
        graph = _trace(model, input_shape)
        outputs = _output_layers(model, input_shape)
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=[nn.Conv2d, nn.Linear]):
        members: list[Member] = []
        reason = None
        for item in group.items:
            module = item.dep.target.module
            name = names.get(module)
            axis: Axis = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            if name is None:
                if isinstance(module, nn.Parameter):
                    reason = reason or "a bare parameter is coupled to it"
                continue  # an element-wise operation: nothing to cut
            reason = reason or _obstacle(module)
            if name in outputs and axis == "out":
                reason = "it is the model's output"
            members.append(Member(name, axis, tuple(item.idxs), tuple(item.root_idxs)))
        makers = [member.module for member in members if member.axis == "out" and _makes_channels(model, member.module)]
        if not makers:
            reason = "its channels are those of the model's input"
        first = min(makers or [member.module for member in members], key=order.__getitem__)
        channels = len(group.items[0].idxs)
        if reason is None:
            ordered = sorted(members, key=lambda member: (order[member.module], member.axis))
            prunable.append(PrunableGroup(first, channels, tuple(ordered)))
        else:
            skipped.append(SkippedGroup(first, channels, reason))
    if not prunable:
        reasons = sorted({group.reason for group in skipped})
        raise ModelError(f"the model has no prunable group ({'; '.join(reasons) or 'no convolution or linear layer'})")
    prunable.sort(key=lambda group: order[group.name])
    return ModelGroups(
        _with_branches(model, prunable, input_shape),
        tuple(sorted(skipped, key=lambda group: order[group.name])),
    )


def _with_branches(
    model: nn.Module, groups: list[PrunableGroup], input_shape: tuple[int, int, int]
) -> tuple[PrunableGroup, ...]:
    """The groups, with the branches that the model can do without."""
    images = torch.randn(3, *input_shape, generator=torch.Generator().manual_seed(0))
    normalised = normalised_layers(model, images[:1])
    found = []
    for group in groups:
        ends = branch_outputs([member.module for member in group.members if member.axis == "in"], normalised)
        branch: tuple[str, ...] = ()
        if all(len(member.local) == side_channels(model, member) for member in group.members):
            layers = tuple(dict.fromkeys((*(member.module for member in group.members), *ends)))
            branch = gone_with(model, layers, ends, images)
        found.append(replace(group, branch=branch))
    return tuple(found)


def _trace(model: nn.Module, input_shape: tuple[int, int, int]) -> torch_pruning.DependencyGraph:
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(True)  # the tracer follows autograd's graph
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(
                model, example_inputs=torch.zeros(1, *input_shape), verbose=False
            )
    except Exception as error:  # the tracer runs the user's model, which may raise anything
        raise ModelError(f"the model cannot be traced for its prunable groups ({error})") from error
    finally:
        for parameter, required in requires_grad:
            parameter.requires_grad_(required)


def _makes_channels(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name)
    return isinstance(module, nn.Conv2d | nn.Linear) and not is_depthwise(module)


def _obstacle(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d):
        return None if module.groups == 1 or is_depthwise(module) else f"a grouped convolution ({module.groups} groups)"
    if isinstance(module, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
        return None
    return f"{type(module).__name__} is not supported yet"


def _output_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> set[str]:
    """Names of the layers whose output is the model's output."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # alive until the end, so that no two outputs share an id

    def remember(name: str, output: Tensor) -> None:
        made[id(output)] = name
        kept.append(output)

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: remember(name, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            output = model(torch.zeros(1, *input_shape))
    finally:
        for handle in handles:
            handle.remove()
    # A model may reshape its last layer's output: then its last layer by order of execution is the output.
    return {made[id(output)]} if id(output) in made else set(list(made.values())[-1:])

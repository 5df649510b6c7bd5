"""The elastic model: channels sorted once, so that every policy is a nested cut of the same weights."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoprune.pruning.branches import remove_layers
from autoprune.pruning.copies import copy_with
from autoprune.pruning.groups import Member, PrunableGroup, side_channels, tensor_of
from autoprune.pruning.layers import DEPTHWISE, Axis, kind_of, tensors_of
from autoprune.space.layer_option import LayerOption, apply_options
from autoprune.space.policy import PruningPolicy

Kept = Mapping[tuple[str, Axis], Tensor]
"""Local channel indices that stay, ascending, for each cut side of each layer."""


@dataclass(frozen=True)
class ElasticModel:
    """`original` with its groups and, for each group, its channels ranked from most to least important.

    "Keep k channels of a group" keeps the first k of its ranking; the original is never changed.
    """

    original: nn.Module
    groups: tuple[PrunableGroup, ...]
    ranking: Mapping[str, tuple[int, ...]]
    options: tuple[LayerOption, ...] = ()  # of single layers, applied to what is cut

    @property
    def full_policy(self) -> PruningPolicy:
        widths = {group.name: group.channels for group in self.groups}
        return PruningPolicy.of(widths | {option.name: option.sizes[-1] for option in self.options})

    def kept_channels(self, policy: PruningPolicy) -> dict[tuple[str, Axis], Tensor]:
        """Local channel indices that stay, ascending, for each cut side of each layer."""
        channels = policy.as_dict()
        if unknown := channels.keys() - self.full_policy.as_dict().keys():
            raise ValueError(f"the policy names {sorted(unknown)}, which are no groups of this model")
        keep: dict[tuple[str, Axis], Tensor] = {}
        for group in self.groups:
            wanted = channels.get(group.name)
            if wanted is None or not group.least_channels <= wanted <= group.channels:
                raise ValueError(f"group {group.name} has {group.channels} channels; the policy keeps {wanted}")
            root_kept = torch.zeros(group.channels, dtype=torch.bool)
            root_kept[list(self.ranking[group.name][:wanted])] = True
            for member in group.members:
                side = (member.module, member.axis)
                if side not in keep:
                    keep[side] = torch.ones(side_channels(self.original, member), dtype=torch.bool)
                keep[side][list(member.local)] = root_kept[list(member.root)]
        return {side: torch.nonzero(mask).squeeze(1) for side, mask in keep.items()}

    def gone_layers(self, kept: Kept) -> frozenset[str]:
        """Those of the branches that keep no channel, by what `kept_channels` says of a policy."""
        emptied = (
            group
            for group in self.groups
            if group.branch and not any(len(kept[member.module, member.axis]) for member in group.members)
        )
        return frozenset(name for group in emptied for name in group.branch)

    def cut(self, policy: PruningPolicy) -> nn.Module:
        """A new, physically smaller module. Raises `ValueError` if the policy does not fit the groups."""
        smaller = self.cut_to(self.kept_channels(policy))
        apply_options(self.options, smaller, policy)
        return smaller

    def cut_to(self, kept: Kept, *, shares: bool = False) -> nn.Module:
        """`cut`, of what `kept_channels` says of a policy; if it `shares` the parameters that stay whole, it is quick
        to make, and not to be trained."""
        return cut_sides(self.original, kept, self.gone_layers(kept), shares=shares)

    def cut_parameters(self, policy: PruningPolicy) -> dict[str, Tensor]:
        """The parameters of the cut, by name, as slices of the original's through which gradients flow back."""
        kept = self.kept_channels(policy)
        gone = self.gone_layers(kept)
        slices = {id(tensor): taken for tensor, taken in _sliced(self.original, kept)}
        parameters = self.original.named_parameters()
        return {key: slices.get(id(each), each) for key, each in parameters if key.rpartition(".")[0] not in gone}

    def narrow(self, policy: PruningPolicy) -> "ElasticModel":
        """The cut as an elastic model of its own, with the same groups and ranking: for cutting step by step."""
        kept = self.kept_channels(policy)
        gone = self.gone_layers(kept)
        channels = policy.as_dict()
        groups, ranking = [], {}
        for group in self.groups:
            stays = self.ranking[group.name][: channels[group.name]]
            new_root = {old: new for new, old in enumerate(sorted(stays))}
            ranking[group.name] = tuple(new_root[old] for old in stays)
            members = tuple(
                _renumber(member, kept[member.module, member.axis], new_root)
                for member in group.members
                if member.module not in gone
            )
            groups.append(replace(group, channels=len(stays), members=members))
        options = (
            replace(option, sizes=tuple(size for size in option.sizes if size <= option.size_in(policy)))
            for option in self.options
        )
        return ElasticModel(self.cut(policy), tuple(groups), ranking, tuple(options))

    def with_weights_of(self, model: nn.Module) -> "ElasticModel":
        """The same groups and ranking over another module of the same shape (a fine-tuned copy)."""
        return replace(self, original=model)


def changed_layers(original: nn.Module, smaller: nn.Module) -> set[str]:
    """Names of the layers whose tensors differ in shape: those that lost channels."""
    before = {name: parameter.shape for name, parameter in original.named_parameters()}
    return {
        name.rpartition(".")[0] for name, parameter in smaller.named_parameters() if parameter.shape != before[name]
    }


def cut_sides(model: nn.Module, kept: Kept, gone: Collection[str] = (), *, shares: bool = False) -> nn.Module:
    """A copy without the layers that are `gone`, of whose other sides what is `kept` stays; `shares` as in `cut_to`."""
    left = {side: indices for side, indices in kept.items() if side[0] not in gone}
    made: dict[int, Tensor] = {id(tensor): tensor for tensor in model.parameters()} if shares else {}
    with torch.no_grad():
        made |= {id(tensor): alike(tensor, taken) for tensor, taken in _sliced(model, left)}
    smaller = copy_with(model, made)
    for (name, axis), indices in left.items():
        if not axis.startswith("dim"):
            _state_channels(smaller.get_submodule(name), axis, len(indices))
    remove_layers(smaller, gone)
    return smaller


def _state_channels(module: nn.Module, axis: Axis, channels: int) -> None:
    """Let a layer's own numbers say how many channels one side has; its tensors are not touched."""
    kind = kind_of(module)
    assert kind is not None, type(module)
    if kind is DEPTHWISE:  # several filters may read each channel
        filters = int(module.out_channels) // int(module.groups)  # type: ignore[arg-type]
        module.in_channels = module.groups = channels // filters  # type: ignore[assignment]
    setattr(module, kind.sizes[axis], channels)


def _renumber(member: Member, kept: Tensor, new_root: Mapping[int, int]) -> Member:
    new_local = {old: new for new, old in enumerate(kept.tolist())}
    pairs = [
        (new_local[local], new_root[root])
        for local, root in zip(member.local, member.root, strict=True)
        if root in new_root
    ]
    return replace(member, local=tuple(local for local, _ in pairs), root=tuple(root for _, root in pairs))


def sliced_tensors(model: nn.Module, name: str, axis: Axis) -> list[tuple[Tensor, int]]:
    """The tensors that a cut of one side slices, each with the dimension along which it does."""
    if axis.startswith("dim"):
        return [(tensor_of(model, name), int(axis[3:]))]
    module = model.get_submodule(name)
    kind = kind_of(module)
    assert kind is not None, type(module)
    own = tensors_of(module)
    return [(own[field], dim) for field, dim in kind.tensors.get(axis, {}).items() if field in own]


def _sliced(model: nn.Module, kept: Kept) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor of which something goes, and what is left of it: these indices of each side."""
    wanted: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
    for (name, axis), indices in kept.items():
        for tensor, dim in sliced_tensors(model, name, axis):
            wanted.setdefault(id(tensor), (tensor, {}))[1][dim] = indices
    for tensor, dims in wanted.values():
        taken = tensor
        for dim, indices in dims.items():
            taken = taken.index_select(dim, indices)
        yield tensor, taken


def alike(tensor: Tensor, values: Tensor) -> Tensor:
    """A parameter of these values in place of a parameter, the values themselves in place of a buffer."""
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values

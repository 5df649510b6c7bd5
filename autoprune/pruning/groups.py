"""Prunable groups: which layers must lose the same channels, read off one followed forward pass and then proven.

Where each channel goes is followed operation by operation (`autoprune.tracing`); that is a guess until cuts of the
network have answered as the network does with the same channels at zero (`pruning.probe`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, in_a_line
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.layers import RECURRENT, SIDES, Axis, kind_of, layer_sides, tensors_of
from autoprune.tracing.call import Split
from autoprune.tracing.labels import Ints, Side
from autoprune.tracing.told import Trace
from autoprune.tracing.tracer import Inputs, trace

ALONE = "it has one channel"
TOGETHER = "its channels depend on each other"
IDLE = "it does not run"
UNREAD = "no layer reads its channels"


@dataclass(frozen=True)
class Member:
    """One side of a layer that a group cuts: channel `root[i]` of the group is channel `local[i]` of the layer.

    `module` names a layer, or a bare parameter or buffer, one of whose dimensions is the side then. After a flatten one
    root channel owns many local ones; after a concatenation a layer has members of several groups.
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


def side_channels(model: nn.Module, member: Member) -> int:
    """How many channels the side of the layer has in all."""
    if member.axis.startswith("dim"):
        return tensor_of(model, member.module).shape[int(member.axis[3:])]
    return layer_sides(model.get_submodule(member.module))[SIDES.index(member.axis)]


def is_whole_layer(model: nn.Module, member: Member) -> bool:
    """Whether all channels of one side of a layer are meant, and the layer gives one tensor."""
    if member.axis.startswith("dim") or len(member.local) != side_channels(model, member):
        return False
    return not isinstance(model.get_submodule(member.module), RECURRENT)


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name."""
    parent, _, field = name.rpartition(".")
    return tensors_of(model.get_submodule(parent))[field]


def places_of(model: nn.Module) -> dict[str, int]:
    """The place of each module by its name, and after it that of each parameter and buffer of its own."""
    names: list[str] = []
    for name, module in model.named_modules():
        names += [name, *(f"{name}.{field}" if name else field for field in sorted(tensors_of(module)))]
    return {name: place for place, name in enumerate(names)}


def guessed_groups(model: nn.Module, inputs: Inputs, *, split: Split = "free") -> tuple[ModelGroups, Trace]:
    """Groups and gaps as one forward pass shows them, unproven, without branches.

    Raises `ModelError` for a model that does not run, or whose code looks at the values of its inputs.
    """
    try:
        with evaluation_mode(model):
            try:
                found = trace(model, tuple(tensor[:1].clone() for tensor in inputs), split=split)
            except Exception:  # code may be written for the batch that is given
                found = trace(model, inputs, split=split)
    except Exception as error:  # the user's model may raise anything
        if "HigherOrderOperator" in str(error):
            torch.compiler.reset()  # or the model itself would not run any more
            raise ModelError(
                "the model uses torch.cond or another operator that takes functions, which is not followed; write it "
                "with torch.where"
            ) from error
        raise ModelError(
            f"the model does not run on its example inputs ({type(error).__name__}: {in_a_line(error, 300)}); "
            f"give inputs of the shapes and types that it is made for, with the batch first"
        ) from error
    if found.foreign:
        places = ", ".join(dict.fromkeys(found.foreign))
        raise ModelError(
            f"the model uses parameters that are not its own ({places}): they lie in a plain list, or belong to "
            f"another copy of it that a function kept as an attribute refers to; make them attributes, ParameterLists "
            f"or modules, and call them through self"
        )
    if found.by_value:
        places = ", ".join(dict.fromkeys(found.by_value))
        raise ModelError(
            f"control flow of the model depends on the values of its inputs ({places} turns values into a number or a "
            f"size): no file can hold that, and no cut be checked; write it with torch.where, or without a branch"
        )
    return _Reading(model, found).groups(), found


class _Reading:
    """From classes of labels to groups of layers."""

    def __init__(self, model: nn.Module, found: Trace) -> None:
        self._model, self._labels = model, found.labels
        self._places = places_of(model)
        self._owners = _owners(model)
        self._classes = found.labels.classes()
        self._pinned: dict[int, str] = {}
        for name in _unstored(model):
            places = [np.arange(s.first, s.first + s.size) for s in found.labels.sides if s.tensor == name]
            for own in places:
                found.labels.pin(own, "a buffer that no checkpoint holds goes along with it")
        for numbers, reason in found.labels.pins:
            for number in np.unique(self._classes[numbers]).tolist():
                self._pinned.setdefault(number, reason)
        self._learnt = {name for name, _ in model.named_parameters()}
        self._ran = set(found.ran)
        self._used = found.used
        self._is_read = set(found.labels.read_classes().tolist())

    def groups(self) -> ModelGroups:
        sides = self._labels.sides
        prunable: list[PrunableGroup] = []
        skipped: list[SkippedGroup] = []
        holders = self._holders()
        makers = [number for number in sorted(self._labels.made) if self._owners.get(sides[number].tensor)]
        for component in self._components(makers):
            named = sorted(component, key=lambda number: self._place(sides[number]))
            first = sides[named[0]]
            name, size = self._name(first), first.size
            every = list(dict.fromkeys(root for number in named for root in self._of(sides[number]).tolist()))
            roots = [root for root in every if root not in self._pinned and root in self._is_read]
            if len(roots) < 2:
                if any(sides[number].tensor in self._learnt for number in named):  # a constant has no channels to lose
                    skipped.append(SkippedGroup(name, size, self._reason(every, roots)))
                continue
            channel = {root: index for index, root in enumerate(roots)}
            touched = dict.fromkeys(side for root in roots for side in holders[root])
            members = self._members([sides[number] for number in touched], channel)
            if members is None:
                skipped.append(SkippedGroup(name, size, "its layers are not cut alike"))
            else:
                prunable.append(PrunableGroup(name, len(roots), members))
        skipped += self._small_layers()
        key = lambda group: self._places[group.name]  # noqa: E731
        return ModelGroups(tuple(sorted(prunable, key=key)), tuple(sorted(skipped, key=key)))

    def _small_layers(self) -> Iterator[SkippedGroup]:
        """Layers of one channel, and those that did not run."""
        for name, module in self._model.named_modules():
            kind, fields = kind_of(module), tensors_of(module)
            if kind is None or not any(field in kind.tensors.get("in", ()) for field in fields):
                continue
            if name not in self._ran and not any(
                (f"{name}.{field}" if name else field) in self._used for field in fields
            ):
                yield SkippedGroup(name, max(1, layer_sides(module)[0]), IDLE)
            elif "out" in kind.sizes and layer_sides(module)[0] == 1:
                yield SkippedGroup(name, 1, ALONE)

    def _of(self, side: Side) -> Ints:
        return self._classes[side.first : side.first + side.size]

    def _holders(self) -> dict[int, list[int]]:
        """The sides that each class has labels of."""
        holders: dict[int, list[int]] = {}
        for number, side in enumerate(self._labels.sides):
            for root in np.unique(self._of(side)).tolist():
                holders.setdefault(root, []).append(number)
        return holders

    def _components(self, makers: Sequence[int]) -> list[list[int]]:
        """Makers that share a channel which may go, or else any."""
        groups: list[tuple[set[int], list[int]]] = []
        for number in makers:
            roots = set(self._of(self._labels.sides[number]).tolist())
            free = {root for root in roots if root not in self._pinned} or roots
            members = [number]
            for other in [other for other in groups if other[0] & free]:
                groups.remove(other)
                free |= other[0]
                members = other[1] + members
            groups.append((free, members))
        return [members for _, members in groups]

    def _reason(self, every: Sequence[int], roots: Sequence[int]) -> str:
        reasons = [self._pinned[root] for root in every if root in self._pinned]
        if not (reasons or roots) and len(every) > 1:
            return UNREAD
        return next((reason for reason in reasons if reason), TOGETHER)

    def _members(self, sides: Iterable[Side], channel: Mapping[int, int]) -> tuple[Member, ...] | None:
        """The sides of layers that lose channels; None if tensors of one layer would lose different ones."""
        found: dict[tuple[str, Axis], Member] = {}
        for side in sides:
            pairs = [(local, channel[root]) for local, root in enumerate(self._of(side).tolist()) if root in channel]
            local, root = tuple(place for place, _ in pairs), tuple(number for _, number in pairs)
            for owner, field in self._owners.get(side.tensor, ()):  # none: a buffer that is a parameter, too
                name, axis = self._named(owner, field, side)
                member = Member(name, axis, local, root)
                if found.setdefault((name, axis), member) != member:
                    return None
        order = sorted(found.values(), key=lambda member: (self._places[member.module], member.axis))
        return tuple(order)

    def _named(self, owner: str, field: str, side: Side) -> tuple[str, Axis]:
        kind = kind_of(self._model.get_submodule(owner))
        if kind is not None:
            for axis, tensors in kind.tensors.items():
                if tensors.get(field) == side.dim:
                    return owner, axis
        return f"{owner}.{field}" if owner else field, f"dim{side.dim}"

    def _name(self, side: Side) -> str:
        owner, field = self._owners[side.tensor][0]
        return self._named(owner, field, side)[0]

    def _place(self, side: Side) -> tuple[int, int]:
        return self._places[self._owners[side.tensor][0][0]], side.first


def _owners(model: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """Module and field of each parameter and buffer, by its first name: several if it is tied."""
    names: dict[int, str] = {}
    found: dict[str, list[tuple[str, str]]] = {}
    for prefix, module in model.named_modules():
        for field, tensor in tensors_of(module).items():
            name = names.setdefault(id(tensor), f"{prefix}.{field}" if prefix else field)
            found.setdefault(name, []).append((prefix, field))
    return found


def _unstored(model: nn.Module) -> list[str]:
    """Buffers that are in no state dict."""
    return [
        f"{name}.{field}" if name else field
        for name, module in model.named_modules()
        for field in module._non_persistent_buffers_set
    ]

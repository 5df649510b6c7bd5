"""The algebra of channel labels: which numbers stand for one channel, and which may not go at all.

Each index of each dimension of each parameter is a *label*, a positive whole number. Labels that must go together are
one class (union-find, Tarjan 1975); a class is pinned, with a reason, where the code that reads it cannot do with less.

What is known of a tensor are its *slots*: a slot holds a label for each element, in a tensor of the same rank whose
dimensions are 1 wherever the label does not depend on the place. Label 0 is a place that belongs to no channel.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """Labels (int64) of a tensor's elements; `side` is the dimension of a parameter that they are of, if of one."""

    labels: Tensor
    side: int | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, size in enumerate(self.labels.shape) if size > 1)

    def full(self, shape: Sequence[int]) -> Tensor:
        return self.labels.expand(tuple(shape))


Slots = tuple[Slot, ...]


@dataclass(frozen=True)
class Side:
    """One dimension of a parameter or buffer; its labels are `first`, `first` + 1, ..."""

    tensor: str
    dim: int
    size: int
    first: int


class Labels:
    """The classes of all labels, their pins, and which were made and read by products with weights."""

    def __init__(self) -> None:
        self.sides: list[Side] = []
        self.pins: list[tuple[Ints, str]] = []
        self.made: set[int] = set()  # sides whose channels a product makes
        self._read: list[Ints] = []
        self._parent: Ints = np.zeros(1, dtype=np.int64)

    def add_side(self, tensor: str, dim: int, size: int, rank: int) -> Slot:
        """New labels for one dimension of a tensor of that rank."""
        first = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(first, first + size, dtype=np.int64)])
        self.sides.append(Side(tensor, dim, size, first))
        shape = [1] * rank
        shape[dim] = size
        return Slot(torch.arange(first, first + size).view(shape), len(self.sides) - 1)

    def find(self, labels: Ints) -> Ints:
        """The representative of each label's class; of 0, itself."""
        roots = self._parent[labels]
        while True:
            further = self._parent[roots]
            if np.array_equal(further, roots):
                break
            roots = further
        self._parent[labels] = roots
        return roots

    def classes(self) -> Ints:
        """The representative of every label, by label."""
        return self.find(np.arange(len(self._parent)))

    def are_same(self, first: Tensor, second: Tensor) -> bool:
        """Whether the labels at each place are of one class; both of the same shape, or they broadcast."""
        return bool((self._representatives(first) == self._representatives(second)).all())

    def _representatives(self, labels: Tensor) -> Tensor:
        return torch.from_numpy(self.find(labels.reshape(-1).numpy())).view(labels.shape)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Labels at the same place go together; both (n,), positive."""
        a, b = first.numpy(), second.numpy()
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))

    def couple(self, first: Tensor, second: Tensor, reason: str) -> None:
        """`first` and `second`, which broadcast, are at the same places: what is there goes together.

        Channels of one that only ever meet places of the other that belong to none must stay: `reason`.
        """
        a, b = (labels.reshape(-1) for labels in torch.broadcast_tensors(first, second))  # type: ignore[no-untyped-call]
        both = (a > 0) & (b > 0)
        self.unite(a[both], b[both])
        for labels, others in ((a, b), (b, a)):
            alone = (labels > 0) & (others == 0)
            if alone.any():
                lonely = np.unique(self.find(labels[alone].numpy()))
                met = np.unique(self.find(labels[both].numpy()))
                self.pin(np.setdiff1d(lonely, met), reason)

    def pin(self, labels: Ints | Tensor, reason: str) -> None:
        """These must stay."""
        numbers = labels.reshape(-1).numpy() if isinstance(labels, Tensor) else labels
        numbers = numbers[numbers > 0]
        if len(numbers):
            self.pins.append((np.unique(numbers), reason))

    def pin_slots(self, slots: Iterable[Slot], reason: str) -> None:
        for slot in slots:
            self.pin(slot.labels, reason)

    def read(self, labels: Tensor) -> None:
        self._read.append(np.unique(labels.reshape(-1).numpy()))

    def read_classes(self) -> Ints:
        """Representatives of what some product reads."""
        return np.unique(self.find(np.concatenate([np.zeros(1, dtype=np.int64), *self._read])))

    def compact(self, labels: Tensor, side: int | None = None) -> Slots:
        """A slot of these labels, one for each element: none if no element has one."""
        for axis in range(labels.dim()):
            labels = _narrowed(labels, axis)
        if labels.numel() and sum(size > 1 for size in labels.shape) > 1:  # one class may have several labels
            same = self._representatives(labels)
            for axis in range(same.dim()):
                kept = _narrowed(same, axis)
                if kept.shape != same.shape:
                    labels, same = labels.narrow(axis, 0, 1), kept
        return (Slot(labels.contiguous(), side),) if labels.numel() and bool((labels > 0).any()) else ()

    def over(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """Labels that differ only along `axes`: what meets along the others is united."""
        others = [axis for axis in range(labels.dim()) if axis not in axes and labels.shape[axis] > 1]
        if not others:
            return labels
        kept = labels.amax(others, keepdim=True)  # any of them stands for all, once they are one class
        a, b = (tensor.reshape(-1) for tensor in torch.broadcast_tensors(labels, kept))  # type: ignore[no-untyped-call]
        self.unite(a[a > 0], b[a > 0])
        return kept

    def along(self, slots: Slots, axis: int) -> Tensor | None:
        """The labels of the indices of one axis, (size,): None if it has none."""
        found = [self.over(slot.labels, (axis,)).reshape(-1) for slot in slots if axis in slot.axes]
        for other in found[1:]:
            self.couple(found[0], other, "")
        return found[0] if found else None

    def join(self, parts: Sequence[tuple[Slots, Sequence[int]]], reason: str) -> Slots:
        """Slots of what is worked out element by element of tensors that broadcast, given as (slots, shape)."""
        rank = max(len(shape) for _, shape in parts)
        shapes = [(*(1 for _ in range(rank - len(shape))), *shape) for _, shape in parts]
        waiting = [
            (number, slot.labels.view(*(1 for _ in range(rank - slot.labels.dim())), *slot.labels.shape), slot.side)
            for number, (slots, _) in enumerate(parts)
            for slot in slots
        ]
        joined: list[Slot] = []
        while waiting:
            members = [waiting.pop(0)]
            axes = _axes(members[0][1])
            while near := [other for other in waiting if axes & _axes(other[1])]:
                waiting = [other for other in waiting if not axes & _axes(other[1])]
                members += near
                axes |= set().union(*(_axes(labels) for _, labels, _ in near))
            labels, side = members[0][1:]
            for _, other, other_side in members[1:]:
                self.couple(labels, other, reason)
                labels = torch.where(labels > 0, labels, other)
                side = other_side if side is None else side
            inside = {number for number, _, _ in members}
            for number, shape in enumerate(shapes):
                if number not in inside and any(shape[axis] > 1 for axis in axes):
                    self.pin(labels, reason)
            joined.append(Slot(labels, side))
        return tuple(joined)


def _axes(labels: Tensor) -> set[int]:
    return {axis for axis, size in enumerate(labels.shape) if size > 1}


def _narrowed(labels: Tensor, axis: int) -> Tensor:
    """One place of an axis, if all are alike."""
    if labels.shape[axis] <= 1:
        return labels
    first = labels.narrow(axis, 0, 1)
    return first if labels.stride(axis) == 0 or bool((labels == first).all()) else labels

"""What kinds of operations do to channels: each rule gives the slots of what is made from those of what is read.

On the way it couples labels that go together from here on, and pins those that cannot go.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.tracing.call import ATTENTION, FIXED, MIXED, NUMBERED, Call
from autoprune.tracing.labels import Slot, Slots

Rule = Callable[[Call], Slots | list[Slots]]


def moved(call: Call) -> Slots:
    """Elements move, and their labels with them; new places have none."""
    tensor = call.first()
    found: list[Slot] = []
    for slot in call.slots(tensor):
        after = _run_on(call, tensor, slot.full(tensor.shape))
        made = call.labels.compact(after, slot.side)
        made = tuple(Slot(_taken_apart(call, one.labels, slot.axes), one.side) for one in made)
        found += _left(call, made, slot)
    return tuple(found)


def taken(call: Call) -> Slots:
    """Places are taken by their numbers: what has labels along that axis cannot shrink."""
    tensor = call.first()
    indices = call.given.get("indices", call.given.get("index"))
    if isinstance(indices, list | tuple):
        axes = {axis for axis, index in enumerate(indices) if index is not None}
    else:
        axes = {int(call.given["dim"]) % tensor.dim()}
    kept = _apart(call, tensor, axes, NUMBERED)
    return tuple(
        made for slot in kept for made in call.labels.compact(_run_on(call, tensor, slot.full(tensor.shape)), slot.side)
    )


def pieces(call: Call) -> list[Slots]:
    """An axis is cut into pieces: `split`, `chunk`, `unbind`."""
    tensor = call.first()
    made: list[list[Slot]] = [[] for _ in call.out]
    axis = int(call.given.get("dim", 0)) % tensor.dim()
    alike = len({part.shape for part in call.out}) == 1 and call.name != "unbind"
    for slot in call.slots(tensor):
        parts = _run_on(call, tensor, slot.full(tensor.shape))
        if axis in slot.axes and len(call.out) > 1 and call.split != "free":
            if alike:
                for part in parts[1:]:
                    call.labels.couple(parts[0], part, FIXED)
            else:
                call.labels.pin(slot.labels, FIXED)
        for own, part in zip(made, parts, strict=True):
            own += _left(call, call.labels.compact(part, slot.side), slot)
    return [tuple(slots) for slots in made]


def sliced(call: Call) -> Slots:
    """A range of an axis: one of several equal parts, as `chunk` would give it, or a piece of some fixed size."""
    tensor = call.first()
    axis = int(call.given.get("dim", 0)) % tensor.dim()
    whole, part = tensor.shape[axis], call.out.shape[axis]
    if whole == part:
        return call.slots(tensor)
    step = call.given.get("step", 1)
    start = call.given.get("start") or 0
    start = start + whole if start < 0 else start
    for slot in call.slots(tensor):
        if axis in slot.axes and call.split != "free":
            labels = slot.labels.movedim(axis, 0)
            if step == 1 and part and whole % part == 0 and start % part == 0:
                call.labels.couple(labels.view(whole // part, part, *labels.shape[1:]), labels[None, :part], FIXED)
            else:
                call.labels.pin(labels, NUMBERED)
    return moved(call)


def concatenated(call: Call) -> Slots:
    """`cat` and `stack`: what stands beside each other along the axis may go alone, all else goes together."""
    tensors = [tensor for tensor in call.tensors() if tensor.dim() == call.out.dim() or call.name == "stack"]
    rank = call.out.dim()
    axis = int(call.given.get("dim", 0)) % rank
    shapes = [tensor.shape for tensor in tensors]
    slots = [call.slots(tensor) for tensor in tensors]
    if call.name == "stack":
        shapes = [torch.Size((*shape[:axis], 1, *shape[axis:])) for shape in shapes]
        slots = [tuple(Slot(slot.labels.unsqueeze(axis), slot.side) for slot in own) for own in slots]
    beside = [[slot for slot in own if axis in slot.axes] for own in slots]
    # Along all other axes the parts lie upon each other, as when they are added.
    across = [tuple(slot for slot in own if axis not in slot.axes) for own in slots]
    ends = [torch.Size((*shape[:axis], 1, *shape[axis + 1 :])) for shape in shapes]
    made = list(call.labels.join(list(zip(across, ends, strict=True)), FIXED))
    if any(beside):
        labels = [
            call.labels.over(own[0].labels, own[0].axes) if own else torch.zeros([1] * rank, dtype=torch.int64)
            for own in beside
        ]
        for own in beside:
            call.labels.pin_slots(own[1:], FIXED)
        widest = torch.broadcast_shapes(*(_without(part.shape, axis) for part in labels))  # type: ignore[no-untyped-call]
        full = [
            part.expand(*widest[:axis], shape[axis], *widest[axis + 1 :])
            for part, shape in zip(labels, shapes, strict=True)
        ]
        made += call.labels.compact(torch.cat(full, axis))
    return tuple(made)


def elementwise(call: Call) -> Slots:
    parts = [(call.slots(tensor), tensor.shape) for tensor in call.tensors()]
    return call.labels.join(parts, FIXED) if any(slots for slots, _ in parts) else ()


def mixed(call: Call) -> Slots:
    """Along some axes each place changes the others (sums, maxima, softmax, running sums, Fourier transforms): what has
    labels along one of them cannot shrink."""
    tensor = call.first()
    dims = _dims(call.given.get("dim"), tensor.dim())
    kept = _apart(call, tensor, dims, MIXED)
    if _rank(call.out) == tensor.dim():
        return kept
    return tuple(Slot(slot.labels.squeeze(tuple(dims)), slot.side) for slot in kept)


def windows(call: Call, *, trailing: int) -> Slots:
    """Pooling, resizing, reflecting: places along the last axes mix."""
    return _mixed_along_last(call, call.slots(call.first()), trailing)


def unpooled(call: Call, *, trailing: int) -> Slots:
    """Each channel of the input goes to the places that the same channel of the indices names."""
    together = [(call.slots(one), one.shape) for one in call.tensors()[:2]]
    return _mixed_along_last(call, call.labels.join(together, FIXED), trailing)


def sampled(call: Call, *, trailing: int) -> Slots:
    """The input at places that a grid names, whose coordinates are no channels."""
    call.labels.pin_slots(call.slots(call.given["grid"]), FIXED)
    return windows(call, trailing=trailing)


def as_its_first(call: Call) -> Slots:
    """Element by element, with one number for all, or a constant in that shape: what else it reads are no channels."""
    tensor, *others = call.tensors()
    for other in others:
        call.labels.pin_slots(call.slots(other), FIXED)
    return call.slots(tensor)


def shuffled(call: Call) -> Slots:
    """`channel_shuffle`: as many channels in each of the groups, whose number is fixed."""
    tensor, groups = call.first(), int(call.given["groups"])
    for slot in call.slots(tensor):
        if 1 in slot.axes:
            labels = call.labels.over(slot.labels, (1,)).reshape(groups, -1)
            call.labels.couple(labels, labels[:1], FIXED)
    return moved(call)


def constant(call: Call) -> Slots:
    """A constant of a shape that is given in numbers."""
    return ()


def batch_norm(call: Call) -> Slots:
    tensor = call.given["input"]
    parts: list[tuple[Slots, Sequence[int]]] = [(call.slots(tensor), tensor.shape)]
    shape = [1, tensor.shape[1], *[1] * (tensor.dim() - 2)]
    for field in ("weight", "bias", "running_mean", "running_var"):
        vector = call.given.get(field)
        if isinstance(vector, Tensor):
            own = tuple(Slot(slot.labels.view(shape), slot.side) for slot in call.slots(vector))
            parts.append((own, shape))
    return call.labels.join(parts, FIXED)


def group_norm(call: Call) -> Slots:
    return _norm_from(call, 1, "GroupNorm normalises over its channels")


def layer_norm(call: Call) -> Slots:
    return _norm_from(call, -len(call.given["normalized_shape"]), "LayerNorm normalises over its channels")


def gated(call: Call) -> Slots:
    """GLU: the first half of an axis times the second."""
    tensor = call.first()
    axis = int(call.given.get("dim", -1)) % tensor.dim()
    made: list[Slot] = []
    for slot in call.slots(tensor):
        labels = slot.labels
        if axis in slot.axes:
            first, second = labels.chunk(2, axis)
            call.labels.couple(first, second, FIXED)
            labels = first
        made.append(Slot(labels, slot.side))
    return tuple(made)


def embedded(call: Call) -> Slots:
    weight = call.given["weight"]
    found = []
    for slot in call.slots(weight):
        if slot.axes == (1,):
            if slot.side is not None:
                call.labels.made.add(slot.side)
            shape = [1] * (call.out.dim() - 1) + [-1]
            found.append(Slot(slot.labels.view(shape), slot.side))
        else:
            call.labels.pin(slot.labels, "an embedding's rows are looked up by number")
    return tuple(found)


def attention(call: Call) -> Slots:
    for tensor in call.tensors():
        call.labels.pin_slots(call.slots(tensor), ATTENTION)
    return ()


def _run_on(call: Call, tensor: Tensor, labels: Tensor) -> Any:
    """The operation itself, on labels in place of the tensor's elements."""
    given = {name: labels if value is tensor else value for name, value in call.given.items()}
    if call.name == "constant_pad_nd":
        given["value"] = 0
    if call.name in ("_to_copy", "clone"):
        return labels
    if call.name in ("view", "_unsafe_view"):  # the labels may lie otherwise in memory
        return labels.reshape(call.given["size"])
    return call.run(given)


def _taken_apart(call: Call, labels: Tensor, before: Sequence[int]) -> Tensor:
    """Labels of one axis that code spread over several, as a view does."""
    axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
    if call.split == "free" or len(axes) <= len(before) or not axes:
        return labels
    return call.labels.over(labels, axes[-1:] if call.split == "last" else axes[:1])


def _left(call: Call, made: Slots, before: Slot) -> Slots:
    """The slots that tell places apart; where none does, a single channel was taken out by its number."""
    if any(not slot.axes for slot in made):
        call.labels.pin(before.labels, NUMBERED)
    return tuple(slot for slot in made if slot.axes)


def _apart(call: Call, tensor: Tensor, axes: set[int], reason: str) -> Slots:
    """The slots without labels along some axes; the others are pinned."""
    slots = call.slots(tensor)
    call.labels.pin_slots((slot for slot in slots if axes & set(slot.axes)), reason)
    return tuple(slot for slot in slots if not axes & set(slot.axes))


def _mixed_along_last(call: Call, slots: Slots, trailing: int) -> Slots:
    """The slots with labels along the leading axes, if places mix along the `trailing` ones."""
    leading = range(call.first().dim() - trailing)
    call.labels.pin_slots((slot for slot in slots if not set(slot.axes) & set(leading)), MIXED)
    kept = (slot for slot in slots if set(slot.axes) & set(leading))
    return tuple(Slot(call.labels.over(slot.labels, leading), slot.side) for slot in kept)


def _norm_from(call: Call, axis: int, reason: str) -> Slots:
    """A norm over an axis and all after it; what has labels along them stays, and so do its own weights."""
    tensor = call.given["input"]
    kept = _apart(call, tensor, set(range(tensor.dim())[axis:]), reason)
    for field in ("weight", "bias"):
        if isinstance(vector := call.given.get(field), Tensor):
            call.labels.pin_slots(call.slots(vector), reason)
    return kept


def _dims(dim: Any, rank: int) -> set[int]:
    if dim is None or dim == []:
        return set(range(rank))
    return {int(axis) % max(rank, 1) for axis in (dim if isinstance(dim, list | tuple) else (dim,))}


def _rank(out: Any) -> int:
    first: Tensor = out[0] if isinstance(out, list | tuple) else out
    return first.dim()


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])

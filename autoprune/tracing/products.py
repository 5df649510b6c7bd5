"""Convolutions and matrix products: the channels that they make are new, those that they read are theirs to lose."""

from collections.abc import Sequence

from torch import Tensor

from autoprune.tracing.call import FIXED, GIVEN, MIXED, Call
from autoprune.tracing.labels import Slot, Slots


def convolution(call: Call) -> Slots:
    x, weight = call.given["input"], call.given["weight"]
    is_transposed, groups = bool(call.given["transposed"]), int(call.given["groups"])
    rank = weight.dim()
    out_axis, in_axis = (1, 0) if is_transposed else (0, 1)
    reads = call.labels.along(call.slots(x), 1)
    for slot in call.slots(x):
        if 1 not in slot.axes:
            call.labels.pin(slot.labels, MIXED)  # a window over them
    for slot in call.slots(weight):
        if not {out_axis, in_axis} & set(slot.axes):
            call.labels.pin(slot.labels, "a filter's places")
    makes = call.labels.along(call.slots(weight), 0 if groups > 1 else out_axis)
    is_filterwise = 1 < groups == x.shape[1] and not (is_transposed and weight.shape[1] > 1)
    makers = [slot for slot in call.slots(weight) if (0 if groups > 1 else out_axis) in slot.axes]
    if groups == 1:
        _read(call, reads, call.labels.along(call.slots(weight), in_axis), size=x.shape[1])
    elif is_filterwise:  # maybe several filters for each channel
        if makes is not None:
            each = makes.view(groups, -1)
            if reads is None:
                call.labels.pin(makes, GIVEN)
            else:
                call.labels.couple(each, reads[:, None], FIXED)
        elif reads is not None:  # one made for as many channels as there are: then its cut runs, or is found out
            makes = reads.repeat_interleave(call.out.shape[1] // groups)
    else:
        reason = f"a grouped convolution ({groups} groups)"
        for labels in (reads, makes):
            if labels is not None:
                call.labels.pin(labels, reason)
    if makes is None or (groups > 1 and call.out.shape[1] != len(makes)):
        return ()
    shape = [1, -1, *[1] * (rank - 2)]
    if not is_filterwise or reads is None:
        _made(call, makers, by=x)
    bias = call.given.get("bias")
    side = makers[0].side if makers else None
    parts: list[tuple[Slots, Sequence[int]]] = [((Slot(makes.view(shape), side),), call.out.shape)]
    if isinstance(bias, Tensor):
        parts.append((tuple(Slot(s.labels.view(shape), s.side) for s in call.slots(bias)), [1, len(bias), *shape[2:]]))
    return call.labels.join(parts, FIXED)


def product(call: Call, *, batch: int) -> Slots:
    """(n, k) @ (k, m), or with so many `batch` axes before; `addmm` and `baddbmm` add their first argument."""
    a, b = call.tensors()[-2:]
    rows, columns = batch, batch + 1
    left, right = call.slots(a), call.slots(b)
    _read(call, call.labels.along(left, columns), call.labels.along(right, rows), size=a.shape[columns])
    if call.depends(a) != call.depends(b):
        weights = [
            slot
            for slot in (left if call.depends(b) else right)
            if slot.axes == ((rows if call.depends(b) else columns),)
        ]
        _made(call, weights, by=b if call.depends(b) else a)
    parts = [
        (tuple(slot for slot in left if columns not in slot.axes), (*a.shape[:columns], 1)),
        (tuple(slot for slot in right if rows not in slot.axes), (*b.shape[:rows], 1, b.shape[columns])),
    ]
    if call.name in ("addmm", "baddbmm"):
        added = call.tensors()[0]
        parts.append((call.slots(added), added.shape))
    return call.labels.join(parts, FIXED)


def _read(call: Call, reads: Tensor | None, weights: Tensor | None, *, size: int) -> None:
    """What is summed over: places that meet go together."""
    if size == 1:
        return
    for labels in (reads, weights):
        if labels is not None:
            call.labels.read(labels)
    if reads is not None and weights is not None:
        call.labels.couple(reads, weights, FIXED)
    elif reads is not None:
        call.labels.pin(reads, FIXED)
    elif weights is not None:
        call.labels.pin(weights, GIVEN)


def _made(call: Call, makers: list[Slot], *, by: Tensor) -> None:
    """The channels of these weights are made out of what depends on the input."""
    if call.depends(by):
        call.labels.made.update(slot.side for slot in makers if slot.side is not None)

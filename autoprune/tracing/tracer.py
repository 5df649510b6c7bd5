"""One forward pass, followed operation by operation: where channels come from and go, and what the products cost.

The pass runs for real, on real tensors; PyTorch hands over each of its operations (`TorchDispatchMode`), whatever the
network is made of: layers, functions, bare parameters, views.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.tracing.call import OUTPUT, Call, Split
from autoprune.tracing.counting import counted
from autoprune.tracing.labels import Slot, Slots
from autoprune.tracing.operators import SPLITS, SPREADS, rule_of
from autoprune.tracing.rules import Rule, windows
from autoprune.tracing.structures import tensors_in
from autoprune.tracing.surroundings import no_validation, plain_kernels
from autoprune.tracing.told import Product, Trace

EXITS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__)
MOST_SLOTS = 6  # of a tensor: what is taken apart and joined time and again has ever more
MASKS = (torch.bool, torch.uint8)
CHECKED = (torch.nn.functional.one_hot,)  # they look at values to check their range
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Known:
    slots: Slots
    depends: bool  # on the inputs
    is_weight: bool  # made of parameters alone


NOTHING = _Known((), False, False)


def trace(model: nn.Module, inputs: Inputs, *, split: Split = "free") -> Trace:
    """Follow `model` on `inputs` (tensors with the batch first); raises whatever the model raises."""
    found = Trace(samples=len(inputs[0]))
    follower = _Follower(model, inputs, found, split)
    # Inference mode would hand over whole functions, not the operations that they consist of.
    with (
        plain_kernels(model),
        no_validation(),
        torch.inference_mode(False),
        torch.no_grad(),
        follower.places(),
        _Watcher(follower, found),
        follower,
    ):
        found.outputs = model(*inputs)
    follower.end()
    return found


class _Watcher(TorchFunctionMode):
    """Sees what leaves PyTorch without an operation: values as lists and arrays, and `x.data`."""

    def __init__(self, follower: "_Follower", found: Trace) -> None:
        super().__init__()
        self._follower, self._found = follower, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.pad:
            given = dict(zip(("input", "pad", "mode"), args, strict=False)) | kwargs
            if given.get("mode") == "circular":
                rule = partial(windows, trailing=len(given["pad"]) // 2)
                return self._follower.followed_whole("pad", rule, lambda: func(*args, **kwargs), input=given["input"])
        noted = len(self._found.by_value)
        out = func(*args, **kwargs)
        if func in CHECKED:
            del self._found.by_value[noted:]
        if func in EXITS:
            self._follower.values_leave(args[0])
        elif func is torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            self._follower.is_same(out, args[0])
        return out


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, inputs: Inputs, found: Trace, split: Split) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found, self._split = found, split
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._place: list[str] = []
        self._is_paused = False
        self._written_to: dict[int, Tensor] = {}  # by address, kept alive so that it is not given to another
        self._weights: dict[int, str] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            sides = [
                found.labels.add_side(name, dim, size, tensor.dim())
                for dim, size in enumerate(tensor.shape)
                if size > 1 and tensor.is_floating_point()
            ]
            self._known[tensor] = _Known(tuple(sides), False, isinstance(tensor, nn.Parameter))
            self._weights[id(tensor)] = name
        for tensor in inputs:
            self._known[tensor] = _Known((), True, False)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, is_inplace = _named(func)
        # A block in inference mode hands over whole functions.
        if not self._is_paused and rule_of(func, name) is None and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if not self._is_paused:
            call = self._call(name, func, args, kwargs, out)
            self._follow(call, rule_of(func, name), tags=func.tags, is_inplace=is_inplace)
        return out

    @contextlib.contextmanager
    def places(self) -> Iterator[None]:
        """While the block runs, the module that is running is known."""

        def enter(module: nn.Module, _args: Any) -> None:
            name = self._names.get(id(module))
            if name is not None:
                self._place.append(name)
                self._found.ran.append(name)

        def leave(module: nn.Module, _args: Any, _out: Any) -> None:
            if id(module) in self._names and self._place:
                self._place.pop()

        hooks = nn.modules.module
        with hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave):
            yield

    def end(self) -> None:
        """What reaches the outputs stays."""
        for tensor in tensors_in(self._found.outputs, opened=True):
            self._found.labels.pin_slots(self._of(tensor).slots, OUTPUT)

    def _depends(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the inputs, or something that does was written into its memory."""
        if self._of(tensor).depends:
            return True
        return bool(self._written_to) and tensor.untyped_storage().data_ptr() in self._written_to

    def _is_by_value(self, call: Call, tags: Collection[torch.Tag]) -> bool:
        """Whether values become a number of Python's, by which code may choose, or the shape of what is made."""
        if call.name == "index":
            masks = [one for one in call.given["indices"] if isinstance(one, Tensor) and one.dtype in MASKS]
            return any(self._depends(mask) for mask in masks)
        return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags

    def _note_weights(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if (name := self._weights.get(id(tensor))) is not None:
                self._found.used.add(name)
            elif isinstance(tensor, nn.Parameter):
                self._found.foreign.append(self._here)

    def values_leave(self, tensor: Tensor) -> None:
        if self._depends(tensor):
            self._found.by_value.append(self._here)

    def is_same(self, tensor: Tensor, other: Tensor) -> None:
        self._known[tensor] = self._of(other)

    def _of(self, tensor: Tensor) -> _Known:
        known: _Known = self._known.get(tensor, NOTHING)  # type: ignore[no-untyped-call]
        return known

    def followed_whole(self, name: str, rule: Rule, run: Callable[[], Tensor], **given: Any) -> Tensor:
        """What `run` gives, followed as one operation of this rule, whatever it consists of."""
        before, self._is_paused = self._is_paused, True
        try:
            out = run()
        finally:
            self._is_paused = before
        self._follow(self._call(name, None, (), given, out), rule)
        return out

    def _call(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> Call:
        arguments = () if func is None else func._schema.arguments
        return Call(
            name=name,
            given=dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs),
            out=out,
            labels=self._found.labels,
            slots=lambda tensor: self._of(tensor).slots,
            depends=self._depends,
            split=self._split,
            run=lambda changed: func(**changed),
        )

    def _follow(
        self, call: Call, rule: Rule | None, *, tags: Collection[torch.Tag] = (), is_inplace: bool = False
    ) -> None:
        tensors = call.tensors()
        self._note_weights(tensors)
        depends = any(self._depends(tensor) for tensor in tensors)
        is_weight = not depends and any(self._of(tensor).is_weight for tensor in tensors)
        if depends and self._is_by_value(call, tags):
            self._found.by_value.append(self._here)
        self._count(call)
        if not tensors:
            return
        has_slots = any(self._of(tensor).slots for tensor in tensors)
        made = self._slots_made(call, rule) if has_slots else ()
        if is_inplace and has_slots:
            made = self._written(call.given, tensors[0], made)
        if is_inplace and depends and not self._depends(tensors[0]):
            self._written_to[tensors[0].untyped_storage().data_ptr()] = tensors[0]
        outputs = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, Tensor)]
        for number, tensor in enumerate(outputs):
            own = made[number] if isinstance(made, list) else made
            if len(own) > MOST_SLOTS:
                self._found.labels.pin_slots(own, f"too many channels meet ({self._here})")
                own = ()
            self._known[tensor] = _Known(tuple(slot for slot in own if _fits(slot, tensor)), depends, is_weight)

    def _slots_made(self, call: Call, rule: Rule | None) -> Slots | list[Slots]:
        if rule is None:
            return self._not_followed(call)
        try:
            made = rule(call)
        except Exception:  # a use of an operation that its rule did not foresee
            self._found.unforeseen.append(call.name)
            return self._not_followed(call)
        self._found.is_split |= _takes_apart(call, made)
        return made

    def _not_followed(self, call: Call) -> Slots:
        for tensor in call.tensors():
            call.labels.pin_slots(call.slots(tensor), f"{call.name} is not followed ({self._here})")
        return ()

    def _written(self, given: dict[str, Any], target: Tensor, made: Slots | list[Slots]) -> Slots:
        """What a tensor holds after it was written to; a view of another one, or other labels, stay as they are."""
        before = self._of(target).slots
        after = made if isinstance(made, tuple) else ()
        labels = self._found.labels
        is_alike = [slot.axes for slot in before] == [slot.axes for slot in after]
        if is_alike and all(labels.are_same(a.labels, b.labels) for a, b in zip(before, after, strict=True)):
            return before
        reason = f"something else is written over it ({self._here})"
        labels.pin_slots((*before, *after), reason)
        for value in given.values():
            if isinstance(value, Tensor):
                labels.pin_slots(self._of(value).slots, reason)
        return after

    def _count(self, call: Call) -> None:
        weight, macs, uncounted = counted(call, is_weight=lambda tensor: self._of(tensor).is_weight)
        if uncounted:
            self._found.uncounted.append(f"{uncounted} ({self._here})")
        if weight is not None:
            sides = [slot.side for slot in self._of(weight).slots if slot.side is not None]
            name = self._found.labels.sides[sides[0]].tensor if sides else None
            self._found.products.append(Product(self._here, name, macs))

    @property
    def _here(self) -> str:
        return self._place[-1] if self._place and self._place[-1] else "the model's forward"


def _takes_apart(call: Call, made: Slots | list[Slots]) -> bool:
    """Whether an axis with channels is cut into pieces, or spread over several axes."""
    if call.name in SPREADS:
        return isinstance(made, tuple) and any(len(slot.axes) > 1 for slot in made)
    if call.name not in SPLITS:
        return False
    axis = int(call.given.get("dim", 0)) % call.first().dim()
    return any(axis in slot.axes for slot in call.slots(call.first()))


def _fits(slot: Slot, tensor: Tensor) -> bool:
    return slot.labels.dim() == tensor.dim() and all(
        slot.labels.shape[axis] == tensor.shape[axis] for axis in slot.axes
    )


def _named(func: Any) -> tuple[str, bool]:
    """An operation's name, without the underscore of what works in place, and whether it does."""
    name = func._schema.name.partition("::")[2]
    is_inplace = name.endswith("_") and not name.startswith("__")
    return name.rstrip("_") if is_inplace else name, is_inplace

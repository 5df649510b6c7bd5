"""The floor to stand on: `inspect` says what can be cut in any network, and what not and why; `cut` does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoprune.errors import InputError, ModelError
from autoprune.pruning.copies import copied
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import read_groups
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.groups import PrunableGroup, SkippedGroup
from autoprune.pruning.importance import l2_norm, ranking_of
from autoprune.pruning.plain import plain_copy
from autoprune.pruning.probe import cut_fault, masked
from autoprune.space.policy import PruningPolicy

ExampleInputs = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Structure:
    """What `inspect` found. `macs` are multiply-adds of one sample, each run of each product with weights.

    `groups` may be cut; `skipped` are left whole, each with `name`, `channels` and `reason`; `uncounted` names products
    that `macs` leaves out, as they have no weights.
    """

    groups: tuple[PrunableGroup, ...]
    skipped: tuple[SkippedGroup, ...]
    macs: int
    params: int
    uncounted: tuple[str, ...]


def inspect(model: nn.Module, example_inputs: ExampleInputs) -> Structure:
    """What of `model` can be cut, and what it costs. The model is left as it was.

    `example_inputs` is a tensor or several, as the model takes them, each with the batch first. Every group was proven:
    cuts of it answer as the model does with the same channels at zero.

    Raises `InputError` for inputs that are no tensors, `ModelError` for a model that does not run on them, whose code
    looks at their values, or that is wrapped, scripted or without values.
    """
    inputs = _checked(example_inputs)
    return replace(_read(plain_copy(model), inputs), params=_params(model))


def cut(model: nn.Module, example_inputs: ExampleInputs, keep: float | Mapping[str, int]) -> nn.Module:
    """A smaller copy of `model`, in evaluation mode, with the strongest channels of each group (by their L2 norm).

    `keep` is a share of each group's channels, above 0 and up to 1, or the channels of some groups by name (`inspect`
    has the names); the other groups stay whole. The model is left as it was and shares no memory with the copy, in
    which weight norm, pruning masks and other parametrisations are baked in.

    Raises `InputError` for a `keep` that fits no group, whatever `inspect` raises, and `ModelError` if this cut does
    not answer as the model without its channels, as where code does something else at just these widths.
    """
    inputs = _checked(example_inputs)
    plain = plain_copy(model)
    structure = _read(copied(plain), inputs)  # a pass may change what a model keeps
    channels = _channels(structure.groups, keep)
    scores = {group.name: l2_norm(plain, group) for group in structure.groups}
    elastic = ElasticModel(plain, structure.groups, ranking_of(scores))
    kept = elastic.kept_channels(PruningPolicy.of(channels))
    smaller = elastic.cut_to(kept)
    smaller.eval()  # which a model's own `train` may not return from
    plain.eval()
    if (fault := cut_fault(copied(smaller), masked(plain, kept), inputs)) is not None:
        raise ModelError(
            f"these channels cannot be cut together, though others can: {fault}; give `keep` other numbers"
        )
    return smaller


def _read(plain: nn.Module, inputs: tuple[Tensor, ...]) -> Structure:
    for name, parameter in plain.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise ModelError(f"model: {name} holds NaN or infinity; give the weights of a training that went well")
    with torch.random.fork_rng(devices=[]), evaluation_mode(plain):
        found, traced = read_groups(plain, inputs)
    uncounted = tuple(dict.fromkeys(traced.uncounted))
    return Structure(found.prunable, found.skipped, traced.macs, _params(plain), uncounted)


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _checked(example_inputs: ExampleInputs) -> tuple[Tensor, ...]:
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(inputs, Sequence) or not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError("example_inputs: give a tensor, or a tuple of tensors, as the model takes them")
    for number, tensor in enumerate(inputs):
        if tensor.is_meta or tensor.is_nested or tensor.layout is not torch.strided:
            raise InputError(
                f"example_inputs[{number}]: give a plain tensor with values, not a meta, nested or sparse one"
            )
        if tensor.dim() == 0 or not len(tensor):
            raise InputError(f"example_inputs[{number}]: it has no samples; the first dimension is the batch")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"example_inputs[{number}]: it holds NaN or infinity")
    return tuple(tensor.detach() for tensor in inputs)


def _channels(groups: Sequence[PrunableGroup], keep: float | Mapping[str, int]) -> dict[str, int]:
    whole = {group.name: group.channels for group in groups}
    if isinstance(keep, Mapping):
        for name, channels in keep.items():
            if name not in whole:
                some = ", ".join(list(whole)[:8]) or "none"
                raise InputError(f"keep: the model has no group {name!r}; its groups are {some}")
            if not isinstance(channels, int) or isinstance(channels, bool) or not 1 <= channels <= whole[name]:
                raise InputError(f"keep[{name!r}]: {channels!r} is no number of channels in 1..{whole[name]}")
        return whole | dict(keep)
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise InputError(f"keep: {keep!r} is no share above 0 and up to 1, nor channels by group")
    return {name: max(1, round(channels * keep)) for name, channels in whole.items()}


__all__ = ["ModelError", "Structure", "cut", "inspect"]

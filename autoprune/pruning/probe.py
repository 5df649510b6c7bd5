"""Proof of groups on the network itself: cuts of it answer as it does with the same channels at zero.

A wrong map of channels (a permuted flatten, a shuffle, a number of features in the code) gives a network that runs and
answers something else, or one that does not run. Several cuts of all groups at once are compared; where they differ,
the groups are halved until those that fail are known. Weights are random for that, so that no channel is like another
and none is silent, as a trained network's may be.
"""

import bisect
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, in_a_line
from autoprune.pruning.copies import copied, copy_with
from autoprune.pruning.elastic import ElasticModel, Kept, alike, sliced_tensors
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.groups import PrunableGroup
from autoprune.pruning.layers import tensors_of
from autoprune.space.policy import PruningPolicy
from autoprune.tracing.structures import tensors_in
from autoprune.tracing.tracer import Inputs

ALIKE = 1e-4  # of the spread of an output: rounding, in another order of summation, stays a hundred times below
VALUES = 20_000  # of an input, at least, unless that takes more samples than `MOST_SAMPLES`
MOST_SAMPLES = 8
MOST_FIXED = 4
FEW_CUTS = 3  # while groups are halved; most faults show in the first one
LATE = "there was no time to prove that it may be cut"
RANDOM = "the model answers otherwise each time that it is asked, so that no cut can be checked"
SECONDS = 300.0  # for all groups of a network
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Proof:
    """Groups that hold, all together, and for the others why not."""

    proven: tuple[PrunableGroup, ...]
    failed: Mapping[str, str]


def proven_groups(
    model: nn.Module,
    groups: Sequence[PrunableGroup],
    inputs: Inputs,
    *,
    fixed: Sequence[int] = (),
    seconds: float = SECONDS,
) -> Proof:
    """Those of `groups` whose cuts answer like the masked network; `model` is left as it was.

    `fixed` are widths that stay, of inputs and of other layers: code may do something else where one meets its equal.
    What was not looked at after `seconds` counts as failed. Raises `ModelError` if the network gives no finite numbers.
    """
    probe = _Probe(model, inputs, fixed=fixed, deadline=time.monotonic() + seconds)
    if probe.is_random:
        return Proof((), dict.fromkeys((group.name for group in groups), RANDOM))
    if probe.fault(tuple(groups)) is None:
        return Proof(tuple(groups), {})
    failed: dict[str, str] = {}
    held = probe.holding(tuple(groups), failed, thorough=False)
    if held and probe.fault(held) is not None:  # what a few cuts did not show
        held = probe.holding(held, failed, thorough=True)
    while held and probe.fault(held) is not None:  # each alone, but not all together
        if probe.is_late:
            failed |= dict.fromkeys((group.name for group in held), LATE)
            return Proof((), failed)
        beginnings = [held[: count + 1] for count in range(len(held))]
        place = bisect.bisect_left(beginnings[:-1], True, key=lambda some: probe.fault(some) is not None)
        fault = probe.fault(beginnings[place])
        failed[held[place].name] = f"it cannot be cut together with the groups before it ({fault})"
        held = (*held[:place], *held[place + 1 :])
    return Proof(held, failed)


class _Probe:
    def __init__(self, model: nn.Module, inputs: Inputs, *, fixed: Sequence[int], deadline: float) -> None:
        self._fixed = tuple(width for width, _ in Counter(fixed).most_common(MOST_FIXED))
        generator = torch.Generator().manual_seed(0)
        self._model = distinct(model, generator)
        self._inputs = _samples(inputs, generator)
        self._deadline = deadline
        with evaluation_mode(model), torch.random.fork_rng(devices=[]):
            if not self._is_usable():  # code may be written for one size of batch
                self._inputs = tuple(other_values(tensor, len(tensor), generator) for tensor in inputs)
            if not self._is_usable():  # random weights do not suit every network
                self._model = copied(model)
            if not _is_finite(answers(self._model, self._inputs)):
                raise ModelError(
                    "the model answers with NaN or infinity; give the weights of a training that went well"
                )
            first, second = (answers(self._model, self._inputs) for _ in range(2))
            if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in first):
                raise ModelError(
                    "the model answers with no tensor of numbers by which cuts of it could be compared; let its "
                    "forward return its logits, in a tensor, tuple, list or dict"
                )
            self.is_random = difference(first, second) > ALIKE
            self._trains = self._runs_in_training()

    def _runs_in_training(self) -> bool:
        try:
            trained = copied(self._model)
            trained.train()
            answers(trained, self._inputs)
        except Exception:  # the user's model may raise anything
            return False
        return True

    def _is_usable(self) -> bool:
        try:
            return _is_finite(answers(self._model, self._inputs))
        except Exception:  # the user's model may raise anything
            return False

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def holding(
        self, groups: tuple[PrunableGroup, ...], failed: dict[str, str], *, thorough: bool
    ) -> tuple[PrunableGroup, ...]:
        """Those that hold, by halving; the reasons of the others go into `failed`."""
        if not groups:
            return ()
        if self.is_late:
            failed |= dict.fromkeys((group.name for group in groups), LATE)
            return ()
        fault = self.fault(groups, thorough=thorough)
        if fault is None:
            return groups
        if len(groups) == 1:
            failed[groups[0].name] = fault
            return ()
        middle = len(groups) // 2
        return (
            *self.holding(groups[:middle], failed, thorough=thorough),
            *self.holding(groups[middle:], failed, thorough=thorough),
        )

    def fault(self, groups: tuple[PrunableGroup, ...], *, thorough: bool = True) -> str | None:
        """What is wrong with cuts of these groups, all or just a few of them; None if nothing is."""
        made = cuts(self._model, groups, fixed=self._fixed)
        for number, (elastic, policy) in enumerate(made if thorough else itertools.islice(made, FEW_CUTS)):
            try:
                kept = elastic.kept_channels(policy)
                silent = masked(self._model, kept)
                cut = elastic.cut_to(kept, shares=True)
                if (fault := cut_fault(cut, silent, self._inputs)) is not None:
                    return fault
                if number == 0 and self._trains:
                    cut.train()
                    answers(cut, self._inputs)  # what runs in training alone may read channels, too
            except Exception as error:  # the user's code with fewer channels than it was written for
                return _not_run(error)
        return None


def cut_fault(cut: nn.Module, silent: nn.Module, inputs: Inputs) -> str | None:
    """What is wrong with a cut, by the network in which the same channels are zero; None if nothing is."""
    try:
        found = answers(cut, inputs)
    except Exception as error:  # the user's code with fewer channels than it was written for
        return _not_run(error)
    off = difference(found, answers(silent, inputs))
    if off <= ALIKE:
        return None
    return f"a cut of it answers something else than the network without these channels (by {off:.2g})"


def _not_run(error: Exception) -> str:
    return f"the network does not run without some of its channels ({type(error).__name__}: {in_a_line(error, 120)})"


def cuts(
    model: nn.Module, groups: Sequence[PrunableGroup], *, fixed: Sequence[int] = ()
) -> Iterator[tuple[ElasticModel, PruningPolicy]]:
    """Cuts that keep, of any two channels of a group, at least once one without the other, and leave each out once.

    The channels of a group are numbered at random; each cut keeps those whose number has one binary digit set. So a map
    that takes one channel for another is met by a cut that tells the two apart. The others are of odd widths, and of
    the `fixed` ones.
    """
    generator = torch.Generator().manual_seed(1)
    numbers = {group.name: torch.randperm(group.channels, generator=generator).tolist() for group in groups}
    digits = {group.name: max(1, (group.channels - 1).bit_length()) for group in groups}
    for place in range(max(digits.values(), default=0)):
        chosen = {name: [(number >> place % digits[name]) & 1 == 1 for number in own] for name, own in numbers.items()}
        yield _keeping(model, groups, chosen)
    most = max((group.channels for group in groups), default=0)
    for kept in (range(0, most, 2), range(1), range(1, most), range(0, most, 3), *map(range, fixed)):
        yield _keeping(model, groups, {name: [number in kept for number in own] for name, own in numbers.items()})


def _keeping(
    model: nn.Module, groups: Sequence[PrunableGroup], chosen: Mapping[str, Sequence[bool]]
) -> tuple[ElasticModel, PruningPolicy]:
    ranking = {
        name: tuple(sorted(range(len(flags)), key=lambda channel, flags=flags: not flags[channel]))  # type: ignore[misc]
        for name, flags in chosen.items()
    }
    widths = {name: max(1, sum(flags)) for name, flags in chosen.items()}
    return ElasticModel(model, tuple(groups), ranking), PruningPolicy.of(widths)


def masked(model: nn.Module, kept: Kept) -> nn.Module:
    """A copy of `model` in which all channels but `kept`, of each side of its layers, are zero; what is not cut it
    shares with the model.

    They are zero where a layer makes them and where one reads them: whatever becomes of a zero in between, as in a
    sigmoid, is not read. Bare vectors stay as they are: something may be divided by them.
    """
    silent: dict[int, Tensor] = {}
    for (name, axis), indices in kept.items():
        for tensor, dim in sliced_tensors(model, name, axis):
            if axis.startswith("dim") and tensor.numel() == tensor.shape[dim]:
                continue
            gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
            gone[indices] = False
            values = silent.get(id(tensor), tensor).detach()
            silent[id(tensor)] = alike(tensor, values.index_fill(dim, torch.nonzero(gone).squeeze(1), 0.0))
    return copy_with(model, {id(tensor): tensor for tensor in model.parameters()} | silent)


def distinct(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with random parameters and statistics of about the usual sizes; buffers of no norm stay as they are."""
    fresh = copied(model)
    fresh.eval()
    with torch.no_grad():
        for module in fresh.modules():
            is_norm = isinstance(module, NORMS)
            for field, tensor in tensors_of(module).items():
                is_parameter = isinstance(tensor, nn.Parameter)
                if not tensor.is_floating_point() or not (is_parameter or is_norm):
                    continue
                if tensor.dim() < 2 and (field in ("weight", "running_var") or tensor.dim() == 0):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                elif tensor.dim() < 2:
                    shift = torch.rand(tensor.shape, generator=generator)  # upwards: a rectifier lets most through
                    tensor.copy_(-shift if field == "running_mean" else shift)
                else:
                    scale = (2 * tensor.shape[0] / max(tensor.numel(), 1)) ** 0.5  # He et al. 2015
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * min(scale, 1.0))
    return fresh


def other_values(tensor: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """So many samples of numbers drawn from a given input's, so that they are as code expects them to be.

    Where all are alike they are random; of what is no floating point the samples themselves come again and again.
    """
    if not tensor.is_floating_point():
        return tensor[torch.arange(samples) % len(tensor)]
    given = tensor.reshape(-1)
    if bool((given != given[0]).any()):
        places = torch.randint(len(given), (samples, *tensor.shape[1:]), generator=generator)
        return given[places]
    return torch.randn((samples, *tensor.shape[1:]), generator=generator, dtype=tensor.dtype)


def _samples(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Few samples of large inputs, more of small ones, in which a channel may be silent by chance."""
    each = min(tensor[0].numel() for tensor in inputs)
    samples = max(2, min(MOST_SAMPLES, -(-VALUES // each)))
    return tuple(other_values(tensor, samples, generator) for tensor in inputs)


def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that a model answers, in order, with the same random numbers each time.

    Raises `ModelError` for one that is not plain.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        outputs = model(*(tensor.clone() for tensor in inputs))
    found = [tensor.detach() for tensor in tensors_in(outputs, opened=True)]
    for tensor in found:
        if tensor.is_nested or tensor.is_quantized or tensor.layout is not torch.strided:
            raise ModelError(
                "the model answers with a sparse, nested or quantised tensor; let its forward return plain ones"
            )
    return found


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, of the spread of each output; infinite where shapes differ or numbers are not finite."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if not theirs.numel():
            continue
        if theirs.is_complex():
            ours, theirs = torch.view_as_real(ours), torch.view_as_real(theirs)
        if not theirs.is_floating_point():
            worst = worst if torch.equal(ours, theirs) else float("inf")
            continue
        unlike = ours != theirs  # both may be infinite, as where logits are masked
        if not bool(unlike.any()):
            continue
        numbers = theirs[torch.isfinite(theirs)]
        spread = numbers.std(correction=0) if numbers.numel() > 1 else theirs.abs().max()
        off = float((ours - theirs)[unlike].abs().max() / spread.clamp_min(torch.finfo(theirs.dtype).tiny))
        worst = max(worst, off if off == off else float("inf"))
    return worst


def _is_finite(outputs: Sequence[Tensor]) -> bool:
    """Whether all are numbers, but for what is minus infinity, as masked logits are, beside some that are."""
    floats = [tensor for tensor in outputs if tensor.is_floating_point() and tensor.numel()]
    return all(
        bool((torch.isfinite(tensor) | tensor.isneginf()).all()) and bool(torch.isfinite(tensor).any())
        for tensor in floats
    )

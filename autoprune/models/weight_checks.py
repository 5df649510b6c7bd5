"""What weights must be before any work: ordinary float32 on the CPU, finite, and no variance below zero."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoprune.errors import ModelError
from autoprune.models.weight_sets import EXTRA_STATE, WeightSet

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
STATISTICS = ("running_mean", "running_var")
BATCHES = "num_batches_tracked"
QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_weights(model: nn.Module, where: str) -> None:
    """Raise `ModelError`, by name and with the fix, unless `model` can be pruned as it is.

    Its parameters and norm statistics must be ordinary float32 tensors on the CPU, and finite; other buffers may hold
    what they like (a causal mask has -inf).
    """
    for name, module in model.named_modules():
        if type(module).__module__.startswith(QUANTIZED_PACKAGES):
            raise ModelError(f"{where}: {name} is quantised ({type(module).__name__}); give the float32 model instead")
    check_shapes_known(model, where)
    for name, tensor in _judged(model):
        if strange := strangeness(tensor):
            raise ModelError(f"{where}: {name} is {strange}")
        if tensor.dtype in FLOATS and tensor.dtype != torch.float32:
            raise ModelError(f"{where}: {name} is {_shown(tensor.dtype)}, not float32; call .float() on the model")
        if tensor.dtype != torch.float32:
            raise ModelError(f"{where}: {name} is {_shown(tensor.dtype)}; give the float32 model instead")
        if tensor.device.type != "cpu":
            raise ModelError(f"{where}: {name} is on {tensor.device}; call .cpu() on the model")
        _check_values(name, tensor, where)


def check_shapes_known(model: nn.Module, where: str) -> None:
    """Raise `ModelError` if a lazy layer waits for its first input."""
    for name, tensor in _judged(model):
        if is_lazy(tensor):
            raise ModelError(f"{where}: {name} has no shape yet; run the model on one batch of images first")


def converted(model: nn.Module, expected: Mapping[str, Any], tensors: WeightSet, where: str) -> WeightSet:
    """`tensors` (under the model's names) in the types of its state; `ModelError` names one that must not be cast."""
    judged = {name for name, _ in _judged(model)}
    made = {}
    for name, tensor in tensors.items():
        if strange := strangeness(tensor):
            raise ModelError(f"{where}: {name} is {strange}")
        wanted = tensor.dtype if name.rpartition(".")[2] == EXTRA_STATE else expected[name].dtype
        if not _may_become(name, tensor.dtype, wanted):
            raise ModelError(
                f"{where}: {name} is {_shown(tensor.dtype)}, the model wants {_shown(wanted)}; save the weights of the "
                f"{'float' if wanted.is_floating_point else 'same'} model"
            )
        made[name] = tensor.to(wanted)
        if name in judged:
            _check_values(name, made[name], where)
    return made


def _judged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and the statistics of norms, by all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name.rpartition(".")[2] in STATISTICS:
            yield name, buffer


def strangeness(tensor: Tensor) -> str | None:
    """What makes a tensor none that holds its values one by one, with the fix."""
    if tensor.is_meta:
        return "a meta tensor, without values; give the model's trained weights"
    if tensor.is_quantized:
        return f"quantised ({_shown(tensor.dtype)}); give the float32 weights"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"no dense tensor ({_shown(tensor.layout)}); call .to_dense() on it"
    return None


def _may_become(name: str, given: torch.dtype, wanted: torch.dtype) -> bool:
    if given == wanted or (given in FLOATS and wanted in FLOATS):
        return True
    if name.rpartition(".")[2] == BATCHES:  # averages of a state average this counter too
        return not given.is_complex
    integers = not (given.is_floating_point or given.is_complex)
    if wanted == torch.bool:
        return given == torch.uint8  # how masks were kept before there was bool
    return integers and given != torch.bool and not (wanted.is_floating_point or wanted.is_complex)


def _check_values(name: str, tensor: Tensor, where: str) -> None:
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{where}: {name} holds NaN or infinity; give the weights of a training that went well")
    if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
        raise ModelError(
            f"{where}: {name} is below zero, which no variance is; give weights of a training that went well"
        )


def _shown(kind: object) -> str:
    return str(kind).removeprefix("torch.")

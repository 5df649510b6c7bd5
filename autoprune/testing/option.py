"""The contract of a kind of option."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoprune.space.layer_option import LayerOption, OptionKind, layer_options
from autoprune.testing.errors import ContractError

NEAR, NEAR_IN_A_CUT = 0.02, 0.1  # of the weights: what is left over at the edge of a pattern


def check_option(make: Callable[[], OptionKind]) -> None:
    """A kind of option changes weights alone, of layers of any width; the largest size changes nothing, smaller ones
    leave ever less; applied again it changes nothing more, and as many weights are left as it says.

    It is tried on convolutions and linear layers of several widths, some of them odd.
    """
    kind = make()
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 32, 3, bias=False),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 7, 1),
        nn.Flatten(),
        nn.Linear(112, 24),
        nn.Linear(24, 5),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    try:
        names = dict(network.named_modules())
        offered = layer_options(network, (kind,), names)
        again = layer_options(network, (make(),), names)
    except Exception as error:
        raise ContractError(f"sizes, left: {error}") from error
    if not offered:
        raise ContractError("sizes: it has no option for any convolution or linear layer")
    if [(option.name, option.sizes) for option in offered] != [(option.name, option.sizes) for option in again]:
        raise ContractError("sizes: made anew it offers others")
    for option in offered:
        _check_layer(option, network.get_submodule(option.layer), near=NEAR)
        _check_layer(option, _narrower(network.get_submodule(option.layer)), near=NEAR_IN_A_CUT)
        _check_layer(option, _channels_last(network.get_submodule(option.layer)), near=NEAR)


def _check_layer(option: LayerOption, layer: nn.Module, *, near: float) -> None:
    before = -1
    for size in option.sizes:
        changed = _applied(option, layer, size)
        where = f"apply: {option.name} at {size}"
        weight = changed["weight"]
        for name, value in layer.state_dict().items():
            if name != "weight" and not torch.equal(changed[name], value):
                raise ContractError(f"{where}: changed {name}; only the weight may change")
        if weight.shape != layer.state_dict()["weight"].shape or not torch.isfinite(weight).all():
            raise ContractError(f"{where}: the weight is of another shape, or not finite")
        if size == option.sizes[-1] and not torch.equal(weight, layer.state_dict()["weight"]):
            raise ContractError(f"{where}: is the largest size, and must change nothing")
        if not torch.equal(weight, _applied(option, layer, size)["weight"]):
            raise ContractError(f"{where}: gave other weights the second time")
        twice = copy.deepcopy(layer)
        twice.load_state_dict(changed)
        if not torch.equal(_applied(option, twice, size)["weight"], weight):
            raise ContractError(f"{where}: applied again it changed more")
        left = int((weight != 0).sum())
        if left < before:
            raise ContractError(f"{where}: leaves {left} weights, a smaller size {before}")
        before = left
        claimed = option.kind.left(size)
        if abs(claimed - left / weight.numel()) > near:
            raise ContractError(
                f"left: says that {claimed:.3f} of the weights, and of their MACs, are left of {option.name} at "
                f"{size}; {left / weight.numel():.3f} are"
            )


def _applied(option: LayerOption, layer: nn.Module, size: int) -> dict[str, Tensor]:
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        option.kind.apply(changed, size)
    return dict(changed.state_dict())


def _channels_last(layer: nn.Module) -> nn.Module:
    """The same layer as it may lie in memory while it is trained: flattened in place it is not."""
    weight = layer.state_dict()["weight"]
    return copy.deepcopy(layer).to(memory_format=torch.channels_last) if weight.dim() == 4 else layer  # type: ignore[call-overload]


def _narrower(layer: nn.Module) -> nn.Module:
    """The same layer after a cut: a fifth less of it, whatever number that comes to."""
    smaller = copy.deepcopy(layer)
    out, inner = (max(1, size - size // 5) for size in layer.state_dict()["weight"].shape[:2])
    smaller.weight = nn.Parameter(layer.state_dict()["weight"][:out, :inner].clone())
    if layer.state_dict().get("bias") is not None:
        smaller.bias = nn.Parameter(layer.state_dict()["bias"][:out].clone())
    return smaller

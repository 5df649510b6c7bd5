"""What running a model shows that its list of layers does not; the model is left as it was."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.pruning.layers import is_plain


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the block runs; then each module is back in its own, which need not be the model's."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def normalised_layers(model: nn.Module, image: Tensor) -> dict[str, str]:
    """The convolutions whose output a BatchNorm reads, each with that BatchNorm's name.

    `image` (1, C, H, W) is run through `model`. Layers that run more than once are left out, those with a forward of
    their own, and BatchNorms without statistics, which are never the same for two batches.
    """
    outputs: list[tuple[str, Tensor]] = []  # alive until the end, so that no two share an identity
    reads: list[tuple[str, Tensor]] = []
    handles = []
    for name, module in model.named_modules():
        if is_plain(module, nn.Conv2d):
            handles.append(
                module.register_forward_hook(lambda _layer, _args, output, name=name: outputs.append((name, output)))
            )
        elif is_plain(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _norm, args, given, name=name: reads.append((name, first_input(args, given))),
                    with_kwargs=True,
                )
            )
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    ran = [name for name, _ in (*outputs, *reads)]
    pairs = {layer: norm for norm, read in reads for layer, output in outputs if output is read}
    return {layer: norm for layer, norm in pairs.items() if ran.count(layer) == ran.count(norm) == 1}


def first_input(args: tuple[Any, ...], given: Mapping[str, Any]) -> Tensor:
    """What a layer reads, however it was called."""
    read: Tensor = args[0] if args else next(iter(given.values()))
    return read

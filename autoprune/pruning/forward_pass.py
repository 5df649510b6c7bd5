"""What running a model shows that its list of layers does not; the model is left as it was."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
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


def graph_of(answers: Tensor) -> Iterator[Any]:
    """The nodes of autograd's graph that `answers` were worked out by, each once."""
    seen, waiting = set(), [answers.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(before for before, _ in node.next_functions)


@contextlib.contextmanager
def watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Any], Tensor | None]) -> Iterator[None]:
    """While the block runs, `see` gets the name of each of `layers` that runs, what it reads and what it gives.

    What `see` returns, unless that is None, is given in its place.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Tensor | None]:
        return lambda _layer, args, given, made: see(name, args[0] if args else next(iter(given.values())), made)

    with contextlib.ExitStack() as handles:
        for name, layer in layers.items():
            handles.enter_context(layer.register_forward_hook(hook(name), with_kwargs=True))
        yield


def normalised_layers(model: nn.Module, image: Tensor) -> dict[str, str]:
    """The convolutions whose output a BatchNorm reads, each with that BatchNorm's name.

    `image` (1, C, H, W) is run through `model`. Layers that run more than once are left out, those with a forward of
    their own, and BatchNorms without statistics, which are never the same for two batches.
    """
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if is_plain(module, nn.Conv2d)}
    norms = {
        name: module
        for name, module in modules.items()
        if is_plain(module, nn.BatchNorm2d) and module.running_mean is not None
    }
    runs: list[tuple[str, Tensor, Tensor]] = []  # alive until the end, so that no two share an identity
    with (
        watched(layers | norms, lambda name, read, made: runs.append((name, read, made))),
        evaluation_mode(model),
        torch.inference_mode(),
    ):
        model(image)
    ran = [name for name, _, _ in runs]
    outputs = [(name, made) for name, _, made in runs if name in layers]
    pairs = {layer: norm for norm, read, _ in runs if norm in norms for layer, made in outputs if made is read}
    return {layer: norm for layer, norm in pairs.items() if ran.count(layer) == ran.count(norm) == 1}

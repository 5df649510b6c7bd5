"""Branches that a network can do without, as what they give is only added to something: those of residual blocks.

A group of channels that lives in such a branch may lose them all. The branch is then gone, and the block passes its
input on (the layer dropping of Huang et al. 2016, for good).
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from autoprune.pruning.forward_pass import evaluation_mode, graph_of, watched


class Zero(Tensor):
    """A zero without a shape. Something may be added to it in place, too, which gives what is added."""

    # What is worked out with it is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __iadd__(self, other: Tensor) -> Tensor:  # type: ignore[misc,override]
        return other + self.as_subclass(Tensor)

    def add_(self, other: Tensor, *, alpha: float = 1) -> Tensor:  # type: ignore[override]
        return alpha * other + self.as_subclass(Tensor)


class Nothing(nn.Module):
    """In place of a layer that is gone: a zero, without a shape, so that what it is added to stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(()).as_subclass(Zero)


def remove_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Put `Nothing` in place of the layers named, in place."""
    for name in names:
        model.set_submodule(name, Nothing())


def gone_with(model: nn.Module, layers: Sequence[str], ends: Sequence[str], images: Tensor) -> tuple[str, ...]:
    """What is gone of `model` without `layers`: these, and those that only they read. None if it needs them.

    It needs them unless it does the same without them as when `ends`, the last of them, give zeros, and what it answers
    still depends on `images` (N, C, H, W).
    """
    with evaluation_mode(model):
        silenced = {name: model.get_submodule(name) for name in ends}
        with watched(silenced, lambda _name, _read, made: torch.zeros_like(made)), torch.no_grad():
            expected = model(images)
        try:
            with _without(model, layers):
                found, idle = _idle_layers(model, images)
        except Exception:  # a network that needs these layers may raise anything
            return ()
        _, always_idle = _idle_layers(model, images)
    if idle is None or not _alike(found, expected):
        return ()
    gone = tuple(dict.fromkeys((*layers, *(name for name in idle if name not in (always_idle or ())))))
    try:
        with evaluation_mode(model), _without(model, gone), torch.no_grad():
            return gone if _alike(model(images), expected) else ()
    except Exception:
        return ()


def _alike(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _idle_layers(model: nn.Module, images: Tensor) -> tuple[Tensor, tuple[str, ...] | None]:
    """What the model answers, and the layers whose parameters make no difference to that; None if not even the images
    do."""
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    images = images.clone().requires_grad_(True)
    model.requires_grad_(True)
    try:
        answers = model(images)
        # The tensors that these were worked out from: no gradient is computed.
        read = [node.variable for node in graph_of(answers) if hasattr(node, "variable")]
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])
    if not any(leaf is images for leaf in read):
        return answers.detach(), None
    known = {id(leaf) for leaf in read}
    owners = dict.fromkeys(name.rpartition(".")[0] for name in required)
    used = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in known}
    leaves = {name for name, module in model.named_modules() if not any(True for _ in module.children())} - {""}
    return answers.detach(), tuple(owner for owner in owners if owner in leaves - used)


@contextlib.contextmanager
def _without(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """While the block runs the layers named are gone."""
    modules = {name: model.get_submodule(name) for name in names}
    remove_layers(model, names)
    try:
        yield
    finally:
        for name, module in modules.items():
            model.set_submodule(name, module)

"""MACs and parameters, of a model as it stands and of any cut of an elastic model without making it.

One multiply-add of a convolution or a linear layer is one MAC, for one image; biases, BatchNorm and activations are
not counted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from autoprune.policy import PruningPolicy
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.groups import Axis, is_depthwise, layer_sides

AXES: tuple[Axis, ...] = ("in", "out")


@dataclass(frozen=True)
class Cost:
    macs: int
    params: int


@dataclass(frozen=True)
class LayerShape:
    """All that the cost of a convolution or linear layer depends on; a linear layer is a 1x1 kernel on 1x1 pixels."""

    kind: str  # "conv", "depthwise" or "linear"
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    bias: bool

    # Cached: a search asks for these of the same few shapes a million times.
    @cached_property
    def macs(self) -> int:
        return self._weights * math.prod(self.out_size)

    @cached_property
    def params(self) -> int:
        return self._weights + (self.out_channels if self.bias else 0)

    @cached_property
    def values_moved(self) -> int:
        """Weights, inputs and outputs, each once."""
        inputs, outputs = self.in_channels * math.prod(self.in_size), self.out_channels * math.prod(self.out_size)
        return self.params + inputs + outputs

    @property
    def is_empty(self) -> bool:
        """Whether no channel is left on one side: there is no such layer, then."""
        return not (self.in_channels and self.out_channels)

    @property
    def _weights(self) -> int:
        return 0 if self.is_empty else self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel)

    def resized(self, *, in_channels: int, out_channels: int) -> "LayerShape":
        if self.kind == "depthwise":
            return replace(self, in_channels=out_channels, out_channels=out_channels, groups=out_channels)
        return replace(self, in_channels=in_channels, out_channels=out_channels)


def layer_shapes(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, LayerShape]:
    """The convolutions and linear layers of `model` by name, in order of execution, for one image (C, H, W)."""
    shapes: dict[str, LayerShape] = {}

    def record(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            padding = module.padding if isinstance(module.padding, tuple) else _same_padding(module)
            shapes[name] = LayerShape(
                "depthwise" if is_depthwise(module) else "conv",
                module.in_channels,
                module.out_channels,
                _pair(module.kernel_size),
                _pair(module.stride),
                _pair(padding),
                _pair(module.dilation),
                module.groups,
                (x.shape[2], x.shape[3]),
                (y.shape[2], y.shape[3]),
                module.bias is not None,
            )
        elif isinstance(module, nn.Linear):
            one = (1, 1)
            rows = (math.prod(x.shape[1:-1]), 1)  # positions that share the layer, as in attention
            shapes[name] = LayerShape(
                "linear", module.in_features, module.out_features, one, one, (0, 0), one, 1, rows, rows,
                module.bias is not None,
            )  # fmt: skip

    handles = [
        module.register_forward_hook(lambda module, args, y, name=name: record(name, module, args[0], y))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(torch.zeros(1, *input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def count_cost(model: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Cost of `model` as it stands."""
    macs = sum(shape.macs for shape in layer_shapes(model, input_shape).values())
    return Cost(macs, sum(parameter.numel() for parameter in model.parameters()))


class CutShapes:
    """Layer shapes and cost of any cut, by arithmetic alone (microseconds, no module is made)."""

    def __init__(self, elastic: ElasticModel, input_shape: tuple[int, int, int]) -> None:
        self.original = layer_shapes(elastic.original, input_shape)
        # For each side of a layer: the channels that no group owns, and how many each kept root channel brings.
        self._fixed: dict[tuple[str, Axis], int] = {}
        self._brings: dict[tuple[str, Axis], list[tuple[str, list[int]]]] = {}
        self._norms: list[str] = []
        self._branches = [(group.name, frozenset(group.branch)) for group in elastic.groups if group.branch]
        covered_params = sum(shape.params for shape in self.original.values())
        for name, module in elastic.original.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
                self._norms.append(name)
                covered_params += 2 * module.num_features
        for name in (*self.original, *self._norms):
            out_channels, in_channels = layer_sides(elastic.original.get_submodule(name))
            self._fixed[name, "out"], self._fixed[name, "in"] = out_channels, in_channels
        total = sum(parameter.numel() for parameter in elastic.original.parameters())
        self._other_params = total - covered_params
        for group in elastic.groups:
            ranking = elastic.ranking[group.name]
            for member in group.members:
                side = (member.module, member.axis)
                if side not in self._fixed:
                    continue
                counts = [0] * group.channels
                for root in member.root:
                    counts[root] += 1
                cumulative = [0]
                for root in ranking:
                    cumulative.append(cumulative[-1] + counts[root])
                self._fixed[side] -= len(member.local)
                self._brings.setdefault(side, []).append((group.name, cumulative))
        # The groups that a layer's shape depends on, and what was worked out for their widths before.
        self.owners: dict[str, tuple[str, ...]] = {
            name: tuple(dict.fromkeys(group for axis in AXES for group, _ in self._brings.get((name, axis), ())))
            for name in self.original
        }
        self._known: dict[str, dict[tuple[int, ...], LayerShape]] = {name: {} for name in self.original}

    def layer(self, name: str, channels: Mapping[str, int]) -> LayerShape:
        """Shape of one layer; `channels` must name the groups that own it."""
        widths = tuple([channels[group] for group in self.owners[name]])
        known = self._known[name]
        if widths not in known:
            known[widths] = self.original[name].resized(
                in_channels=self._side(name, "in", channels), out_channels=self._side(name, "out", channels)
            )
        return known[widths]

    def layers(self, policy: PruningPolicy) -> dict[str, LayerShape]:
        """Those that are left of the layers, by name."""
        channels = policy.as_dict()
        gone = self.gone_layers(channels)
        return {name: self.layer(name, channels) for name in self.original if name not in gone}

    def gone_layers(self, channels: Mapping[str, int]) -> frozenset[str]:
        """Those of the branches that keep no channel."""
        return frozenset().union(*(branch for group, branch in self._branches if not channels[group]))

    def cost(self, policy: PruningPolicy) -> Cost:
        channels = policy.as_dict()
        macs, params = 0, self._other_params
        gone = self.gone_layers(channels)
        for name in self.original:
            if name not in gone:
                layer = self.layer(name, channels)
                macs += layer.macs
                params += layer.params
        norms = (self._side(name, "out", channels) for name in self._norms if name not in gone)
        return Cost(macs, params + 2 * sum(norms))

    def _side(self, name: str, axis: Axis, channels: Mapping[str, int]) -> int:
        brought = sum(cumulative[channels[group]] for group, cumulative in self._brings.get((name, axis), ()))
        return self._fixed[name, axis] + brought


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _same_padding(module: nn.Conv2d) -> tuple[int, int]:
    if module.padding == "valid":
        return (0, 0)
    height, width = (
        dilation * (kernel - 1) // 2 for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)
    )
    return (height, width)

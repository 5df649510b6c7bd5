"""MACs and parameters, of a model as it stands and of any cut of an elastic model without making it.

One multiply-add of a convolution or a product with weights is one MAC, for one image, each time that it runs; biases,
BatchNorm and activations are not counted.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from autoprune.pruning.elastic import ElasticModel, sliced_tensors
from autoprune.pruning.forward_pass import evaluation_mode, watched
from autoprune.pruning.groups import side_channels
from autoprune.pruning.layers import Axis, is_depthwise, layer_sides
from autoprune.space.policy import PruningPolicy
from autoprune.tracing.told import Trace
from autoprune.tracing.tracer import trace

AXES: tuple[Axis, ...] = ("in", "out")
Sides = tuple[tuple[str, Axis], ...]  # (layer, side) each


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
    kernel: tuple[int, ...]  # and what follows, (height, width)
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    bias: bool

    # Cached: a search asks for these of the same few shapes a million times.
    @cached_property
    def macs(self) -> int:
        return self.weights * math.prod(self.out_size)

    @cached_property
    def params(self) -> int:
        return self.weights + (self.out_channels if self.bias else 0)

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
    def weights(self) -> int:
        return 0 if self.is_empty else self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel)

    def resized(self, *, in_channels: int, out_channels: int) -> "LayerShape":
        if self.groups > 1 and self.groups == self.in_channels:  # depthwise, maybe with several filters each
            left = out_channels * self.groups // self.out_channels
            return replace(self, in_channels=left, out_channels=out_channels, groups=left)
        return replace(self, in_channels=in_channels, out_channels=out_channels)


def layer_shapes(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, LayerShape]:
    """The 2-D convolutions and linear layers of `model` by name, in order of execution, for one image (C, H, W); of one
    that runs several times, its last run."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    shapes: dict[str, LayerShape] = {}

    def record(name: str, x: Tensor, y: Tensor) -> None:
        module = layers[name]
        if isinstance(module, nn.Conv2d):
            padding = _same_padding(module) if isinstance(module.padding, str) else pair(module.padding)
            shapes[name] = LayerShape(
                "depthwise" if is_depthwise(module) else "conv",
                module.in_channels,
                module.out_channels,
                pair(module.kernel_size),
                pair(module.stride),
                padding,
                pair(module.dilation),
                module.groups,
                (x.shape[-2], x.shape[-1]),
                (y.shape[-2], y.shape[-1]),
                module.bias is not None,
            )
        else:
            one = (1, 1)
            rows = (math.prod(x.shape[1:-1]), 1)  # positions that share the layer, as in attention
            shapes[name] = LayerShape(
                "linear", module.in_features, module.out_features, one, one, (0, 0), one, 1, rows, rows,
                module.bias is not None,
            )  # fmt: skip

    with watched(layers, record), torch.no_grad(), evaluation_mode(model):
        model(torch.zeros(1, *input_shape))
    return shapes


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """Of a convolution's attributes: PyTorch runs one number, set after the layer was made, as a pair of it."""
    return (value, value) if isinstance(value, int) else value


def count_cost(model: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Cost of `model` as it stands."""
    return Cost(_traced(model, input_shape).macs, sum(parameter.numel() for parameter in model.parameters()))


@dataclass(frozen=True)
class _Part:
    """MACs and parameters of a module for every combination of channels of some sides, its own or other layers'."""

    owner: str
    sides: Sides
    macs: int
    params: int


class CutShapes:
    """Layer shapes and cost of any cut, by arithmetic alone (microseconds, no module is made)."""

    def __init__(self, elastic: ElasticModel, input_shape: tuple[int, int, int]) -> None:
        model = elastic.original
        self.original = layer_shapes(model, input_shape)
        self._branches = [(group.name, frozenset(group.branch)) for group in elastic.groups if group.branch]
        # For each side of a layer: the channels that no group owns, and how many each kept root channel brings.
        self._fixed: dict[tuple[str, Axis], int] = {}
        self._brings: dict[tuple[str, Axis], list[tuple[str, list[int]]]] = {}
        for name in self.original:
            self._fixed[name, "out"], self._fixed[name, "in"] = layer_sides(model.get_submodule(name))
        for group in elastic.groups:
            ranking = elastic.ranking[group.name]
            for member in group.members:
                side = (member.module, member.axis)
                counts = Counter(member.root)
                cumulative = [0, *itertools.accumulate(counts[root] for root in ranking)]
                self._fixed.setdefault(side, side_channels(model, member))
                self._fixed[side] -= len(member.local)
                self._brings.setdefault(side, []).append((group.name, cumulative))
        # The groups that a layer's shape depends on, and what was worked out for their widths before.
        self.owners: dict[str, tuple[str, ...]] = {
            name: tuple(dict.fromkeys(group for axis in AXES for group in self.side_owners(name, axis)))
            for name in self.original
        }
        self._known: dict[str, dict[tuple[int, ...], LayerShape]] = {name: {} for name in self.original}
        self.elastic, self._input_shape = elastic, input_shape
        self._parts = self._parts_of(model)
        self._counted: dict[PruningPolicy, Cost] = {}
        widths = ({group.name: max(1, group.channels * part // 3) for group in elastic.groups} for part in (3, 2, 1))
        self._is_exact = all(self._summed(policy) == self._count(policy) for policy in map(PruningPolicy.of, widths))

    def _parts_of(self, model: nn.Module) -> list[_Part]:
        cut: dict[int, dict[int, tuple[str, Axis]]] = {}  # by the identity of a tensor, the side along each dimension
        for name, axis in self._brings:
            for tensor, dim in sliced_tensors(model, name, axis):
                cut.setdefault(id(tensor), {})[dim] = (name, axis)

        def combined(tensor: Tensor) -> tuple[int, Sides]:
            """How many elements there are for each combination of channels of some sides, and these sides."""
            own = cut.get(id(tensor), {})
            rest = math.prod(size for dim, size in enumerate(tensor.shape) if dim not in own)
            return rest, tuple(side for _, side in sorted(own.items()))

        params: Counter[tuple[str, Sides]] = Counter()
        for name, parameter in model.named_parameters():  # a tied one is there once
            each, sides = combined(parameter)
            params[name.rpartition(".")[0], sides] += each
        macs: Counter[tuple[str, Sides]] = Counter()
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        for product in _traced(model, self._input_shape).products:
            weight = tensors.get(product.weight or f"{product.module}.weight")
            each, sides = (1, ()) if weight is None else combined(weight)
            whole = 1 if weight is None else weight.numel()
            macs[product.module, sides] += product.macs * each // max(whole, 1)
        return [_Part(*key, macs[key], params[key]) for key in dict.fromkeys((*macs, *params))]

    def layer(self, name: str, channels: Mapping[str, int]) -> LayerShape:
        """Shape of one layer; `channels` must name the groups that own it."""
        widths = tuple([channels[group] for group in self.owners[name]])
        known = self._known[name]
        if widths not in known:
            known[widths] = self.original[name].resized(
                in_channels=self._side(name, "in", channels), out_channels=self._side(name, "out", channels)
            )
        return known[widths]

    def side_owners(self, name: str, axis: Axis) -> tuple[str, ...]:
        """The groups that own channels of one side of a layer."""
        return tuple(group for group, _ in self._brings.get((name, axis), ()))

    def layers(self, policy: PruningPolicy) -> dict[str, LayerShape]:
        """Those that are left of the layers, by name."""
        channels = policy.as_dict()
        gone = self.gone_layers(channels)
        return {name: self.layer(name, channels) for name in self.original if name not in gone}

    def gone_layers(self, channels: Mapping[str, int]) -> frozenset[str]:
        """Those of the branches that keep no channel."""
        return frozenset().union(*(branch for group, branch in self._branches if not channels[group]))

    def cost(self, policy: PruningPolicy) -> Cost:
        """By arithmetic, or counted on the cut where that gave something else; of layers with options, what is left."""
        if self._is_exact:
            return self._less_options(self._summed(policy), policy)
        if policy not in self._counted:
            self._counted[policy] = self._count(policy)
        return self._less_options(self._counted[policy], policy)

    def _less_options(self, cost: Cost, policy: PruningPolicy) -> Cost:
        macs, params, channels = float(cost.macs), float(cost.params), policy.as_dict()
        layers: Mapping[str, LayerShape] = self.layers(policy) if self.elastic.options else {}
        for option in self.elastic.options:
            if (layer := layers.get(option.layer)) is not None:
                gone = 1.0 - option.kind.left(option.size_in(policy))
                own = [part for part in self._parts if part.owner == option.layer]
                macs -= gone * sum(part.macs * self._combinations(part, channels) for part in own)
                params -= gone * layer.weights
        return Cost(round(macs), round(params))

    def _count(self, policy: PruningPolicy) -> Cost:
        return count_cost(self.elastic.cut(policy), self._input_shape)

    def _summed(self, policy: PruningPolicy) -> Cost:
        channels = policy.as_dict()
        gone = self.gone_layers(channels)
        macs, params = 0, 0
        for part in self._parts:
            if part.owner not in gone:
                combinations = self._combinations(part, channels)
                macs, params = macs + part.macs * combinations, params + part.params * combinations
        return Cost(macs, params)

    def _combinations(self, part: _Part, channels: Mapping[str, int]) -> int:
        return math.prod([self._side(name, axis, channels) for name, axis in part.sides])

    def _side(self, name: str, axis: Axis, channels: Mapping[str, int]) -> int:
        brought = sum(cumulative[channels[group]] for group, cumulative in self._brings.get((name, axis), ()))
        return self._fixed[name, axis] + brought


def _traced(model: nn.Module, input_shape: tuple[int, int, int]) -> Trace:
    with evaluation_mode(model):
        return trace(model, (torch.zeros(1, *input_shape),))


def _same_padding(module: nn.Conv2d) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0, 0)
    sizes = zip(pair(module.dilation), pair(module.kernel_size), strict=True)
    return tuple(dilation * (side - 1) // 2 for dilation, side in sizes)

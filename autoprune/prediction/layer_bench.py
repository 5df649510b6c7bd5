"""The time of a layer inside an optimised graph, measured without the model that it belongs to.

Alone, a convolution pays for conversions between layouts that its neighbours in a whole graph would share, and does
not get its activation or residual fused into it: sums of such times are off by half. Here a layer runs in a small
*carrier*: a 1x1 convolution makes its input in the runtime's own layout, the layer follows with its epilogue (what
comes after it up to the next layer: `Relu`, `Clip`, `Add`), and one pixel is read off at the end. The time of the
carrier without the layer is taken away.

A layer is timed over and over, so its weights stay in a cache. Those of a large model do not: a layer with many weights
is therefore timed *cold* too, right after something else has filled the caches.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from pydantic import PlainSerializer, PlainValidator

from autoprune.export.small_graph import small_model
from autoprune.measure.device import Device, last_level_cache_bytes
from autoprune.measure.timing import Call, time_cold, time_until_quiet
from autoprune.pruning.cost import LayerShape
from autoprune.runtimes.runtime import Runtime

METHOD = 5  # part of what is stored: times of another method are not mixed with these
EPILOGUE_OPS = ("Relu", "Clip", "Add", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish")
CLIP_RANGE = (np.array(0.0, np.float32), np.array(6.0, np.float32))
SECONDS_A_LAYER = 0.25  # at most, on a machine that is never quiet
BYTES_PER_WEIGHT = 4
SLOW_FROM_BYTES = 1_000_000  # so many weights come back into the cache only after some calls
COLD_FROM_BYTES = 200_000  # a layer with fewer weights hardly notices where they lie


@dataclass(frozen=True)
class LayerInGraph:
    """A layer of some shape with what the graph does right after it; `cold`: with its weights in memory, not cached."""

    shape: LayerShape
    epilogue: tuple[str, ...] = ()
    cold: bool = False

    @property
    def key(self) -> str:
        return json.dumps({**asdict(self.shape), "epilogue": self.epilogue, "cold": self.cold})

    @property
    def weight_bytes(self) -> int:
        return self.shape.params * BYTES_PER_WEIGHT

    @property
    def is_heavy(self) -> bool:
        """Whether it takes longer with its weights in memory than with them in a cache."""
        return self.weight_bytes >= COLD_FROM_BYTES

    @classmethod
    def from_key(cls, key: str) -> "LayerInGraph":
        """Raises `ValueError` for a text that is no `key`."""
        try:
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(key).items()
            }
            epilogue, cold = fields.pop("epilogue"), fields.pop("cold")
            return cls(LayerShape(**fields), epilogue, cold)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a layer ({error!r})") from None


# In JSON, also as the key of an object.
LayerKey = Annotated[
    LayerInGraph,
    PlainValidator(lambda raw: raw if isinstance(raw, LayerInGraph) else LayerInGraph.from_key(raw)),
    PlainSerializer(lambda layer: layer.key),
]


@dataclass(frozen=True)
class _Carrier:
    """Everything around a layer: its input's channels and size, and a second such input if a residual is added."""

    kind: str
    channels: int
    size: tuple[int, int]

    @property
    def rows(self) -> int:
        """Of one image: a linear layer may be shared by many positions."""
        return math.prod(self.size) if self.kind == "linear" else 1


EMPTY = _Carrier("conv", 1, (1, 1))


def measure_layers(
    layers: Sequence[LayerInGraph],
    runtime: Runtime,
    device: Device,
    *,
    on_settled: Callable[[int], object] = lambda count: None,
) -> dict[LayerInGraph, float]:
    """Milliseconds of each of `layers` for one call, timed in turn; `on_settled` gets how many more are settled."""
    measured: dict[LayerInGraph, float] = {}
    for cold in (False, True):
        if alike := [layer for layer in layers if layer.cold is cold]:
            measured |= _measure_alike(alike, runtime, device, cold=cold, on_settled=on_settled)
    return measured


def _measure_alike(
    layers: Sequence[LayerInGraph],
    runtime: Runtime,
    device: Device,
    *,
    cold: bool,
    on_settled: Callable[[int], object],
) -> dict[LayerInGraph, float]:
    """Layers that are all `cold`, or none."""
    # The smallest one stands for the call itself, the same whatever else is measured.
    carriers = sorted({EMPTY, *(carrier for layer in layers for carrier in _carriers(layer))}, key=repr)
    models = [(_layer_model(layer), _carriers(layer)[0]) for layer in layers]
    models += [(_carrier_model(carrier), carrier) for carrier in carriers]
    calls = [
        _call(runtime, model, threads=device.threads, rows=device.batch_size * around.rows) for model, around in models
    ]
    if cold:
        times_ms = time_cold(calls, cache_bytes=last_level_cache_bytes())
        on_settled(len(layers))
    else:
        slow_to_warm = [layer.weight_bytes >= SLOW_FROM_BYTES for layer in layers] + [False] * len(carriers)
        times = time_until_quiet(
            calls,
            limit_s=SECONDS_A_LAYER * len(calls) + 1.0,
            slow_to_warm=slow_to_warm,
            on_settled=lambda settled: on_settled(sum(index < len(layers) for index in settled)),
        )
        times_ms = [time.quiet_ms for time in times]
    carrier_ms = dict(zip(carriers, times_ms[len(layers) :], strict=True))
    empty_ms = carrier_ms[EMPTY]
    measured = {}
    for layer, layer_ms in zip(layers, times_ms, strict=False):
        around, *residual = _carriers(layer)
        # The call itself is in both carriers' times but happens once.
        around_ms = carrier_ms[around] + sum(carrier_ms[other] - empty_ms for other in residual)
        measured[layer] = max(0.0, layer_ms - around_ms)
    return measured


def _carriers(layer: LayerInGraph) -> list[_Carrier]:
    shape = layer.shape
    if shape.kind == "linear":
        return [_Carrier("linear", shape.in_channels, shape.in_size)]
    carriers = [_Carrier("conv", shape.in_channels, shape.in_size)]
    if "Add" in layer.epilogue:
        carriers.append(_Carrier("conv", shape.out_channels, shape.out_size))
    return carriers


class _Graph:
    """An ONNX graph under construction; weights are small random numbers."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.inputs: dict[str, Sequence[int | str]] = {}
        self.constants: dict[str, NDArray[np.float32]] = {}
        self._random = np.random.default_rng(0)

    def weight(self, name: str, size: Sequence[int]) -> str:
        self.constants[name] = self._random.standard_normal(size, dtype=np.float32) * np.float32(0.1)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, attributes: Mapping[str, Any] | None = None) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **(attributes or {})))
        return output

    def made_input(self, name: str, carrier: _Carrier) -> str:
        """An activation as a layer before would leave it."""
        if carrier.kind == "linear":
            self.inputs[name] = ["batch", carrier.channels]
            return self.node("Relu", [name], f"{name}_made")
        self.inputs[name] = ["batch", 1, *carrier.size]
        weight = self.weight(f"{name}_w", (carrier.channels, 1, 1, 1))
        bias = self.weight(f"{name}_b", (carrier.channels,))
        return self.node("Relu", [self.node("Conv", [name, weight, bias], f"{name}_conv")], f"{name}_made")

    def content(self, output: str) -> bytes:
        return small_model(self.nodes, self.inputs, output, self.constants)

    def one_pixel(self, x: str, size: tuple[int, int]) -> str:
        """Read off one pixel: the cheapest consumer that takes the runtime's own layout."""
        return self.node("MaxPool", [x], "z", {"kernel_shape": [1, 1], "strides": list(size)})


def _carrier_model(carrier: _Carrier) -> bytes:
    graph = _Graph()
    made = graph.made_input("x", carrier)
    return graph.content(made if carrier.kind == "linear" else graph.one_pixel(made, carrier.size))


def _layer_model(layer: LayerInGraph) -> bytes:
    graph, shape = _Graph(), layer.shape
    around, *residual = _carriers(layer)
    added = graph.made_input("r", residual[0]) if residual else ""
    made = graph.made_input("x", around)
    bias = graph.weight("b", (shape.out_channels,))
    if shape.kind == "linear":
        weight = graph.weight("w", (shape.out_channels, shape.in_channels))
        out = graph.node("Gemm", [made, weight, bias], "y", {"transB": 1})
    else:
        weight = graph.weight("w", (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel))
        out = graph.node(
            "Conv",
            [made, weight, bias],
            "y",
            {
                "kernel_shape": shape.kernel,
                "strides": shape.stride,
                "pads": (*shape.padding, *shape.padding),
                "dilations": shape.dilation,
                "group": shape.groups,
            },
        )
    for index, op in enumerate(layer.epilogue):
        beside: list[str] = []
        if op == "Add":
            beside = [added]
        elif op == "Clip":
            beside = [f"least{index}", f"most{index}"]
            graph.constants |= dict(zip(beside, CLIP_RANGE, strict=True))
        out = graph.node(op, [out, *beside], f"e{index}")
    return graph.content(out if shape.kind == "linear" else graph.one_pixel(out, shape.out_size))


def _call(runtime: Runtime, model: bytes, *, threads: int, rows: int) -> Call:
    loaded = runtime.open_model(model, threads=threads)
    generator = np.random.default_rng(0)
    sizes = [[rows if side is None else side for side in spec.dims] for spec in loaded.inputs]
    return loaded.bind(*(generator.standard_normal(size, dtype=np.float32) for size in sizes))

"""Weights of nested levels stored once: a smaller level's are taken from the largest one's when a file is loaded.

Levels share their convolutions; what differs is which channels they keep and the BatchNorm that was folded in, a factor
for each output channel. So a smaller level's weight is `Mul(Gather(Gather(largest, outputs), inputs), factors)`, which
ONNX Runtime works out once, when it loads the file. The largest level gathers all of its own channels: read directly
from outside its branch, its weights would neither be prepacked nor laid out anew, which costs half its speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.layers import SIDES, Axis
from autoprune.space.policy import PruningPolicy

SHARED = "shared."  # begins the name of a stored weight
WITH_WEIGHTS = ("Conv", "Gemm")
TOLERANCE = 1e-5  # of a weight, relative to the largest of its channel: factors are rounded
ROUNDING = 1e-7  # of a factor that is one
SMALLEST_NORMAL = np.finfo(np.float32).tiny

Floats = NDArray[np.float32]
Cut = Mapping[tuple[str, Axis], Tensor]
"""Places of a level's channels among those of the largest level, ascending, by layer and side; sides that lose nothing
may be left out."""


def cuts_of_largest(elastic: ElasticModel, levels: Sequence[PruningPolicy]) -> list[Cut]:
    """For each of nested `levels` what it keeps of the largest one, the last."""
    largest = elastic.narrow(levels[-1])
    return [largest.kept_channels(level) for level in levels]


def share_weights(models: Sequence[ModelProto], cuts: Sequence[Cut]) -> list[TensorProto]:
    """Let `models`, in place, take their weights from those of the largest, the last one; the weights to store once.

    The models read them by names that begin with `shared.`. A weight stays where it is if it is not, to rounding, a
    part of the largest level's times a factor for each output channel, or where the file would not get smaller.
    """
    stored = []
    weights = {weight.name: weight for weight in models[-1].graph.initializer}
    for node in models[-1].graph.node:
        if node.op_type not in WITH_WEIGHTS or node.input[1] not in weights:
            continue
        whole = weights[node.input[1]]
        shared = TensorProto()
        shared.CopyFrom(whole)
        shared.name = SHARED + whole.name
        takings = [_taking(model.graph, node.name, shared, cut) for model, cut in zip(models, cuts, strict=True)]
        possible = [taking for taking in takings if taking is not None]
        if takings[-1] is not None and sum(taking.saved_bytes for taking in possible) > shared.ByteSize():
            for taking in possible:
                taking.apply()
            stored.append(shared)
    return stored


def layer_name(node: str) -> str:
    """The module behind a node of the exporter: "/layer1/layer1.0/conv1/Conv" is "layer1.0.conv1"."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


@dataclass(frozen=True)
class _Taking:
    """How a node's weight can be worked out from a stored one."""

    graph: GraphProto
    reader: NodeProto
    own: TensorProto  # what it makes unnecessary
    nodes: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]

    @property
    def saved_bytes(self) -> int:
        added = sum(node.ByteSize() for node in self.nodes) + sum(one.ByteSize() for one in self.constants)
        return int(self.own.ByteSize() - added)

    def apply(self) -> None:
        position = list(self.graph.node).index(self.reader)
        for place, node in enumerate(self.nodes, position):
            self.graph.node.insert(place, node)
        self.graph.initializer.remove(self.own)
        self.graph.initializer.extend(self.constants)


def _taking(graph: GraphProto, reader_name: str, shared: TensorProto, cut: Cut) -> _Taking | None:
    """For the node of that name, if it is there, nothing else reads its weight, and the weight can be taken."""
    reader = next((node for node in graph.node if node.name == reader_name), None)
    own = None if reader is None else next((one for one in graph.initializer if one.name == reader.input[1]), None)
    if reader is None or own is None or sum(own.name in node.input for node in graph.node) > 1:
        return None
    whole = numpy_helper.to_array(shared)
    layer = layer_name(reader_name)
    outputs, inputs = (
        np.asarray(cut.get((layer, side), range(size)), dtype=np.int32)
        for side, size in zip(SIDES, whole.shape[:2], strict=True)
    )
    factors = factors_between(whole[outputs][:, inputs], numpy_helper.to_array(own))
    if factors is None:
        return None
    steps: list[tuple[str, NDArray[np.int32] | Floats, int | None]] = [("Gather", outputs, 0)]
    if len(inputs) < whole.shape[1]:
        steps.append(("Gather", inputs, 1))
    if (factors != 1.0).any():
        steps.append(("Mul", factors.reshape(-1, *[1] * (whole.ndim - 1)), None))
    nodes, constants, taken = [], [], shared.name
    for number, (kind, values, axis) in enumerate(steps, 1):
        constant = numpy_helper.from_array(values, f"{own.name}.{number}c")
        made = own.name if number == len(steps) else f"{own.name}.{number}"
        node = helper.make_node(kind, [taken, constant.name], [made], f"{own.name}.{number}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        nodes.append(node)
        constants.append(constant)
        taken = made
    return _Taking(graph, reader, own, tuple(nodes), tuple(constants))


def factors_between(part: Floats, values: Floats) -> Floats | None:
    """What each output channel of `part` is to be multiplied by to give `values`, (outputs,), if that gives them."""
    if part.shape != values.shape:
        return None
    rows, wanted = (array.reshape(len(array), -1).astype(np.float64) for array in (part, values))
    squares = (rows**2).sum(1)
    factors = np.where(squares > 0, (rows * wanted).sum(1) / np.where(squares > 0, squares, 1.0), 1.0)
    factors = np.where(np.abs(factors - 1.0) < ROUNDING, 1.0, factors).astype(np.float32)
    made = (rows * factors[:, None]).astype(np.float32)
    is_subnormal = (made != 0.0) & (np.abs(made) < SMALLEST_NORMAL)
    is_close = np.abs(made - wanted).max(1) <= TOLERANCE * np.abs(wanted).max(1)
    return factors if is_close.all() and not is_subnormal.any() else None

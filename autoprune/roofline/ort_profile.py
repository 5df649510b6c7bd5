"""Time of each node of the graph that ONNX Runtime really executes, from its own profiler.

The profiler cuts times to whole microseconds and costs some of them a node itself; `settle` takes that off and brings
the nodes' sum into agreement with the whole, timed without the profiler.
"""

import contextlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from autoprune.errors import InputError, in_a_line
from autoprune.foundation.scratch import scratch_folder
from autoprune.roofline.onnx_cost import Attributes, NodeCost, TensorShape, node_cost
from autoprune.runtimes.onnxruntime import OPTIMISED_FILE, make_session

QUIET_SHARE = 0.1  # of a node's runs: the fastest ones, which no neighbour disturbed
LEAST_QUIET_RUNS = 5
TRUNCATED_US = 0.5  # the profiler drops the fraction of a microsecond
KERNEL_TIME = "_kernel_time"
NCHWC = "_nchwc"  # layers that the runtime moved to its blocked layout are named after their output, and this
MULTIPLY_ADD_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "ConvInteger", "MatMulInteger"})

# As the profiler names types: bytes of one value. Unknown ones count as 4.
TYPE_BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "uint64": 8, "int16": 2, "uint16": 2}
TYPE_BYTES |= {"int8": 1, "uint8": 1, "bool": 1}
ABSENT = TensorShape((0,))  # an optional argument that is not given


@dataclass(frozen=True)
class ProfiledNode:
    """A node of the optimised graph; `source` is the node of the file that it comes from, where that can be told."""

    name: str
    source: str | None
    op: str
    attributes: Attributes
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    useful_share: float  # of its arithmetic, 0..1: the rest is spent on channels that the runtime pads
    profiled_us: float

    @property
    def cost(self) -> NodeCost:
        return node_cost(self.op, self.inputs, self.outputs, self.attributes)


@dataclass(frozen=True)
class Settled:
    """Times that sum to the whole: each was shortened by `shift_us`, and all then multiplied by `scale`."""

    times_us: tuple[float, ...]
    shift_us: float
    scale: float


class NodeProfiler:
    """A session with the profiler on, of a model as `load_named` gives it. Use it as a context: it keeps files."""

    def __init__(self, model: onnx.ModelProto, feed: Mapping[str, np.ndarray[Any, Any]], *, threads: int) -> None:
        self._model, self._feed = model, feed
        self._files = contextlib.ExitStack()
        folder = self._files.enter_context(scratch_folder())
        self._optimised_file = folder / OPTIMISED_FILE
        # Its threads would spin on for a while, and slow the sessions that are run in turn with this one.
        self._session = make_session(model.SerializeToString(), threads=threads, gives_way=True, profiled_in=folder)

    def __enter__(self) -> "NodeProfiler":
        return self

    def __exit__(self, *exception: object) -> None:
        del self._session  # it would write its profile into the folder once more
        self._files.close()

    def run(self) -> None:
        self._session.run(None, self._feed)

    def nodes(self) -> list[ProfiledNode]:
        """The nodes in order of execution, from the runs so far; call it once, after the last run.

        Nodes inside a branch or loop are part of the node that holds them.
        """
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        optimised = onnx.load(str(self._optimised_file))
        return nodes_of_events(events, optimised=optimised, original=self._model, feed=self._feed)


def load_named(file: Path) -> onnx.ModelProto:
    """The model of `file`, every node with a name of its own. Raises `InputError` if it is no ONNX model."""
    try:
        model = onnx.load(str(file))
    except Exception as error:  # what ONNX Runtime takes may be of a format of its own
        raise InputError(f"{file}: not an ONNX model ({in_a_line(error)})") from None
    counts = Counter(node.name for node in model.graph.node)
    for index, node in enumerate(model.graph.node):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.name or node.op_type}#{index}"
    return model


def nodes_of_events(
    events: Sequence[Mapping[str, Any]],
    *,
    optimised: onnx.ModelProto,
    original: onnx.ModelProto,
    feed: Mapping[str, np.ndarray[Any, Any]],
) -> list[ProfiledNode]:
    """The profiler's events, with what the optimised graph knows of each node (weights, attributes)."""
    graph_nodes = {node.name: node for node in optimised.graph.node}
    times_us: dict[str, list[float]] = defaultdict(list)
    run_outputs: dict[str, list[TensorShape]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(KERNEL_TIME):
            continue
        name = name.removesuffix(KERNEL_TIME)
        if name in graph_nodes:
            times_us[name].append(float(event["dur"]))
            run_outputs[name] = _profiled_shapes(event["args"]["output_type_shape"])
    shapes = {name: TensorShape(values.shape, values.itemsize) for name, values in feed.items()}
    shapes |= {tensor.name: _weight_shape(tensor) for tensor in optimised.graph.initializer}
    sources = _Sources(original)
    nodes = []
    for name in times_us:  # in order of execution: a dictionary keeps the order of the first run
        node = graph_nodes[name]
        inputs = tuple(shapes.get(value, ABSENT) for value in node.input)
        outputs = tuple(run_outputs[name])
        source = sources.of(node)
        shapes |= dict(zip((output for output in node.output if output), outputs, strict=False))
        nodes.append(
            ProfiledNode(
                name,
                source,
                node.op_type,
                integer_attributes(node),
                inputs,
                outputs,
                sources.useful_share(source, inputs) if "Conv" in node.op_type else 1.0,
                quiet_mean_us(times_us[name]),
            )
        )
    return nodes


def quiet_mean_us(times_us: Sequence[float]) -> float:
    """Mean of the fastest tenth of a node's times, the lost half microsecond put back.

    Neighbours slow a node in some runs only; a mean of whole microseconds is finer than any one of them.
    """
    fastest = sorted(times_us)[: max(LEAST_QUIET_RUNS, int(len(times_us) * QUIET_SHARE))]
    return float(np.mean(fastest)) + TRUNCATED_US


def settle(times_us: Sequence[float], whole_us: float, *, shift_us: float, least_us: float) -> Settled:
    """Make the nodes' times sum to `whole_us`.

    First the profiler's own cost, `shift_us`, is taken off each, down to `least_us`; then all are scaled alike.
    """
    shifted = np.maximum(np.array(times_us) - shift_us, least_us)
    scale = whole_us / float(shifted.sum())
    return Settled(tuple((shifted * scale).tolist()), shift_us, scale)


def module_name(source: str) -> str:
    """PyTorch's name of the module that an exported node comes from: `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`.

    A name of another make is left as it is.
    """
    if not source.startswith("/") or source.count("/") < 2:
        return source
    parts: list[str] = []
    for scope in source.strip("/").split("/")[:-1]:
        if parts and scope.startswith(parts[-1] + "."):
            parts[-1] = scope
        else:
            parts.append(scope)
    return ".".join(parts)


class _Sources:
    """Finds the node of the original graph that a node of the optimised graph came from."""

    def __init__(self, original: onnx.ModelProto) -> None:
        self._maker = {output: node for node in original.graph.node for output in node.output}
        self._nodes = {node.name: node for node in original.graph.node}
        self._weight_values = {tensor.name: math.prod(tensor.dims) for tensor in original.graph.initializer}

    def of(self, node: onnx.NodeProto) -> str | None:
        if node.name in self._nodes:
            return str(node.name)
        for value in (node.name.removesuffix(NCHWC), *node.output):
            if value in self._maker:
                return self._multiply_add(value, node.op_type)
        return None

    def useful_share(self, source: str | None, inputs: Sequence[TensorShape]) -> float:
        """Of a convolution: its weights in the file, divided by those that the runtime padded them to."""
        if source is None or len(inputs) < 2 or not inputs[1].is_weight:
            return 1.0
        before = self._weight_values.get(self._nodes[source].input[1]) if len(self._nodes[source].input) > 1 else None
        return 1.0 if before is None else min(1.0, before / inputs[1].values)

    def _multiply_add(self, value: str, op: str) -> str:
        """A convolution that took in its activation is named after that: walk back to the convolution."""
        first = maker = self._maker[value]
        if "Conv" in op or "Gemm" in op or "MatMul" in op:
            while maker.op_type not in MULTIPLY_ADD_OPS:
                makers = [self._maker[value] for value in maker.input if value in self._maker]
                if not makers:
                    return str(first.name)
                maker = makers[0]
        return str(maker.name)


def _profiled_shapes(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[TensorShape]:
    return [TensorShape(tuple(dims), TYPE_BYTES.get(kind, 4)) for shape in listed for kind, dims in shape.items()]


def _weight_shape(tensor: onnx.TensorProto) -> TensorShape:
    value_bytes = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return TensorShape(tuple(tensor.dims), value_bytes, is_weight=True)


def integer_attributes(node: onnx.NodeProto) -> dict[str, tuple[int, ...]]:
    kinds = {onnx.AttributeProto.INT, onnx.AttributeProto.INTS}
    return {
        attribute.name: tuple(attribute.ints) if attribute.ints else (attribute.i,)
        for attribute in node.attribute
        if attribute.type in kinds
    }

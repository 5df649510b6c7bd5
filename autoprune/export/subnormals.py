"""Weights too small for a normal float32: they can make a CPU several times slower, and say nothing to the result."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Values = np.ndarray[Any, Any]

EXPONENT_BITS, MANTISSA_BITS = np.uint32(0x7F800000), np.uint32(0x007FFFFF)


def count_subnormals(model: onnx.ModelProto) -> int:
    """Subnormal float32 weights of a model, in branches of `If` and bodies of `Loop` too."""
    return sum(int(np.count_nonzero(_subnormal(tensor)[1])) for tensor in _tensors(model.graph))


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Set every such weight to zero, in place; how many there were."""
    flushed = 0
    for tensor in _tensors(model.graph):
        values, subnormal = _subnormal(tensor)
        if subnormal.any():
            flushed += int(np.count_nonzero(subnormal))
            tensor.CopyFrom(numpy_helper.from_array(np.where(subnormal, np.float32(0), values), tensor.name))
    return flushed


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:  # a `Constant`
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _tensors(inner)


def _subnormal(tensor: onnx.TensorProto) -> tuple[Values, Values]:
    """The values of a tensor, and which of them are subnormal; of equal shape."""
    values = numpy_helper.to_array(tensor)
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return values, np.zeros(values.shape, dtype=bool)
    # By their bits: once ONNX Runtime has run on this thread, comparisons take subnormal numbers for zero.
    bits = np.ascontiguousarray(values).view(np.uint32)
    return values, ((bits & EXPONENT_BITS == 0) & (bits & MANTISSA_BITS != 0)).reshape(values.shape)

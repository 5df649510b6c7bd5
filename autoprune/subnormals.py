"""Weights too small for a normal float32: they can make a CPU several times slower, and say nothing to the result."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

EXPONENT_BITS, MANTISSA_BITS = np.uint32(0x7F800000), np.uint32(0x007FFFFF)


def count_subnormals(model: onnx.ModelProto) -> int:
    """Subnormal float32 weights of a model, in branches of `If` and bodies of `Loop` too."""
    return sum(_count(tensor) for tensor in _tensors(model.graph))


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


def _count(tensor: onnx.TensorProto) -> int:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return 0
    # By their bits: once ONNX Runtime has run on this thread, comparisons take subnormal numbers for zero.
    bits = np.ascontiguousarray(numpy_helper.to_array(tensor)).view(np.uint32)
    return int(np.count_nonzero((bits & EXPONENT_BITS == 0) & (bits & MANTISSA_BITS != 0)))

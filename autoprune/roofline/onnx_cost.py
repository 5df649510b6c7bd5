"""Arithmetic and bytes of single ONNX nodes, those of ONNX Runtime's optimised graphs among them.

Convention: one multiply-add is two floating-point operations (FLOP). Biases, fused activations and fused residual
additions are not counted, as in `autoprune.pruning.cost`; every other elementwise operation is one FLOP for each
value, however hard. A node's inputs, weights and outputs are moved once each. What is counted is what is executed:
channels that the runtime pads to its block of 8 or 16 are counted with their padding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Attributes = Mapping[str, tuple[int, ...]]  # integer attributes only; a single integer is a tuple of one


@dataclass(frozen=True)
class TensorShape:
    """What a node reads or writes. `is_weight`: a constant of the model."""

    dims: tuple[int, ...]
    value_bytes: int = 4
    is_weight: bool = False

    @property
    def values(self) -> int:
        return math.prod(self.dims)

    @property
    def total_bytes(self) -> int:
        return self.values * self.value_bytes


@dataclass(frozen=True)
class NodeCost:
    flop: int
    weight_bytes: int
    activation_bytes: int
    counted: bool  # whether the arithmetic of this kind of node is known; if not, `flop` is 0

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes


Shapes = Sequence[TensorShape]
Count = Callable[[Shapes, Shapes, Attributes], int]


def node_cost(op: str, inputs: Shapes, outputs: Shapes, attributes: Attributes | None = None) -> NodeCost:
    """Cost of one node; `inputs` stand in the order of the node's arguments, those left out at the end are missing."""
    if op in VIEWS:
        return NodeCost(0, 0, 0, counted=True)
    count = COUNTS.get(op)
    weight_bytes = sum(tensor.total_bytes for tensor in inputs if tensor.is_weight)
    activation_bytes = sum(tensor.total_bytes for tensor in (*inputs, *outputs)) - weight_bytes
    flop = 0 if count is None else count(inputs, outputs, attributes or {})
    return NodeCost(flop, weight_bytes, activation_bytes, counted=count is not None)


def _convolution(weight: int) -> Count:
    """Of a convolution whose argument number `weight` is its weight (out, in / groups, kernel...)."""
    return lambda inputs, outputs, _: 2 * outputs[0].values * math.prod(inputs[weight].dims[1:])


def _product(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    return 2 * outputs[0].values * inputs[0].dims[-2 if attributes.get("transA", (0,))[0] else -1]


def _pool(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    return outputs[0].values * math.prod(attributes["kernel_shape"])


# The output is the input's own memory: nothing is moved.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})
# fmt: off
ELEMENTWISE = (
    "Abs", "Add", "BiasGelu", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Elu",
    "Erf", "Exp", "FastGelu", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Mean", "Min",
    "Mul", "Neg", "PRelu", "Pow", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuantizeLinear",
    "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Sum",
    "Tanh", "Where",
)
REDUCTIONS = (
    "ArgMax", "GlobalAveragePool", "GlobalMaxPool", "LogSoftmax", "QLinearGlobalAveragePool", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceSum", "Softmax",
)
MOVES = (
    "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Gather", "MemcpyFromHost", "MemcpyToHost",
    "Pad", "ReorderInput", "ReorderOutput", "Resize", "Shape", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose",
    "Upsample",
)
CONVOLUTIONS = ("Conv", "FusedConv", "ConvInteger", "NhwcFusedConv")
PRODUCTS = (
    "Gemm", "FusedGemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul",
    "FusedMatMul",
)
POOLS = ("MaxPool", "AveragePool", "LpPool")
NORMALISATIONS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "SkipLayerNormalization")
# fmt: on
COUNTS: dict[str, Count] = {
    **dict.fromkeys(ELEMENTWISE, lambda inputs, outputs, _: outputs[0].values),
    **dict.fromkeys(REDUCTIONS, lambda inputs, outputs, _: inputs[0].values),
    **dict.fromkeys(MOVES, lambda inputs, outputs, _: 0),
    **dict.fromkeys(CONVOLUTIONS, _convolution(weight=1)),
    "QLinearConv": _convolution(weight=3),
    # Weight (in, out / groups, kernel...): each input value meets all the rest of it.
    "ConvTranspose": lambda inputs, outputs, _: 2 * inputs[0].values * math.prod(inputs[1].dims[1:]),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(NORMALISATIONS, lambda inputs, outputs, _: 2 * outputs[0].values),  # a scale and a shift
}

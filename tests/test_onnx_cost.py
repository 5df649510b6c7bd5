"""Arithmetic and bytes of each kind of node, worked out by hand."""

import pytest

from autoprune.roofline.onnx_cost import NodeCost, TensorShape, node_cost


def x(*dims: int) -> TensorShape:
    return TensorShape(dims)


def w(*dims: int) -> TensorShape:
    return TensorShape(dims, is_weight=True)


def test_convolution() -> None:
    """3→8 channels, 3×3, on 4×4: 8·3·9·16 = 3,456 multiply-adds; 216 + 8 weights, 48 values in and 128 out."""
    for op in ("Conv", "FusedConv"):
        cost = node_cost(op, [x(1, 3, 4, 4), w(8, 3, 3, 3), w(8)], [x(1, 8, 4, 4)])
        assert cost == NodeCost(2 * 3_456, 4 * 224, 4 * 176, counted=True)
        assert cost.total_bytes == 4 * 400


def test_convolution_of_a_batch_with_stride_and_groups() -> None:
    """Two images, 8→8 channels in 4 groups (2 in each), 3×3, onto 2×2 pixels: 2·8·4·2·9 multiply-adds."""
    cost = node_cost("Conv", [x(2, 8, 4, 4), w(8, 2, 3, 3)], [x(2, 8, 2, 2)])
    assert cost.flop == 2 * 2 * 8 * 4 * 2 * 9
    depthwise = node_cost("Conv", [x(1, 8, 4, 4), w(8, 1, 3, 3)], [x(1, 8, 4, 4)])
    assert depthwise.flop == 2 * 8 * 16 * 9


def test_a_fused_residual_is_read_too() -> None:
    plain = node_cost("Conv", [x(1, 8, 4, 4), w(8, 8, 1, 1), w(8)], [x(1, 8, 4, 4)])
    fused = node_cost("Conv", [x(1, 8, 4, 4), w(8, 8, 1, 1), w(8), x(1, 8, 4, 4)], [x(1, 8, 4, 4)])
    assert fused.flop == plain.flop
    assert fused.activation_bytes - plain.activation_bytes == 4 * 128


def test_transposed_convolution() -> None:
    """4→6 channels, 2×2 kernel, 3×3 pixels in: each of 36 values meets 6·4 weights."""
    assert node_cost("ConvTranspose", [x(1, 4, 3, 3), w(4, 6, 2, 2)], [x(1, 6, 6, 6)]).flop == 2 * 36 * 24


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "macs"),
    [
        ("Gemm", [x(2, 12), w(5, 12), w(5)], [x(2, 5)], {"transB": (1,)}, 2 * 12 * 5),
        ("Gemm", [x(12, 2), w(12, 5)], [x(2, 5)], {"transA": (1,)}, 2 * 12 * 5),
        ("FusedGemm", [x(3, 4), w(4, 7), w(7)], [x(3, 7)], {}, 3 * 4 * 7),
        ("MatMul", [x(2, 3, 4), x(2, 4, 5)], [x(2, 3, 5)], {}, 2 * 3 * 4 * 5),
        ("FusedMatMul", [x(4, 3), x(4, 5)], [x(3, 5)], {"transA": (1,)}, 3 * 4 * 5),
        ("QLinearConv", [x(1, 3, 4, 4), w(), w(), w(8, 3, 3, 3)], [x(1, 8, 4, 4)], {}, 3_456),
    ],
)
def test_multiply_adds(op, inputs, outputs, attributes, macs) -> None:
    assert node_cost(op, inputs, outputs, attributes).flop == 2 * macs


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "flop"),
    [
        ("MaxPool", [x(1, 2, 4, 4)], [x(1, 2, 2, 2)], {"kernel_shape": (3, 3)}, 8 * 9),
        ("AveragePool", [x(1, 2, 4, 4)], [x(1, 2, 2, 2)], {"kernel_shape": (2, 2)}, 8 * 4),
        ("GlobalAveragePool", [x(1, 2, 4, 4)], [x(1, 2, 1, 1)], {}, 32),
        ("ReduceMean", [x(1, 2, 4, 4)], [x(1, 2)], {"axes": (2, 3)}, 32),
        ("Relu", [x(1, 2, 4, 4)], [x(1, 2, 4, 4)], {}, 32),
        ("Add", [x(1, 2, 4, 4), x(1, 2, 1, 1)], [x(1, 2, 4, 4)], {}, 32),
        ("BatchNormalization", [x(1, 2, 4, 4), w(2), w(2), w(2), w(2)], [x(1, 2, 4, 4)], {}, 64),
        ("ReorderInput", [x(1, 17, 4, 4)], [x(1, 24, 4, 4)], {"channels_last": (0,)}, 0),
        ("ReorderOutput", [x(1, 24, 4, 4)], [x(1, 17, 4, 4)], {"channels": (17,)}, 0),
        ("Concat", [x(1, 2), x(1, 3)], [x(1, 5)], {"axis": (1,)}, 0),
    ],
)
def test_the_rest(op, inputs, outputs, attributes, flop) -> None:
    cost = node_cost(op, inputs, outputs, attributes)
    assert cost.counted
    assert cost.flop == flop
    assert cost.total_bytes == 4 * sum(tensor.values for tensor in (*inputs, *outputs))


def test_views_move_nothing() -> None:
    assert node_cost("Flatten", [x(1, 2, 4, 4)], [x(1, 32)]) == NodeCost(0, 0, 0, counted=True)


def test_an_unknown_kind_is_said_to_be_unknown() -> None:
    assert node_cost("NonMaxSuppression", [x(4)], [x(2)]) == NodeCost(0, 0, 24, counted=False)


def test_bytes_follow_the_type() -> None:
    half, byte = TensorShape((10,), 2), TensorShape((10,), 1)
    assert node_cost("QuantizeLinear", [half], [byte]).total_bytes == 30

"""The small graphs that layers are timed in are what they say; times are only compared where they differ grossly."""

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.measure.device import this_device
from autoprune.prediction import layer_bench
from autoprune.prediction.layer_bench import (
    EPILOGUE_OPS,
    LayerInGraph,
    _Carrier,
    _carrier_model,
    _carriers,
    _layer_model,
    measure_layers,
)
from autoprune.pruning.cost import LayerShape
from autoprune.runtimes.onnxruntime import OnnxRuntime, make_session

ONE = (1, 1)
CONV = LayerShape("conv", 3, 8, (3, 3), (2, 2), ONE, ONE, 1, (9, 9), (5, 5), bias=True)
OBLONG = LayerShape("conv", 2, 5, (1, 3), (1, 2), (0, 1), ONE, 1, (4, 7), (4, 4), bias=True)
DEPTHWISE = LayerShape("depthwise", 6, 6, (3, 1), ONE, (1, 0), ONE, 6, (4, 4), (4, 4), bias=False)
GROUPED = LayerShape("conv", 6, 4, (3, 3), ONE, ONE, ONE, 2, (5, 7), (5, 7), bias=False)
DILATED = LayerShape("conv", 6, 4, (3, 3), ONE, (2, 2), (2, 2), 1, (5, 7), (5, 7), bias=False)
LINEAR = LayerShape("linear", 12, 5, ONE, ONE, (0, 0), ONE, 1, ONE, ONE, bias=True)
ROWS = LayerShape("linear", 12, 5, ONE, ONE, (0, 0), ONE, 1, (7, 1), (7, 1), bias=True)
SHAPES = {
    "conv": CONV,
    "oblong": OBLONG,
    "depthwise": DEPTHWISE,
    "grouped": GROUPED,
    "dilated": DILATED,
    "linear": LINEAR,
    "rows": ROWS,
}
LAYERS = [
    *(LayerInGraph(shape) for shape in SHAPES.values()),
    *(LayerInGraph(CONV, (op,)) for op in EPILOGUE_OPS),
    LayerInGraph(CONV, ("Add", "Relu")),
    LayerInGraph(DEPTHWISE, ("Clip",)),
    LayerInGraph(CONV, ("Clip", "Add", "Clip")),
    LayerInGraph(ROWS, ("Relu",)),
]
TINY = LayerInGraph(LayerShape("conv", 2, 2, ONE, ONE, (0, 0), ONE, 1, (4, 4), (4, 4), bias=True))
LARGE = LayerInGraph(LayerShape("conv", 64, 64, (3, 3), ONE, ONE, ONE, 1, (28, 28), (28, 28), bias=True))


def name_of(layer: LayerInGraph) -> str:
    return "-".join([next(name for name, shape in SHAPES.items() if shape == layer.shape), *layer.epilogue])


def check(content: bytes) -> None:
    """The sizes of outputs are left to the runtime, so they are inferred first; inputs that do not fit fail then."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)


def outputs(content: bytes, *, rows: int) -> dict[str, np.ndarray]:
    """What every node of a graph makes of random numbers, by the name of its output."""
    model = onnx.load_from_string(content)
    del model.graph.output[:]
    for node in model.graph.node:
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    session = make_session(model.SerializeToString(), threads=1)
    generator = np.random.default_rng(0)
    feed = {
        tensor.name: generator.standard_normal(
            [rows if isinstance(side, str) else side for side in tensor.shape], dtype=np.float32
        )
        for tensor in session.get_inputs()
    }
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_layer_runs_with_its_shape_and_epilogue(layer: LayerInGraph, batch_size: int) -> None:
    content = _layer_model(layer)
    check(content)
    model = onnx.load_from_string(content)
    shape, linear = layer.shape, layer.shape.kind == "linear"
    rows = batch_size * _carriers(layer)[0].rows
    found = outputs(content, rows=rows)
    expected = (rows, shape.out_channels) if linear else (batch_size, shape.out_channels, *shape.out_size)
    assert found["y"].shape == expected
    operations = [node.op_type for node in model.graph.node]
    layer_at = operations.index("Gemm") if linear else max(i for i, op in enumerate(operations) if op == "Conv")
    assert operations[layer_at + 1 :] == [*layer.epilogue, *([] if linear else ["MaxPool"])]
    for index in range(len(layer.epilogue)):
        assert found[f"e{index}"].shape == expected
    if not linear:
        assert found["z"].shape == (batch_size, shape.out_channels, 1, 1)
    [weight] = [initializer for initializer in model.graph.initializer if initializer.name == "w"]
    assert math.prod(weight.dims) == shape.params - (shape.out_channels if shape.bias else 0)
    made = found["x_made"]
    assert made.shape == ((rows, shape.in_channels) if linear else (batch_size, shape.in_channels, *shape.in_size))


def test_a_residual_is_added_and_clipped() -> None:
    found = outputs(_layer_model(LayerInGraph(CONV, ("Add", "Clip"))), rows=1)
    np.testing.assert_allclose(found["e0"], found["y"] + found["r_made"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["e1"], np.clip(found["e0"], 0, 6))


@pytest.mark.parametrize("carrier", [_Carrier("conv", 5, (4, 7)), _Carrier("conv", 1, ONE), _Carrier("linear", 5, ONE)])
def test_carriers_are_graphs_of_their_own(carrier: _Carrier) -> None:
    content = _carrier_model(carrier)
    check(content)
    found = outputs(content, rows=3)
    if carrier.kind == "linear":
        assert found["x_made"].shape == (3, carrier.channels)
    else:
        assert found["x_made"].shape == (3, carrier.channels, *carrier.size)
        assert found["z"].shape == (3, carrier.channels, 1, 1)


def test_what_a_layer_is_carried_by() -> None:
    """Input and residual; positions that share a linear layer are rows of one matrix."""
    assert _carriers(LayerInGraph(CONV, ("Relu",))) == [_Carrier("conv", 3, (9, 9))]
    assert _carriers(LayerInGraph(CONV, ("Add",))) == [_Carrier("conv", 3, (9, 9)), _Carrier("conv", 8, (5, 5))]
    assert _carriers(LayerInGraph(ROWS)) == [_Carrier("linear", 12, (7, 1))]
    assert [carrier.rows for carrier in _carriers(LayerInGraph(ROWS)) + _carriers(LayerInGraph(CONV))] == [7, 1]


PAIRS = st.tuples(st.integers(0, 300), st.integers(0, 300))
ANY_LAYER = st.builds(
    LayerInGraph,
    st.builds(
        LayerShape,
        st.sampled_from(["conv", "depthwise", "linear"]),
        *[st.integers(1, 5000)] * 2,
        *[PAIRS] * 4,
        st.integers(1, 5000),
        *[PAIRS] * 2,
        st.booleans(),
    ),
    st.lists(st.sampled_from(EPILOGUE_OPS), max_size=4).map(tuple),
)


@given(ANY_LAYER)
def test_keys_go_there_and_back(layer: LayerInGraph) -> None:
    read = LayerInGraph.from_key(layer.key)
    assert read == layer
    assert hash(read) == hash(layer)
    assert read.key == layer.key


@given(ANY_LAYER, ANY_LAYER)
def test_keys_are_equal_for_equal_layers_only(first: LayerInGraph, second: LayerInGraph) -> None:
    assert (first.key == second.key) == (first == second)


@pytest.fixture
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is never quiet."""
    monkeypatch.setattr(layer_bench, "SECONDS_A_LAYER", 0.02)


@pytest.mark.usefixtures("little_time")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_kind_of_layer_is_measured(batch_size: int) -> None:
    settled: list[int] = []
    device = this_device(OnnxRuntime(), threads=1, batch_size=batch_size)
    measured = measure_layers(LAYERS, OnnxRuntime(), device, on_settled=settled.append)
    assert list(measured) == LAYERS
    assert all(0 <= layer_ms < 1000 for layer_ms in measured.values())
    assert min(settled) >= 0 and sum(settled) <= len(LAYERS)


@pytest.mark.usefixtures("little_time")
def test_a_large_layer_takes_longer_than_a_tiny_one() -> None:
    """By a factor of 400,000 in multiply-adds."""
    assert LARGE.shape.macs > 400_000 * TINY.shape.macs
    measured = measure_layers([TINY, LARGE], OnnxRuntime(), this_device(OnnxRuntime(), threads=1, batch_size=1))
    assert measured[LARGE] > 5 * measured[TINY]
    assert measured[LARGE] > 0.01

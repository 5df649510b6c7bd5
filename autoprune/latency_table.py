"""Predicted latency: layers measured one by one in ONNX Runtime, summed, and corrected by a few whole models."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from autoprune.cost import CutShapes, LayerShape
from autoprune.latency import make_session
from autoprune.policy import PruningPolicy

OPSET = 17
IR_VERSION = 9
WARM_UP_RUNS = 3
TIMED_S = 0.012
LEAST_RUNS = 15
LOW_PERCENTILE = 25  # interruptions only ever add time, so a low percentile is steadier than the median
STEP_TOLERANCE = 0.01  # a narrower width must be at least this much faster to be a rung


def measure_layer_ms(shape: LayerShape, *, threads: int, batch_size: int) -> float:
    """Time of one layer, with its ReLU, alone in ONNX Runtime."""
    session = make_session(_single_layer_model(shape), threads=threads)
    rows = math.prod(shape.in_size)  # of a linear layer: positions that share it
    size = (
        (batch_size * rows, shape.in_channels)
        if shape.kind == "linear"
        else (batch_size, shape.in_channels, *shape.in_size)
    )
    feed = {"x": np.random.default_rng(0).standard_normal(size, dtype=np.float32)}
    for _ in range(WARM_UP_RUNS):
        session.run(None, feed)
    times_ms: list[float] = []
    deadline = time.perf_counter() + TIMED_S
    while len(times_ms) < LEAST_RUNS or time.perf_counter() < deadline:
        started = time.perf_counter()
        session.run(None, feed)
        times_ms.append((time.perf_counter() - started) * 1e3)
    return float(np.percentile(times_ms, LOW_PERCENTILE))


class LatencyTable:
    """Measured time of single layers by shape; a shape that is not there yet is measured when it is asked for."""

    def __init__(self, *, threads: int, batch_size: int, entries: Mapping[LayerShape, float] | None = None) -> None:
        self.threads, self.batch_size = threads, batch_size
        self.entries: dict[LayerShape, float] = dict(entries or {})

    def layer_ms(self, shape: LayerShape) -> float:
        if shape not in self.entries:
            self.entries[shape] = measure_layer_ms(shape, threads=self.threads, batch_size=self.batch_size)
        return self.entries[shape]

    def sum_ms(self, shapes: Iterable[LayerShape]) -> float:
        return sum(self.layer_ms(shape) for shape in shapes)

    def as_json(self) -> list[dict[str, Any]]:
        return [{**asdict(shape), "ms": ms} for shape, ms in self.entries.items()]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]], *, threads: int, batch_size: int) -> "LatencyTable":
        entries = {}
        for row in rows:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
            }
            ms = fields.pop("ms")
            entries[LayerShape(**fields)] = float(ms)
        return cls(threads=threads, batch_size=batch_size, entries=entries)


@dataclass(frozen=True)
class AffineFit:
    """measured latency = offset_ms + scale * sum of the layers' times."""

    offset_ms: float
    scale: float

    def apply(self, sum_ms: float) -> float:
        return self.offset_ms + self.scale * sum_ms


def fit_affine(sums_ms: Sequence[float], measured_ms: Sequence[float]) -> AffineFit:
    """Least squares on relative errors; a fit that would make larger models faster falls back to a plain ratio."""
    sums, measured = np.array(sums_ms), np.array(measured_ms)
    weights = 1.0 / measured
    design = np.stack([np.ones_like(sums), sums], axis=1) * weights[:, None]
    offset_ms, scale = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)[0]
    if scale <= 0 or offset_ms + scale * sums.min() <= 0:
        return AffineFit(0.0, float(np.median(measured / sums)))
    return AffineFit(float(offset_ms), float(scale))


class LatencyPredictor:
    """Predicted latency of any cut. Looking up a policy costs a sum over its layers."""

    def __init__(self, shapes: CutShapes, table: LatencyTable, fit: AffineFit) -> None:
        self.shapes, self.table, self.fit = shapes, table, fit

    def predicted_latency_ms(self, policy: PruningPolicy) -> float:
        return self.fit.apply(self.table.sum_ms(self.shapes.layers(policy).values()))


def candidate_widths(channels: int, *, min_keep: float, max_rungs: int) -> tuple[int, ...]:
    """At most `max_rungs` widths with equal steps, down from all channels to `min_keep` of them (at least one)."""
    step = max(1, -(-channels // max_rungs))
    least = max(1, round(min_keep * channels))
    return tuple(sorted(range(channels, least - 1, -step)))


def staircase(widths: Sequence[int], cost: Callable[[int], float]) -> tuple[int, ...]:
    """The widths worth having: those that no wider one matches in time (latency is a staircase, and not monotone)."""
    kept = [max(widths)]
    least = cost(kept[0])
    for width in sorted(widths, reverse=True)[1:]:
        time_of_width = cost(width)
        if time_of_width < least * (1 - STEP_TOLERANCE):
            kept.append(width)
            least = time_of_width
    return tuple(sorted(kept))


def _single_layer_model(shape: LayerShape) -> bytes:
    generator = np.random.default_rng(0)
    if shape.kind == "linear":
        weight = generator.standard_normal((shape.out_channels, shape.in_channels), dtype=np.float32)
        inputs: list[int | str] = ["batch", shape.in_channels]
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
        nodes, output = [node], "y"
    else:
        weight = generator.standard_normal(
            (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel), dtype=np.float32
        )
        inputs = ["batch", shape.in_channels, *shape.in_size]
        node = helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["y"],
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=(*shape.padding, *shape.padding),
            dilations=shape.dilation,
            group=shape.groups,
        )
        nodes, output = [node, helper.make_node("Relu", ["y"], ["z"])], "z"
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weight * np.float32(0.1), "w"),
            numpy_helper.from_array(np.zeros(shape.out_channels, dtype=np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content

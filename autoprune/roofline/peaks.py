"""What this machine can do in ONNX Runtime: peak arithmetic, bandwidth of cache and memory, cost of an empty node.

Every probe is a model of its own, and is held to its fastest calls: a peak is a limit, and neighbours only hide it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from autoprune.export.small_graph import small_model
from autoprune.measure.device import last_level_cache_bytes
from autoprune.measure.timing import no_garbage_collection, time_once_ms
from autoprune.runtimes.onnxruntime import make_session, onnxruntime

Floats = np.ndarray[Any, np.dtype[np.float32]]

FLOAT_BYTES = 4
LARGEST_MEMORY_PROBE_BYTES = 256 * 2**20

CONV_PROBES = ((64, 56), (128, 28), (256, 14))  # channels, pixels a side: 3×3 convolutions of about 0.23 GFLOP
CONV = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
MATMUL_PROBE = 512  # rows, columns and depth
CACHE_PROBES = (2**14, 2**16, 2**18)  # values: 64 KiB to 1 MiB, so that a first- or second-level cache holds them
CHAIN, MEMORY_CHAIN, EMPTY_CHAIN = 16, 2, 64  # nodes more than in the probe that they are compared with
LEAST_CALLS, MOST_CALLS, PROBE_MS = 8, 400, 150.0
FLOOR_CALLS = 3


@dataclass(frozen=True)
class Peaks:
    """The best that was reached here; `node_us` and `call_us`: an empty node, and a call without nodes."""

    gflops: float
    cache_gbps: float
    memory_gbps: float
    node_us: float
    call_us: float


def measure_peaks(*, threads: int) -> Peaks:
    """Measure this machine with `threads` threads, in about two seconds."""
    square = (MATMUL_PROBE, MATMUL_PROBE)
    flop_rates = [2 * MATMUL_PROBE**3 / _floor_us(_product_probe(MATMUL, square, square, threads=threads))]
    for channels, pixels in CONV_PROBES:
        dims, weight_dims = (1, channels, pixels, pixels), (channels, channels, 3, 3)
        probe = _product_probe(CONV, dims, weight_dims, threads=threads)
        flop_rates.append(2 * pixels * pixels * math.prod(weight_dims) / _floor_us(probe))
    one_us = _floor_us(_chain_probe(1, 1, threads=threads))
    many_us = _floor_us(_chain_probe(1 + EMPTY_CHAIN, 1, threads=threads))
    node_us = max((many_us - one_us) / EMPTY_CHAIN, 0.0)
    memory_bytes = min(2 * last_level_cache_bytes(), LARGEST_MEMORY_PROBE_BYTES)
    return Peaks(
        gflops=max(flop_rates) * 1e-3,
        cache_gbps=max(_bandwidth(values, CHAIN, threads=threads) for values in CACHE_PROBES),
        memory_gbps=_bandwidth(memory_bytes // FLOAT_BYTES, MEMORY_CHAIN, threads=threads),
        node_us=node_us,
        call_us=max(one_us - node_us, 0.0),
    )


def best_of(first: Peaks, second: Peaks) -> Peaks:
    """The better figure of each kind, of two measurements at different moments."""
    return Peaks(
        max(first.gflops, second.gflops),
        max(first.cache_gbps, second.cache_gbps),
        max(first.memory_gbps, second.memory_gbps),
        min(first.node_us, second.node_us),
        min(first.call_us, second.call_us),
    )


def _bandwidth(values: int, nodes: int, *, threads: int) -> float:
    """GB/s of an elementwise node that reads and writes `values` floats: what `nodes` more of them take.

    The difference leaves out the call and the first node, whose output is other memory than its input.
    """
    short = _floor_us(_chain_probe(1, values, threads=threads))
    long = _floor_us(_chain_probe(1 + nodes, values, threads=threads))
    moved = 2 * FLOAT_BYTES * values * nodes
    # A disturbed short probe would make the rest look too fast: never faster than twice the long one's mean.
    return moved / max(long - short, 0.5 * long * nodes / (nodes + 1)) * 1e-3


class _Probe:
    """A model whose input and output, of one shape, stay where they are, so that no call allocates memory."""

    def __init__(self, content: bytes, inputs: Floats, *, threads: int) -> None:
        self._session = make_session(content, threads=threads)
        self._binding = self._session.io_binding()
        self._held = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (inputs, np.zeros_like(inputs))]
        self._binding.bind_ortvalue_input("x", self._held[0])
        self._binding.bind_ortvalue_output("y", self._held[1])

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _floor_us(probe: _Probe) -> float:
    """The third fastest of up to `MOST_CALLS` calls: an undisturbed one, and no jump of the clock."""
    times_ms: list[float] = []
    with no_garbage_collection():
        probe()
        while len(times_ms) < LEAST_CALLS or (len(times_ms) < MOST_CALLS and sum(times_ms) < PROBE_MS):
            times_ms.append(time_once_ms(probe))
    return sorted(times_ms)[FLOOR_CALLS - 1] * 1e3


def _product_probe(node: NodeProto, dims: Sequence[int], weight_dims: Sequence[int], *, threads: int) -> _Probe:
    """Of a node that makes `y` of `x`, both of the shape `dims`, and a weight `w`."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal(weight_dims, dtype=np.float32)
    content = small_model([node], {"x": dims}, "y", {"w": weight})
    return _Probe(content, generator.standard_normal(dims, dtype=np.float32), threads=threads)


def _chain_probe(nodes: int, values: int, *, threads: int) -> _Probe:
    return _Probe(chain_model(nodes, values), np.ones(values, dtype=np.float32), threads=threads)


def chain_model(nodes: int, values: int) -> bytes:
    """`nodes` times Relu in a row on `values` floats; from the second on the runtime works in place."""
    names = ["x", *(f"t{index}" for index in range(1, nodes)), "y"]
    chain = [helper.make_node("Relu", [before], [after], name=after) for before, after in pairwise(names)]
    return small_model(chain, {"x": (values,)}, "y", {})

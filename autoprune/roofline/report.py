"""What bounds each layer of an ONNX file: its arithmetic and bytes against the peaks of this machine.

Williams, Waterman and Patterson 2009 ("Roofline"): a node can be no faster than its arithmetic at the peak rate, nor
than its bytes at the peak bandwidth. Both peaks, and what an empty node costs, are measured in ONNX Runtime with the
same threads in the same run, so that the limits are the runtime's and not a data sheet's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from autoprune.bench.measurement import Subject
from autoprune.errors import RunError
from autoprune.measure.device import last_level_cache_bytes
from autoprune.measure.timing import quiet_time, time_rounds
from autoprune.roofline.ort_profile import NodeProfiler, ProfiledNode, load_named, module_name, settle
from autoprune.roofline.peaks import Peaks, best_of, chain_model, measure_peaks

Bound = Literal["compute", "memory", "overhead"]

LIMIT_S = 5.0
LEAST_ROUNDS, MOST_ROUNDS = 10, 400  # so many, of two calls each, make a clear profile
EMPTY_NODES = 33
LEAST_NODE_US = 0.05
LEAST_PEAK_NODE_US = 10.0  # a shorter node's time is too rough to make it a peak
CACHE_SHARE = 0.5  # what must stay in the last-level cache shares it with all else


@dataclass(frozen=True)
class RooflineNode:
    """One node of the optimised graph; times in microseconds a call, arithmetic as executed (padding included)."""

    name: str  # in the optimised graph
    source: str | None  # the node of the file that it comes from
    layer: str  # the module's name, where the file tells it
    op: str
    output_dims: tuple[int, ...]
    time_us: float
    flop: int
    weight_bytes: int
    activation_bytes: int
    flop_counted: bool
    useful_share: float  # of `flop`, 0..1: the rest is spent on padded channels
    cached: bool  # held against the bandwidth of the cache, not of memory
    bound: Bound
    bound_us: float  # no faster at the measured peaks: the longer of arithmetic and bytes

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes

    @property
    def gflops(self) -> float:
        return self.flop / self.time_us * 1e-3

    @property
    def gbps(self) -> float:
        return self.total_bytes / self.time_us * 1e-3

    @property
    def excess_us(self) -> float:
        """Time above the bound: at most so much can be won with this arithmetic and these bytes."""
        return max(0.0, self.time_us - self.bound_us)


@dataclass(frozen=True)
class Roofline:
    """A file's nodes in order of execution, and the peaks that they are held against."""

    file: str
    input_shape: tuple[int, ...]
    threads: int
    peaks: Peaks
    whole_ms: float  # measured without the profiler
    disturbed_share: float  # of the calls timed, 0..1: slower than that by more than a tenth
    profiler_shift_us: float  # taken off each node: the profiler's own cost
    profiler_scale: float  # all were multiplied by it to sum to the whole
    nodes: tuple[RooflineNode, ...]

    @property
    def flop(self) -> int:
        return sum(node.flop for node in self.nodes)

    @property
    def padding_flop(self) -> float:
        """What of the arithmetic is spent on channels that the runtime pads."""
        return sum(node.flop * (1 - node.useful_share) for node in self.nodes)

    @property
    def lower_bound_ms(self) -> float:
        """The sum over the nodes of the longer of their arithmetic and their bytes, at the measured peaks."""
        return sum(node.bound_us for node in self.nodes) / 1e3

    @property
    def overhead_ms(self) -> float:
        """What a call of this many empty nodes would take."""
        return (self.peaks.call_us + len(self.nodes) * self.peaks.node_us) / 1e3

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "flop": self.flop,
            "padding_flop": self.padding_flop,
            "lower_bound_ms": self.lower_bound_ms,
            "overhead_ms": self.overhead_ms,
            "nodes": [
                {**asdict(node), "gflops": node.gflops, "gbps": node.gbps, "excess_us": node.excess_us}
                for node in self.nodes
            ],
        }


def roofline_report(subject: Subject, *, threads: int) -> Roofline:
    """Measure a file, in ONNX Runtime on the CPU with so many `threads`, and the machine, in about ten seconds."""
    model, feed = load_named(Path(subject.source)), {subject.spec.name: subject.images}
    before = measure_peaks(threads=threads)
    empty = onnx.load_from_string(chain_model(EMPTY_NODES, 1))
    one = {"x": np.ones(1, dtype=np.float32)}
    with (
        NodeProfiler(model, feed, threads=threads) as profiler,
        NodeProfiler(empty, one, threads=threads) as empty_profiler,
    ):
        # Those that profile run as often in between, so that a slow spell of the machine falls on all.
        samples_ms = time_rounds(
            [subject.call, profiler.run, empty_profiler.run],
            rounds=MOST_ROUNDS, runs=1, rng=np.random.default_rng(0), limit_s=LIMIT_S, least_rounds=LEAST_ROUNDS,
        )  # fmt: skip
        nodes, empty_nodes = profiler.nodes(), empty_profiler.nodes()
    if not nodes:
        raise RunError(f"{subject.source}: ONNX Runtime's profiler shows no nodes; is the graph empty?")
    peaks = best_of(before, measure_peaks(threads=threads))
    whole = quiet_time(samples_ms[0])
    profiler_us = float(np.median([node.profiled_us for node in empty_nodes])) - peaks.node_us
    settled = settle(
        [node.profiled_us for node in nodes],
        max(whole.quiet_ms * 1e3 - peaks.call_us, 0.0),
        shift_us=max(profiler_us, 0.0),
        least_us=max(peaks.node_us, LEAST_NODE_US),
    )
    peaks = raised(peaks, nodes, settled.times_us)
    return Roofline(
        subject.source,
        subject.images.shape,
        threads,
        peaks,
        whole.quiet_ms,
        whole.disturbed_share,
        settled.shift_us,
        settled.scale,
        judge_nodes(nodes, settled.times_us, peaks, cache_bytes=int(CACHE_SHARE * last_level_cache_bytes())),
    )


def judge_nodes(
    nodes: Sequence[ProfiledNode], times_us: Sequence[float], peaks: Peaks, *, cache_bytes: int
) -> tuple[RooflineNode, ...]:
    """Arithmetic, bytes and bound of each node. A node's data are taken to be in the cache if they fit into
    `cache_bytes` together with all weights of the model, which each call reads once."""
    costs = [node.cost for node in nodes]
    all_weights = sum(cost.weight_bytes for cost in costs)
    judged = []
    for node, cost, time_us in zip(nodes, costs, times_us, strict=True):
        cached = all_weights + cost.activation_bytes <= cache_bytes
        flop_us = cost.flop / peaks.gflops * 1e-3
        bytes_us = cost.total_bytes / (peaks.cache_gbps if cached else peaks.memory_gbps) * 1e-3
        judged.append(
            RooflineNode(
                node.name,
                node.source,
                module_name(node.source) if node.source is not None else node.name,
                node.op,
                node.outputs[0].dims if node.outputs else (),
                time_us,
                cost.flop,
                cost.weight_bytes,
                cost.activation_bytes,
                cost.counted,
                node.useful_share,
                cached,
                what_bounds(flop_us=flop_us, bytes_us=bytes_us, overhead_us=peaks.node_us),
                max(flop_us, bytes_us),
            )
        )
    return tuple(judged)


def raised(peaks: Peaks, nodes: Sequence[ProfiledNode], times_us: Sequence[float]) -> Peaks:
    """`peaks`, no lower than the arithmetic of the fastest node: a layer that beats the probes is the better probe."""
    rates = [
        node.cost.flop / time_us * 1e-3
        for node, time_us in zip(nodes, times_us, strict=True)
        if time_us >= LEAST_PEAK_NODE_US
    ]
    return replace(peaks, gflops=max([peaks.gflops, *rates]))


def what_bounds(*, flop_us: float, bytes_us: float, overhead_us: float) -> Bound:
    """The largest of the three lower bounds; `overhead_us` is what an empty node takes."""
    if overhead_us >= max(flop_us, bytes_us):
        return "overhead"
    return "compute" if flop_us >= bytes_us else "memory"

"""Predicted latency: the times of layers inside the graph, summed, and corrected by a few whole models."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.cost import CutShapes
from autoprune.device import Device
from autoprune.layer_bench import LayerInGraph, measure_layers
from autoprune.policy import PruningPolicy
from autoprune.progress import bar
from autoprune.table_store import TableStore

CHUNK = 256  # layers timed in turn and then stored together: a killed process loses no more
BYTES_PER_WEIGHT = 4


class LatencyTable:
    """Measured time of layers on one device; what is not there yet is measured when it is asked for."""

    def __init__(
        self, device: Device, *, store: TableStore | None = None, entries: Mapping[LayerInGraph, float] | None = None
    ) -> None:
        self.device, self.store = device, store
        self.entries: dict[LayerInGraph, float] = dict(entries or {})
        if store is not None:
            self.entries = store.layers() | self.entries

    def layer_ms(self, layer: LayerInGraph) -> float:
        if layer not in self.entries:
            self.ensure([layer])
        return self.entries[layer]

    def ensure(self, layers: Iterable[LayerInGraph], *, description: str = "latency table") -> None:
        """Measure those of `layers` that are missing, and keep them in the store chunk by chunk."""
        missing = [layer for layer in dict.fromkeys(layers) if layer not in self.entries]
        if not missing:
            return
        with bar(description, len(missing)) as progress:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                settled = 0

                def on_progress(count: int, most: int = len(chunk)) -> None:
                    nonlocal settled
                    if settled < min(count, most):
                        progress.advance(min(count, most) - settled)
                        settled = min(count, most)

                if self.store is None:
                    self.entries |= self._measure(chunk, on_progress)
                else:
                    with self.store.measuring() as recorder:
                        self.entries |= recorder.known(chunk)
                        fresh = self._measure([layer for layer in chunk if layer not in self.entries], on_progress)
                        recorder.add(fresh)
                    self.entries |= fresh
                progress.advance(len(chunk) - settled)

    def _measure(self, layers: Sequence[LayerInGraph], on_progress: Callable[[int], None]) -> dict[LayerInGraph, float]:
        if not layers:
            return {}
        return measure_layers(
            layers, threads=self.device.threads, batch_size=self.device.batch_size, on_progress=on_progress
        )


@dataclass(frozen=True)
class LatencyFit:
    """latency = offset_ms + scale * sum of the layers + ms_per_weight_mb * weights that must come from memory."""

    offset_ms: float
    scale: float
    ms_per_weight_mb: float

    def apply(self, sum_ms: float, weight_mb: float) -> float:
        return self.offset_ms + self.scale * sum_ms + self.ms_per_weight_mb * weight_mb


def fit_latency(sums_ms: Sequence[float], weights_mb: Sequence[float], measured_ms: Sequence[float]) -> LatencyFit:
    """Least squares on relative errors.

    The layers are timed with their weights in the cache; a large model's are not, which the last term makes good. A
    term that comes out with the wrong sign is left out: more work never makes a prediction smaller.
    """
    sums, weights, measured = (np.array(values, dtype=float) for values in (sums_ms, weights_mb, measured_ms))
    for columns in (("offset", "sum", "weights"), ("offset", "sum"), ("sum",)):
        known = {"offset": np.ones_like(sums), "sum": sums, "weights": weights}
        design = np.stack([known[column] for column in columns], axis=1) / measured[:, None]
        solution, _, rank, _ = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)
        found = dict(zip(columns, solution.tolist(), strict=True))
        fit = LatencyFit(found.get("offset", 0.0), found["sum"], found.get("weights", 0.0))
        predicted = fit.offset_ms + fit.scale * sums + fit.ms_per_weight_mb * weights
        if rank == len(columns) and fit.scale > 0 and fit.ms_per_weight_mb >= 0 and predicted.min() > 0:
            return fit
    return LatencyFit(0.0, float(np.median(measured / sums)), 0.0)


class LatencyPredictor:
    """Predicted latency of any cut. Looking up a policy costs a dictionary access for each layer."""

    def __init__(
        self, shapes: CutShapes, epilogues: Mapping[str, tuple[str, ...]], table: LatencyTable, fit: LatencyFit
    ) -> None:
        self.shapes, self.epilogues, self.table, self.fit = shapes, epilogues, table, fit
        # For each layer: its owners, and (ms, MB of weights) by their widths.
        self._known: list[tuple[str, tuple[str, ...], dict[tuple[int, ...], tuple[float, float]]]] = [
            (name, owners, {}) for name, owners in shapes.owners.items()
        ]

    def in_graph(self, name: str, channels: Mapping[str, int]) -> LayerInGraph:
        return LayerInGraph(self.shapes.layer(name, channels), self.epilogues[name])

    def predicted_latency_ms(self, policy: PruningPolicy) -> float:
        return self.fit.apply(*self.sums(policy))

    def sums(self, policy: PruningPolicy) -> tuple[float, float]:
        """Sum of the layers' times in ms, and of their weights in MB."""
        channels = dict(policy.channels)
        sum_ms = weight_mb = 0.0
        for name, owners, known in self._known:
            widths = tuple([channels[group] for group in owners])
            found = known.get(widths)
            if found is None:
                layer = self.in_graph(name, channels)
                found = (self.table.layer_ms(layer), layer.shape.params * BYTES_PER_WEIGHT / 1e6)
                known[widths] = found
            sum_ms += found[0]
            weight_mb += found[1]
        return sum_ms, weight_mb

    def layers_ms(self, policy: PruningPolicy) -> dict[str, float]:
        """Time of each layer inside the graph, without what lies between the layers."""
        channels = policy.as_dict()
        return {
            name: self.fit.scale * self.table.layer_ms(layer)
            + self.fit.ms_per_weight_mb * layer.shape.params * BYTES_PER_WEIGHT / 1e6
            for name in self.shapes.original
            for layer in [self.in_graph(name, channels)]
        }

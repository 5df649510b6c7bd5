"""Predicted latency: the times of layers inside the graph, summed, and corrected by a few whole models."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from autoprune.foundation.progress import bar
from autoprune.measure.device import Device
from autoprune.prediction.latency_fit import LatencyFit, LayerSums
from autoprune.prediction.layer_bench import LayerInGraph, measure_layers
from autoprune.prediction.layer_lines import layer_lines
from autoprune.prediction.staircase import Ladders
from autoprune.prediction.table_store import TableStore
from autoprune.pruning.cost import CutShapes
from autoprune.runtimes.runtime import Runtime
from autoprune.space.policy import PruningPolicy

CHUNK = 256  # layers timed in turn and then stored together: a killed process loses no more


class LatencyTable:
    """Measured time of layers on one device, which a runtime is part of; what is not among the `entries` yet is
    measured when it is asked for, and kept in the store that is opened then."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        entries: Mapping[LayerInGraph, float],
        open_store: Callable[[], TableStore],
    ) -> None:
        self.runtime, self.device, self.open_store = runtime, device, open_store
        self.entries = dict(entries)

    def layer_ms(self, layer: LayerInGraph) -> float:
        if layer not in self.entries:
            self.ensure([layer])
        return self.entries[layer]

    def ensure(self, layers: Iterable[LayerInGraph], *, description: str = "latency table") -> None:
        """Measure those of `layers` that are missing, and keep them in the store chunk by chunk."""
        missing = [layer for layer in dict.fromkeys(layers) if layer not in self.entries]
        if not missing:
            return
        store = self.open_store()
        with bar(description, len(missing)) as progress:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                with store.measuring() as recorder:
                    self.entries |= recorder.known(chunk)
                    left = [layer for layer in chunk if layer not in self.entries]
                    fresh = measure_layers(left, self.runtime, self.device, on_settled=progress.advance)
                    recorder.add(fresh)
                self.entries |= fresh
                progress.advance(start + len(chunk) - progress.done)  # those that were known, or did not settle


class LatencyModel:
    """Predicted latency of any cut, and the widths worth trying. Looking up a policy costs a dictionary access for each
    layer."""

    def __init__(
        self,
        shapes: CutShapes,
        epilogues: Mapping[str, tuple[str, ...]],
        table: LatencyTable,
        fit: LatencyFit,
        ladders: Ladders,
    ) -> None:
        """`ladders`, of each group and ascending, tell at which widths layers are measured; without any, at those that
        are asked for."""
        self.shapes, self.epilogues, self.table, self.fit, self.ladders = shapes, epilogues, table, fit, ladders
        self.lines = layer_lines(shapes, ladders) if ladders else {}
        # For each layer: its owners, and (ms, what it takes longer cold, MB of weights) by their widths.
        self._known: list[tuple[str, tuple[str, ...], dict[tuple[int, ...], tuple[float, float, float]]]] = [
            (name, owners, {}) for name, owners in shapes.owners.items()
        ]

    def corrected(self, fit: LatencyFit) -> "LatencyModel":
        """The same layers, with another correction."""
        return LatencyModel(self.shapes, self.epilogues, self.table, fit, self.ladders)

    def in_graph(self, name: str, channels: Mapping[str, int]) -> LayerInGraph:
        return LayerInGraph(self.shapes.layer(name, channels), self.epilogues[name])

    def predicted_latency_ms(self, policy: PruningPolicy) -> float:
        return self.fit.apply(self.sums(policy))

    def sums(self, policy: PruningPolicy) -> LayerSums:
        channels = dict(policy.channels)
        gone = self.shapes.gone_layers(channels)
        cold_extra_ms = weights_mb = 0.0
        layers_ms: list[float] = []
        for name, owners, known in self._known:
            if name in gone:
                layers_ms.append(0.0)
                continue
            widths = tuple([channels[group] for group in owners])
            found = known.get(widths)
            if found is None:
                found = known[widths] = self._layer(name, channels)
            layers_ms.append(found[0])
            cold_extra_ms += found[1]
            weights_mb += found[2]
        return LayerSums(sum(layers_ms), cold_extra_ms, weights_mb, tuple(layers_ms))

    def layers_ms(self, policy: PruningPolicy) -> dict[str, float]:
        """Time of each layer that is left inside the graph, without what lies between the layers."""
        channels = policy.as_dict()
        gone = self.shapes.gone_layers(channels)
        extra_share = self.fit.extra_share(self.sums(policy))
        layers = {name: self._layer(name, channels) for name in self.shapes.original if name not in gone}
        return {name: self.fit.scale * ms + extra_share * extra_ms for name, (ms, extra_ms, _) in layers.items()}

    def resized(self, name: str, inputs: int, outputs: int) -> LayerInGraph:
        """A layer with so many channels on its two sides."""
        shape = self.shapes.original[name].resized(in_channels=inputs, out_channels=outputs)
        return LayerInGraph(shape, self.epilogues[name])

    def _layer(self, name: str, channels: Mapping[str, int]) -> tuple[float, float, float]:
        """Milliseconds, what it takes longer cold, megabytes of weights."""
        layer, lines = self.in_graph(name, channels), self.lines.get(name)
        sides = layer.shape.in_channels, layer.shape.out_channels
        if lines is None or not lines.covers(*sides):
            return self.table.layer_ms(layer), self._cold_extra_ms(layer), layer.weight_bytes / 1e6
        ms = lines.ms(*sides, lambda *near: self.table.layer_ms(self.resized(name, *near)))
        extra_ms = lines.ms(*sides, lambda *near: self._cold_extra_ms(self.resized(name, *near)))
        return ms, extra_ms if layer.is_heavy else 0.0, layer.weight_bytes / 1e6

    def _cold_extra_ms(self, layer: LayerInGraph) -> float:
        if not layer.is_heavy:
            return 0.0
        return max(0.0, self.table.layer_ms(replace(layer, cold=True)) - self.table.layer_ms(layer))


def in_all_conditions(layer: LayerInGraph) -> tuple[LayerInGraph, ...]:
    """What is to be measured of a layer: with its weights in a cache and, if they are many, with them in memory."""
    return (layer, replace(layer, cold=True)) if layer.is_heavy else (layer,)

"""Predicted latency: the times of layers inside the graph, summed, and corrected by a few whole models."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoprune.foundation.progress import bar
from autoprune.measure.device import Device
from autoprune.prediction.latency_residual import LatencyResidual, fit_residual
from autoprune.prediction.layer_bench import COLD_FROM_BYTES, LayerInGraph, measure_layers
from autoprune.prediction.layer_lines import LayerLines
from autoprune.prediction.table_store import TableStore
from autoprune.pruning.cost import CutShapes
from autoprune.runtimes.runtime import Runtime
from autoprune.space.policy import PruningPolicy

CHUNK = 256  # layers timed in turn and then stored together: a killed process loses no more
CACHES_MB = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
SPILLS_MB = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
CLEARLY_SMALLER = 0.7


class LatencyTable:
    """Measured time of layers on one device, which a runtime is part of; what is not there yet is measured when it is
    asked for."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        *,
        store: TableStore | None = None,
        entries: Mapping[LayerInGraph, float] | None = None,
    ) -> None:
        self.runtime, self.device, self.store = runtime, device, store
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

                def on_progress(settled: int, start: int = start, most: int = len(chunk)) -> None:
                    """Of the chunk; what is measured beside the layers is settled too, and counts for nothing."""
                    progress.advance(max(0, start + min(settled, most) - progress.done))

                if self.store is None:
                    self.entries |= measure_layers(chunk, self.runtime, self.device, on_progress=on_progress)
                else:
                    with self.store.measuring() as recorder:
                        self.entries |= recorder.known(chunk)
                        left = [layer for layer in chunk if layer not in self.entries]
                        fresh = measure_layers(left, self.runtime, self.device, on_progress=on_progress)
                        recorder.add(fresh)
                    self.entries |= fresh
                on_progress(len(chunk))


@dataclass(frozen=True)
class LayerSums:
    """Sums over a model's layers: their times with weights in a cache, what they take longer without, the weights."""

    cached_ms: float
    cold_extra_ms: float
    weights_mb: float
    layers_ms: tuple[float, ...] = ()  # what `cached_ms` is the sum of


@dataclass(frozen=True)
class LatencyFit:
    """latency = offset_ms + scale * cached_ms + cold_share * spilled(weights_mb) * cold_extra_ms.

    Of weights up to `cache_mb` a call finds all where the last one left them; the share that it does not find rises
    smoothly over the next `spill_mb`, up to `cold_share` (not 1: the processor fetches ahead). `residual`, where enough
    models were measured, says by what factor models like this one differed from that.
    """

    offset_ms: float
    scale: float
    cold_share: float = 0.0
    cache_mb: float = 0.0
    spill_mb: float = 1.0
    residual: LatencyResidual | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "LatencyFit":
        """From what `dataclasses.asdict` gives, back from JSON."""
        residual = raw.get("residual")
        return cls(**{**raw, "residual": None if residual is None else LatencyResidual.of(residual)})

    def apply(self, sums: LayerSums) -> float:
        return self.explained_ms(sums) * (1.0 if self.residual is None else self.residual.factor(sums.layers_ms))

    def explained_ms(self, sums: LayerSums) -> float:
        """Without the residual."""
        return self.offset_ms + self.scale * sums.cached_ms + self.extra_share(sums) * sums.cold_extra_ms

    def extra_share(self, sums: LayerSums) -> float:
        """How much of what its layers take longer without a cache a model pays, 0..`cold_share`."""
        return self.cold_share * spilled(sums.weights_mb, cache_mb=self.cache_mb, spill_mb=self.spill_mb)


def spilled(weights_mb: float, *, cache_mb: float, spill_mb: float) -> float:
    """0 up to `cache_mb`, 1 from `spill_mb` above it, a smooth step between."""
    share = min(1.0, max(0.0, (weights_mb - cache_mb) / spill_mb))
    return share * share * (3 - 2 * share)


def fit_latency(sums: Sequence[LayerSums], measured_ms: Sequence[float]) -> LatencyFit:
    """Least squares on relative errors, over a grid of cache sizes.

    A term that comes out with the wrong sign is left out: more work never makes a prediction smaller. That of the cache
    must also make the errors clearly smaller, or a handful of models is explained by chance. Of many models, what is
    still left is interpolated.
    """
    plain = _fit_terms(sums, measured_ms, None)
    best = min(
        (_fit_terms(sums, measured_ms, size) for size in itertools.product(CACHES_MB, SPILLS_MB)),
        key=lambda fit: _squared_error(fit, sums, measured_ms),
    )
    is_clear = _squared_error(best, sums, measured_ms) < CLEARLY_SMALLER * _squared_error(plain, sums, measured_ms)
    fit = best if best.cold_share > 0 and is_clear else plain
    left = [math.log(ms / fit.explained_ms(entry)) for entry, ms in zip(sums, measured_ms, strict=True)]
    return replace(fit, residual=fit_residual([entry.layers_ms for entry in sums], left))


def _fit_terms(
    sums: Sequence[LayerSums], measured_ms: Sequence[float], cache: tuple[float, float] | None
) -> LatencyFit:
    """The best offset, scale and, for a `cache` (its size, its spill), cold share, as far as their signs make sense."""
    measured = np.array(measured_ms, dtype=float)
    columns = {"offset_ms": np.ones_like(measured), "scale": np.array([entry.cached_ms for entry in sums])}
    sizes = {}
    if cache is not None:
        sizes = {"cache_mb": cache[0], "spill_mb": cache[1]}
        extra = [spilled(entry.weights_mb, **sizes) * entry.cold_extra_ms for entry in sums]
        columns["cold_share"] = np.array(extra)
    for names in (tuple(columns), ("offset_ms", "scale"), ("scale",)):
        design = np.stack([columns[name] for name in names], axis=1) / measured[:, None]
        solution, _, rank, _ = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)
        found = dict(zip(names, solution.tolist(), strict=True))
        fit = LatencyFit(**{"offset_ms": 0.0, **found, **(sizes if "cold_share" in found else {})})
        predicted = [fit.apply(entry) for entry in sums]
        if rank == len(names) and fit.scale > 0 and fit.cold_share >= 0 and min(predicted) > 0:
            return fit
    # Some model's layers take no time by the table, and the others' do not explain theirs: they count at most half.
    cached = columns["scale"]
    scale = min(1.0, float(np.median(measured)) / 2 / float(cached.max())) if cached.any() else 1.0
    return LatencyFit(float(np.median(measured - scale * cached)), scale)


def _squared_error(fit: LatencyFit, sums: Sequence[LayerSums], measured_ms: Sequence[float]) -> float:
    return sum((fit.apply(entry) / ms - 1) ** 2 for entry, ms in zip(sums, measured_ms, strict=True))


class LatencyPredictor:
    """Predicted latency of any cut. Looking up a policy costs a dictionary access for each layer."""

    def __init__(
        self,
        shapes: CutShapes,
        epilogues: Mapping[str, tuple[str, ...]],
        table: LatencyTable,
        fit: LatencyFit,
        lines: Mapping[str, LayerLines] | None = None,
    ) -> None:
        """`lines` of a layer tell at which widths it is measured; without any, at those that are asked for."""
        self.shapes, self.epilogues, self.table, self.fit = shapes, epilogues, table, fit
        self.lines = dict(lines or {})
        # For each layer: its owners, and (ms, what it takes longer cold, MB of weights) by their widths.
        self._known: list[tuple[str, tuple[str, ...], dict[tuple[int, ...], tuple[float, float, float]]]] = [
            (name, owners, {}) for name, owners in shapes.owners.items()
        ]

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
        return ms, extra_ms if is_heavy(layer) else 0.0, layer.weight_bytes / 1e6

    def _cold_extra_ms(self, layer: LayerInGraph) -> float:
        if not is_heavy(layer):
            return 0.0
        return max(0.0, self.table.layer_ms(replace(layer, cold=True)) - self.table.layer_ms(layer))


def in_all_conditions(layer: LayerInGraph) -> tuple[LayerInGraph, ...]:
    """What is to be measured of a layer: with its weights in a cache and, if they are many, with them in memory."""
    return (layer, replace(layer, cold=True)) if is_heavy(layer) else (layer,)


def is_heavy(layer: LayerInGraph) -> bool:
    """Whether it takes longer with its weights in memory than with them in a cache."""
    return layer.weight_bytes >= COLD_FROM_BYTES

"""Builds the latency model of a network and the ladders of its groups by measuring; what is known is looked up."""

import hashlib
import itertools
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import onnx
from pydantic import Field, TypeAdapter

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.data import DataInfo
from autoprune.errors import RunError
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.scratch import scratch_folder
from autoprune.measure.device import Device, this_device
from autoprune.prediction.graph_context import epilogues
from autoprune.prediction.latency_fit import LatencyFit, fit_latency
from autoprune.prediction.latency_table import LatencyModel, LatencyTable, in_all_conditions
from autoprune.prediction.layer_bench import LayerInGraph, LayerKey
from autoprune.prediction.staircase import (
    alignment,
    candidate_widths,
    least_width,
    scanned_widths,
    settled_steps,
    staircase,
    thinned,
)
from autoprune.prediction.table_store import TableStore, default_table_path
from autoprune.prediction.whole_models import measure_cuts, whole_models
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.groups import PrunableGroup
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.runtime import Runtime
from autoprune.store.kept import Count, Kept, Milliseconds, closed
from autoprune.store.trials import TrialStore

SCANNED_ALIKE = 3  # of the groups that touch the same kinds of layers
NO_FIT = LatencyFit(0.0, 1.0)


@closed
@dataclass(frozen=True)
class MeasuredLatency:
    """What was measured of a model on a device, from which its latency model is made again without measuring."""

    layers: dict[LayerKey, Milliseconds]  # all that policies on the ladders need
    fit: LatencyFit
    ladders: dict[str, Annotated[tuple[Count, ...], Field(min_length=1)]]


LATENCY = Kept("latency", TypeAdapter(MeasuredLatency))


def build_latency_model(
    shapes: CutShapes,
    info: DataInfo,
    *,
    search: SearchConfig,
    measure: MeasureConfig,
    store: TrialStore | None = None,
    table_path: Path | None = None,
) -> LatencyModel:
    """Measure layers, derive ladders, correct by whole models.

    Times go to the shared table at `table_path` (default: in the cache folder), so that later models and runs find
    them; a copy of what this run uses is kept in `store`, so that a resumed run sees the very same figures.
    """
    saved = store.kept(LATENCY) if store is not None else None
    if saved is not None:
        return latency_model_of(saved, shapes, info, measure=measure, table_path=table_path)
    after = _epilogues(shapes, info)
    runtime, device = _ruler(measure)
    shared = TableStore(table_path or default_table_path(), device.key)
    table = LatencyTable(runtime, device, shared.layers(), open_store=lambda: shared)
    ladders = find_ladders(LatencyModel(shapes, after, table, NO_FIT, ladders={}), search)
    unfitted = LatencyModel(shapes, after, table, NO_FIT, ladders)
    table.ensure(_on_ladders(unfitted))
    key = model_key(unfitted)
    fit = shared.fit(key)
    if fit is None:
        policies = whole_models(shapes, ladders)
        sums = [unfitted.sums(policy) for policy in policies]  # may measure layers, which takes the lock itself
        with shared.measuring() as recorder:
            fit = recorder.fit(key)  # another process may have fitted it while this one waited
            if fit is None:
                fit = fit_latency(sums, measure_cuts(shapes, policies, info, measure))
                recorder.add_fit(key, fit)
    found = unfitted.corrected(fit)
    if store is not None:
        store.keep(LATENCY, measured_latency(found))
    return found


def latency_model_of(
    measured: MeasuredLatency,
    shapes: CutShapes,
    info: DataInfo,
    *,
    measure: MeasureConfig,
    table_path: Path | None = None,
    elsewhere: bool = False,
) -> LatencyModel:
    """The model that was measured earlier, or `elsewhere`. What lies between the ladders comes from the shared table;
    of a model that was measured elsewhere it is a `RunError`: this may be another device."""
    runtime, device = _ruler(measure)
    path = table_path or default_table_path()
    open_store = _refuse_to_measure if elsewhere else partial(TableStore, path, device.key)
    table = LatencyTable(runtime, device, measured.layers, open_store)
    return LatencyModel(shapes, _epilogues(shapes, info), table, measured.fit, measured.ladders)


def _refuse_to_measure() -> TableStore:
    raise RunError("a layer was not measured where the search runs, and other devices take other times")


def measured_latency(latency: LatencyModel) -> MeasuredLatency:
    layers = {layer: latency.table.layer_ms(layer) for layer in _on_ladders(latency)}
    return MeasuredLatency(layers, latency.fit, dict(latency.ladders))


def find_ladders(latency: LatencyModel, search: SearchConfig) -> dict[str, tuple[int, ...]]:
    """Each group's ladder from measured times.

    The uppermost widths of some groups are measured one by one, which shows at what distance the steps lie; the widths
    at that distance are then measured all the way down. Steps come from the kernels: of the wide groups that touch the
    same kinds of layers, the few widest are scanned, and the others follow them. Where a branch may go, no channel at
    all is one more.
    """
    groups = latency.shapes.elastic.groups
    widths = {group.name: scanned_widths(group.channels, min_keep=search.min_keep) for group in groups}
    alike: dict[Hashable, list[PrunableGroup]] = {}  # those that are wide; the others are scanned whole
    for group in sorted(groups, key=lambda group: -group.channels):
        if widths[group.name][0] > least_width(group.channels, min_keep=search.min_keep):
            alike.setdefault(_kinds(latency, group), []).append(group)
    following = {group.name for kin in alike.values() for group in kin[SCANNED_ALIKE:]}
    scans = {name: own for name, own in widths.items() if name not in following}
    measure_widths(latency, scans, description="latency staircases")
    candidates = dict(scans)
    for kin in alike.values():
        found = {}
        for group in kin[:SCANNED_ALIKE]:
            own = scans[group.name]
            found[group.name] = alignment(own, [group_ms(latency, group, width) for width in own])
        steps = settled_steps(found, also=[group.name for group in kin])
        candidates |= {
            group.name: candidate_widths(group.channels, step=steps[group.name], min_keep=search.min_keep)
            for group in kin
        }
    measure_widths(latency, candidates, description="latency ladders")
    ladders = {}
    for group in groups:
        cost = partial(group_ms, latency, group)
        ladder = thinned(staircase(candidates[group.name], cost), cost, max_rungs=search.max_rungs)
        ladders[group.name] = with_branch_rung(ladder, group, search)
    return ladders


def _kinds(latency: LatencyModel, group: PrunableGroup) -> Hashable:
    """The kinds of layers that a group touches, and on which side."""
    shapes = latency.shapes.original
    layers = [(shapes[member.module], member.axis) for member in group.members if member.module in shapes]
    return frozenset((shape.kind, shape.kernel, axis) for shape, axis in layers)


def with_branch_rung(ladder: tuple[int, ...], group: PrunableGroup, search: SearchConfig) -> tuple[int, ...]:
    """The ladder, with a rung without channels below if the group's branch may go."""
    return (0, *ladder) if group.branch and search.drop_branches else ladder


def measure_widths(latency: LatencyModel, widths: Mapping[str, Sequence[int]], *, description: str) -> None:
    """Measure in one go what `group_ms` needs for these widths of these groups."""
    latency.table.ensure(
        (
            layer
            for group in latency.shapes.elastic.groups
            for width in widths.get(group.name, ())
            for layer in _touched(latency, group, width)
        ),
        description=description,
    )


def group_ms(latency: LatencyModel, group: PrunableGroup, width: int) -> float:
    """Time of all layers that the group touches, with `width` of its channels, the other groups at full width.

    At width 0, the branch that the group is in is gone, and takes none.
    """
    return sum(latency.table.layer_ms(layer) for layer in _touched(latency, group, width))


def group_staircase(latency: LatencyModel, group: PrunableGroup, widths: Sequence[int]) -> list[tuple[int, float]]:
    """(width, ms) for each of `widths`, as `group_ms` gives it."""
    measure_widths(latency, {group.name: widths}, description=f"staircase of {group.name}")
    return [(width, group_ms(latency, group, width)) for width in widths]


def _touched(latency: LatencyModel, group: PrunableGroup, width: int) -> list[LayerInGraph]:
    channels = {**latency.shapes.elastic.full_policy.as_dict(), group.name: width}
    gone = latency.shapes.gone_layers(channels)
    members = {member.module for member in group.members}
    return [latency.in_graph(name, channels) for name in latency.shapes.original if name in members - gone]


def _on_ladders(latency: LatencyModel) -> list[LayerInGraph]:
    """All that predictions of policies on the ladders are worked out from, so that no lookup has to wait later."""
    layers: list[LayerInGraph] = []
    for name, owners in latency.shapes.owners.items():
        if name in latency.lines:
            layers += [latency.resized(name, *widths) for widths in latency.lines[name].measured]
        elif len(owners) <= 2:
            each = itertools.product(*(latency.ladders[group] for group in owners))
            layers += [latency.in_graph(name, dict(zip(owners, widths, strict=True))) for widths in each]
    left = (layer for layer in layers if not layer.shape.is_empty)
    return list(dict.fromkeys(itertools.chain.from_iterable(map(in_all_conditions, left))))


def _ruler(measure: MeasureConfig) -> tuple[Runtime, Device]:
    runtime = find_runtime(measure.runtime)
    return runtime, this_device(runtime, threads=measure.threads, batch_size=measure.batch_size)


def _epilogues(shapes: CutShapes, info: DataInfo) -> dict[str, tuple[str, ...]]:
    with scratch_folder() as folder:
        file = folder / "original.onnx"
        export_onnx(shapes.elastic.original, file, info)
        return epilogues(onnx.load(str(file)), shapes.original)


def model_key(latency: LatencyModel) -> str:
    """Architecture and ladders, not weights: latency does not depend on those."""
    full = {name: widths[-1] for name, widths in latency.ladders.items()}
    layers = {name: latency.in_graph(name, full).key for name in latency.shapes.original}
    return hashlib.sha256(json.dumps([layers, dict(latency.ladders)], sort_keys=True).encode()).hexdigest()[:16]

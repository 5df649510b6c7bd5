"""Builds a model's latency predictor and the ladders of its groups by measuring; what is known is looked up."""

import hashlib
import itertools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
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
from autoprune.prediction.latency_table import LatencyPredictor, LatencyTable, in_all_conditions
from autoprune.prediction.layer_bench import LayerInGraph, LayerKey
from autoprune.prediction.layer_lines import LayerLines, evenly_filled
from autoprune.prediction.staircase import (
    Step,
    alignment,
    candidate_widths,
    least_width,
    scanned_widths,
    settled_steps,
    staircase,
    thinned,
)
from autoprune.prediction.table_store import TableStore, default_table_path
from autoprune.prediction.whole_models import Ladders, measure_cuts, whole_models
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.groups import PrunableGroup
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.runtime import Runtime
from autoprune.space.policy import PruningPolicy
from autoprune.store.kept import Count, Kept, Milliseconds, closed
from autoprune.store.trials import TrialStore

JUDGED_AGAIN = 3
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


@dataclass(frozen=True)
class LatencyModel:
    predictor: LatencyPredictor
    ladders: Ladders  # widths worth trying by group, ascending

    def measured(self) -> MeasuredLatency:
        table = self.predictor.table
        layers = {layer: table.layer_ms(layer) for layer in _on_ladders(self.predictor, self.ladders)}
        return MeasuredLatency(layers, self.predictor.fit, dict(self.ladders))


def build_latency_model(
    elastic: ElasticModel,
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
        return latency_model_of(saved, elastic, shapes, info, measure=measure, table_path=table_path)
    after = _epilogues(elastic, shapes, info)
    runtime, device = _ruler(measure)
    shared = TableStore(table_path or default_table_path(), device.key)
    table = LatencyTable(runtime, device, store=shared)
    ladders = find_ladders(elastic, LatencyPredictor(shapes, after, table, NO_FIT), search)
    lines = layer_lines(shapes, ladders)
    unfitted = LatencyPredictor(shapes, after, table, NO_FIT, lines)
    table.ensure(_on_ladders(unfitted, ladders))
    model_key = _model_key(unfitted, ladders)
    fit = shared.fit(model_key)
    if fit is None:
        policies = whole_models(elastic, shapes, ladders)
        sums = [unfitted.sums(policy) for policy in policies]  # may measure layers, which takes the lock itself
        with shared.measuring() as recorder:
            fit = recorder.fit(model_key)  # another process may have fitted it while this one waited
            if fit is None:
                fit = fit_latency(sums, measure_cuts(elastic, shapes, policies, info, measure))
                recorder.add_fit(model_key, fit)
    found = LatencyModel(LatencyPredictor(shapes, after, table, fit, lines), ladders)
    if store is not None:
        store.keep(LATENCY, found.measured())
    return found


def latency_model_of(
    measured: MeasuredLatency,
    elastic: ElasticModel,
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

    def shared() -> TableStore:
        if elsewhere:
            raise RunError("a layer was not measured where the search runs, and other devices take other times")
        return TableStore(table_path or default_table_path(), device.key)

    table = LatencyTable(runtime, device, entries=measured.layers, late_store=shared)
    after, lines = _epilogues(elastic, shapes, info), layer_lines(shapes, measured.ladders)
    return LatencyModel(LatencyPredictor(shapes, after, table, measured.fit, lines), measured.ladders)


def corrected_again(
    elastic: ElasticModel,
    latency: LatencyModel,
    policies: Sequence[PruningPolicy],
    info: DataInfo,
    *,
    measure: MeasureConfig,
    table_path: Path | None = None,
) -> tuple[LatencyModel, list[float]]:
    """Measure `policies` among the whole models that correct predictions, and correct by the latter anew.

    What others leave of a shared cache changes within minutes, so that only figures of one session can judge each
    other. The new correction is kept in the shared table. Returns the model and the policies' measured_latency_ms, each
    the mean over `JUDGED_AGAIN` times as many loads as the models of the correction get, among which errors even out.
    """
    predictor = latency.predictor
    fitted = whole_models(elastic, predictor.shapes, latency.ladders)
    shared = TableStore(table_path or default_table_path(), predictor.table.device.key)
    sums = [predictor.sums(policy) for policy in fitted]
    with shared.measuring() as recorder:
        measured = [*fitted, *itertools.chain(*[policies] * JUDGED_AGAIN)]
        measured_ms = measure_cuts(elastic, predictor.shapes, measured, info, measure)
        fit = fit_latency(sums, measured_ms[: len(fitted)])
        recorder.add_fit(_model_key(predictor, latency.ladders), fit)
    corrected = LatencyPredictor(predictor.shapes, predictor.epilogues, predictor.table, fit, predictor.lines)
    judged_ms = np.reshape(measured_ms[len(fitted) :], (JUDGED_AGAIN, len(policies))).mean(0)
    return LatencyModel(corrected, latency.ladders), judged_ms.tolist()


def find_ladders(
    elastic: ElasticModel, predictor: LatencyPredictor, search: SearchConfig
) -> dict[str, tuple[int, ...]]:
    """Each group's ladder from measured times.

    The uppermost widths of some groups are measured one by one, which shows at what distance the steps lie; the widths
    at that distance are then measured all the way down. Steps come from the kernels: of the wide groups that touch the
    same kinds of layers, the few widest are scanned, and the others follow them. Where a branch may go, no channel at
    all is one more.
    """
    widths = {group.name: scanned_widths(group.channels, min_keep=search.min_keep) for group in elastic.groups}
    alike: dict[Hashable, list[PrunableGroup]] = {}  # those that are wide; the others are scanned whole
    for group in sorted(elastic.groups, key=lambda group: -group.channels):
        if widths[group.name][0] > least_width(group.channels, min_keep=search.min_keep):
            alike.setdefault(_kinds(predictor, group), []).append(group)
    wide = {group.name for groups in alike.values() for group in groups}
    scanned = {group.name for groups in alike.values() for group in groups[:SCANNED_ALIKE]}
    scans = {name: own for name, own in widths.items() if name in scanned or name not in wide}
    measure_widths(elastic, predictor, scans, description="latency staircases")
    candidates = dict(scans)
    for groups in alike.values():
        found = {group.name: _alignment(elastic, predictor, group, scans) for group in groups if group.name in scans}
        steps = settled_steps(found, also=[group.name for group in groups])
        candidates |= {
            group.name: candidate_widths(group.channels, step=steps[group.name], min_keep=search.min_keep)
            for group in groups
        }
    measure_widths(elastic, predictor, candidates, description="latency ladders")
    ladders = {}
    for group in elastic.groups:
        cost = _cost(elastic, predictor, group)
        ladder = thinned(staircase(candidates[group.name], cost), cost, max_rungs=search.max_rungs)
        ladders[group.name] = with_branch_rung(ladder, group, search)
    return ladders


def _alignment(
    elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, scans: Mapping[str, Sequence[int]]
) -> Step:
    widths = scans[group.name]
    return alignment(widths, [group_ms(elastic, predictor, group, width) for width in widths])


def _kinds(predictor: LatencyPredictor, group: PrunableGroup) -> Hashable:
    """The kinds of layers that a group touches, and on which side."""
    shapes = predictor.shapes.original
    layers = [(shapes[member.module], member.axis) for member in group.members if member.module in shapes]
    return frozenset((shape.kind, shape.kernel, axis) for shape, axis in layers)


def with_branch_rung(ladder: tuple[int, ...], group: PrunableGroup, search: SearchConfig) -> tuple[int, ...]:
    """The ladder, with a rung without channels below if the group's branch may go."""
    return (0, *ladder) if group.branch and search.drop_branches else ladder


def measure_widths(
    elastic: ElasticModel, predictor: LatencyPredictor, widths: Mapping[str, Sequence[int]], *, description: str
) -> None:
    """Measure in one go what `group_ms` needs for these widths of these groups."""
    predictor.table.ensure(
        (
            layer
            for group in elastic.groups
            for width in widths.get(group.name, ())
            for layer in _touched(elastic, predictor, group, width)
        ),
        description=description,
    )


def group_ms(elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, width: int) -> float:
    """Time of all layers that the group touches, with `width` of its channels, the other groups at full width.

    At width 0, the branch that the group is in is gone, and takes none.
    """
    return sum(predictor.table.layer_ms(layer) for layer in _touched(elastic, predictor, group, width))


def group_staircase(
    elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, widths: Sequence[int]
) -> list[tuple[int, float]]:
    """(width, ms) for each of `widths`, as `group_ms` gives it."""
    measure_widths(elastic, predictor, {group.name: widths}, description=f"staircase of {group.name}")
    return [(width, group_ms(elastic, predictor, group, width)) for width in widths]


def _cost(elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup) -> Callable[[int], float]:
    return lambda width: group_ms(elastic, predictor, group, width)


def _touched(
    elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, width: int
) -> list[LayerInGraph]:
    channels = {**elastic.full_policy.as_dict(), group.name: width}
    gone = predictor.shapes.gone_layers(channels)
    members = {member.module for member in group.members}
    return [predictor.in_graph(name, channels) for name in predictor.shapes.original if name in members - gone]


def layer_lines(shapes: CutShapes, ladders: Ladders) -> dict[str, LayerLines]:
    """The lines along which layers are measured that depend on several groups.

    Where one group is on both sides beside others there are none: such a layer is measured when it is asked for.
    """
    lines = {}
    for name, shape in shapes.original.items():
        sides = shapes.side_owners(name, "in"), shapes.side_owners(name, "out")
        if shape.kind == "depthwise" or set(sides[0]) & set(sides[1]) or len(shapes.owners[name]) < 2:
            continue
        whole = {group: ladders[group][-1] for group in shapes.owners[name]}
        inputs, outputs = (
            [shapes.layer(name, whole | dict(zip(groups, widths, strict=True))) for widths in _steps(groups, ladders)]
            for groups in sides
        )
        lines[name] = LayerLines(
            tuple(sorted({layer.in_channels for layer in inputs if not layer.is_empty})),
            tuple(sorted({layer.out_channels for layer in outputs if not layer.is_empty})),
        )
    return lines


def _steps(groups: Sequence[str], ladders: Ladders) -> list[tuple[int, ...]]:
    return evenly_filled([ladders[group] for group in groups])


def _on_ladders(predictor: LatencyPredictor, ladders: Ladders) -> list[LayerInGraph]:
    """All that predictions of policies on the ladders are worked out from, so that no lookup has to wait later."""
    layers: list[LayerInGraph] = []
    for name, owners in predictor.shapes.owners.items():
        if name in predictor.lines:
            layers += [predictor.resized(name, *widths) for widths in predictor.lines[name].measured]
        elif len(owners) <= 2:
            each = itertools.product(*(ladders[group] for group in owners))
            layers += [predictor.in_graph(name, dict(zip(owners, widths, strict=True))) for widths in each]
    left = (layer for layer in layers if not layer.shape.is_empty)
    return list(dict.fromkeys(itertools.chain.from_iterable(map(in_all_conditions, left))))


def _ruler(measure: MeasureConfig) -> tuple[Runtime, Device]:
    runtime = find_runtime(measure.runtime)
    return runtime, this_device(runtime, threads=measure.threads, batch_size=measure.batch_size)


def _epilogues(elastic: ElasticModel, shapes: CutShapes, info: DataInfo) -> dict[str, tuple[str, ...]]:
    with scratch_folder() as folder:
        file = folder / "original.onnx"
        export_onnx(elastic.original, file, info)
        return epilogues(onnx.load(str(file)), shapes.original)


def _model_key(predictor: LatencyPredictor, ladders: Ladders) -> str:
    """Architecture and ladders, not weights: latency does not depend on those."""
    layers = {name: predictor.in_graph(name, dict(_full(ladders))).key for name in predictor.shapes.original}
    return hashlib.sha256(json.dumps([layers, ladders], sort_keys=True).encode()).hexdigest()[:16]


def _full(ladders: Ladders) -> dict[str, int]:
    return {name: widths[-1] for name, widths in ladders.items()}

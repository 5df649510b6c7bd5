"""Builds a model's latency predictor and the ladders of its groups by measuring; what is known is looked up."""

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.cost import CutShapes
from autoprune.data import DataInfo
from autoprune.device import this_device
from autoprune.elastic import ElasticModel
from autoprune.export import export_onnx
from autoprune.graph_context import epilogues
from autoprune.groups import PrunableGroup
from autoprune.latency import make_session, session_call
from autoprune.latency_table import LatencyFit, LatencyPredictor, LatencyTable, fit_latency, in_all_conditions
from autoprune.layer_bench import BYTES_PER_WEIGHT, LayerInGraph
from autoprune.policy import PruningPolicy
from autoprune.progress import bar
from autoprune.seeding import rng
from autoprune.staircase import (
    alignment,
    candidate_widths,
    least_width,
    scanned_widths,
    settled_steps,
    staircase,
    thinned,
)
from autoprune.table_store import TableStore, default_table_path
from autoprune.timing import Call, time_until_quiet
from autoprune.trials import TrialStore

FACT = "latency"
LADDERS_FACT = "ladders"
WHOLE_MODELS = 12  # random cuts measured whole, beside the original and the smallest, to correct the sum of the layers
HEAVY_BYTES, HEAVY_WHOLE_MODELS = 8e6, 40  # with so many weights, what stays in the caches has to be found out too
LOADS = 3  # one load of a file may run faster than the next for as long as it lives: where its memory happens to lie
LOADED_BYTES = 5e8  # weights of models that are loaded at the same time
SECONDS_A_MODEL = 3.0  # at most, on a machine that is never quiet
NO_FIT = LatencyFit(0.0, 1.0)

Ladders = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LatencyModel:
    predictor: LatencyPredictor
    ladders: Ladders  # widths worth trying by group, ascending


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
    after = _epilogues(elastic, shapes, info)
    device = this_device(threads=measure.threads, batch_size=measure.batch_size)
    saved = store.fact(FACT) if store is not None else None
    if saved is not None:
        facts = json.loads(saved)
        entries = {LayerInGraph.from_key(key): float(ms) for key, ms in facts["layers"].items()}
        predictor = LatencyPredictor(shapes, after, LatencyTable(device, entries=entries), LatencyFit(**facts["fit"]))
        return LatencyModel(predictor, {name: tuple(widths) for name, widths in facts["ladders"].items()})
    shared = TableStore(table_path or default_table_path(), device.key)
    table = LatencyTable(device, store=shared)
    unfitted = LatencyPredictor(shapes, after, table, NO_FIT)
    ladders = find_ladders(elastic, unfitted, search)
    table.ensure(_all_pairs(unfitted, ladders))
    model_key = _model_key(unfitted, ladders)
    known = shared.fit(model_key)
    if known is None:
        policies = whole_models(elastic, shapes, ladders)
        sums = [unfitted.sums(policy) for policy in policies]  # may measure layers, which takes the lock itself
        with shared.measuring() as recorder:
            known = recorder.fit(model_key)  # another process may have fitted it while this one waited
            if known is None:
                measured_ms = measure_cuts(elastic, shapes, policies, info, measure)
                known = json.dumps(asdict(fit_latency(sums, measured_ms)))
                recorder.add_fit(model_key, known)
    fit = LatencyFit(**json.loads(known))
    predictor = LatencyPredictor(shapes, after, table, fit)
    if store is not None:
        used = {layer.key: table.layer_ms(layer) for layer in _all_pairs(predictor, ladders)}
        store.set_fact(LADDERS_FACT, json.dumps(ladders))
        store.set_fact(FACT, json.dumps({"layers": used, "fit": asdict(fit), "ladders": ladders}))
    return LatencyModel(predictor, ladders)


def find_ladders(
    elastic: ElasticModel, predictor: LatencyPredictor, search: SearchConfig
) -> dict[str, tuple[int, ...]]:
    """Each group's ladder from measured times.

    The uppermost widths of every group are measured one by one, which shows at what distance the steps lie; the
    widths at that distance are then measured all the way down.
    """
    scans = {group.name: scanned_widths(group.channels, min_keep=search.min_keep) for group in elastic.groups}
    measure_widths(elastic, predictor, scans, description="latency staircases")
    wide = [
        group
        for group in elastic.groups
        if scans[group.name][0] > least_width(group.channels, min_keep=search.min_keep)
    ]
    steps = settled_steps(
        {
            group.name: alignment(
                scans[group.name], [group_ms(elastic, predictor, group, width) for width in scans[group.name]]
            )
            for group in wide
        }
    )
    # A group that is not wide was scanned whole.
    candidates = scans | {
        group.name: candidate_widths(group.channels, step=steps[group.name], min_keep=search.min_keep) for group in wide
    }
    measure_widths(elastic, predictor, candidates, description="latency ladders")
    ladders = {}
    for group in elastic.groups:
        cost = _cost(elastic, predictor, group)
        ladders[group.name] = thinned(staircase(candidates[group.name], cost), cost, max_rungs=search.max_rungs)
    return ladders


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
    """Time of all layers that the group touches, with `width` of its channels, the other groups at full width."""
    return sum(predictor.table.layer_ms(layer) for layer in _touched(elastic, predictor, group, width))


def group_staircase(
    elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, widths: Sequence[int]
) -> list[tuple[int, float]]:
    """(width, ms) for each of `widths`, as `group_ms` gives it."""
    measure_widths(elastic, predictor, {group.name: widths}, description=f"staircase of {group.name}")
    return [(width, group_ms(elastic, predictor, group, width)) for width in widths]


def measure_cuts(
    elastic: ElasticModel,
    shapes: CutShapes,
    policies: Sequence[PruningPolicy],
    info: DataInfo,
    measure: MeasureConfig,
) -> list[float]:
    """Export each cut and time the files in turn: milliseconds of an undisturbed call, mean over several loads."""
    loads_ms = []
    with exported_cuts(elastic, policies, info) as files, bar("whole models", LOADS * len(policies)) as progress:
        for _ in range(LOADS):
            load_ms: list[float] = []
            for part in _loaded_together(policies, shapes):
                calls = [black_images_call(files[index], info, measure) for index in part]
                times = time_until_quiet(calls, limit_s=SECONDS_A_MODEL / LOADS * len(part))
                load_ms += [time.quiet_ms for time in times]
                progress.advance(len(part))
            loads_ms.append(load_ms)
    return [float(value) for value in np.mean(loads_ms, axis=0)]


@contextlib.contextmanager
def exported_cuts(elastic: ElasticModel, policies: Sequence[PruningPolicy], info: DataInfo) -> Iterator[list[Path]]:
    """The ONNX files of some cuts, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        files = [Path(folder) / f"{index}.onnx" for index in range(len(policies))]
        with bar("exporting cuts", len(policies)) as progress:
            for file, policy in zip(files, policies, strict=True):
                export_onnx(elastic.cut(policy), file, info)
                progress.advance()
        yield files


def black_images_call(file: Path, info: DataInfo, measure: MeasureConfig) -> Call:
    """Load `file`: a call that runs it on a batch of black images."""
    images = np.zeros((measure.batch_size, *info.input_shape), dtype=np.float32)
    return session_call(make_session(file, threads=measure.threads), images)


def random_policies(ladders: Ladders, count: int, *, purpose: str, seed: int = 0) -> list[PruningPolicy]:
    """A rung for each group, drawn evenly."""
    generator = rng(seed, purpose)
    return [
        PruningPolicy.of({name: int(generator.choice(widths)) for name, widths in ladders.items()})
        for _ in range(count)
    ]


def _cost(elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup) -> Callable[[int], float]:
    return lambda width: group_ms(elastic, predictor, group, width)


def _touched(
    elastic: ElasticModel, predictor: LatencyPredictor, group: PrunableGroup, width: int
) -> list[LayerInGraph]:
    channels = {**elastic.full_policy.as_dict(), group.name: width}
    members = {member.module for member in group.members}
    return [predictor.in_graph(name, channels) for name in predictor.shapes.original if name in members]


def _all_pairs(predictor: LatencyPredictor, ladders: Ladders) -> list[LayerInGraph]:
    """Every layer at every pair of rungs of its two sides, so that no lookup has to wait later."""
    layers: list[LayerInGraph] = []
    for name, owners in predictor.shapes.owners.items():
        if len(owners) <= 2:  # more (a concatenation) would be too many combinations: measured when asked for
            for widths in itertools.product(*(ladders[group] for group in owners)):
                layers += in_all_conditions(predictor.in_graph(name, dict(zip(owners, widths, strict=True))))
    return list(dict.fromkeys(layers))


def _epilogues(elastic: ElasticModel, shapes: CutShapes, info: DataInfo) -> dict[str, tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        file = Path(folder) / "original.onnx"
        export_onnx(elastic.original, file, info)
        return epilogues(onnx.load(str(file)), shapes.original)


def _model_key(predictor: LatencyPredictor, ladders: Ladders) -> str:
    """Architecture and ladders, not weights: latency does not depend on those."""
    layers = {name: predictor.in_graph(name, dict(_full(ladders))).key for name in predictor.shapes.original}
    return hashlib.sha256(json.dumps([layers, ladders], sort_keys=True).encode()).hexdigest()[:16]


def _full(ladders: Ladders) -> dict[str, int]:
    return {name: widths[-1] for name, widths in ladders.items()}


def whole_models(elastic: ElasticModel, shapes: CutShapes, ladders: Ladders) -> list[PruningPolicy]:
    """What predictions are corrected by: the original, the smallest and some random cuts."""
    smallest = PruningPolicy.of({name: widths[0] for name, widths in ladders.items()})
    is_heavy = weight_bytes(shapes, elastic.full_policy) >= HEAVY_BYTES
    count = HEAVY_WHOLE_MODELS if is_heavy else WHOLE_MODELS
    return [elastic.full_policy, smallest, *random_policies(ladders, count, purpose="whole models")]


def weight_bytes(shapes: CutShapes, policy: PruningPolicy) -> int:
    return shapes.cost(policy).params * BYTES_PER_WEIGHT


def _loaded_together(policies: Sequence[PruningPolicy], shapes: CutShapes) -> list[list[int]]:
    """The numbers of `policies`, split so that no part has more than `LOADED_BYTES` of weights, unless it is one."""
    parts: list[list[int]] = [[]]
    loaded = 0
    for index, policy in enumerate(policies):
        size = weight_bytes(shapes, policy)
        if parts[-1] and loaded + size > LOADED_BYTES:
            parts.append([])
            loaded = 0
        parts[-1].append(index)
        loaded += size
    return parts

"""Builds a model's latency predictor and the ladders of its groups, by measuring; a resumed run reads them back."""

import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.cost import CutShapes
from autoprune.data import DataInfo
from autoprune.elastic import ElasticModel
from autoprune.export import export_onnx
from autoprune.groups import PrunableGroup
from autoprune.latency import measure_interleaved
from autoprune.latency_table import AffineFit, LatencyPredictor, LatencyTable, candidate_widths, fit_affine, staircase
from autoprune.policy import PruningPolicy
from autoprune.progress import bar
from autoprune.seeding import rng
from autoprune.trials import TrialStore

FACT = "latency"
LADDERS_FACT = "ladders"
WHOLE_MODELS = 8  # random cuts measured whole, beside the original and the smallest, to correct the sum of the layers
WHOLE_MODEL_ROUNDS, WHOLE_MODEL_RUNS = 12, 10

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
    store: TrialStore | None,
) -> LatencyModel:
    """Measure layers, derive ladders, correct by whole models; what is measured is kept in `store`."""
    saved = store.fact(FACT) if store is not None else None
    if saved is not None:
        return _from_json(saved, shapes, measure)
    table = LatencyTable(threads=measure.threads, batch_size=measure.batch_size)
    ladders: dict[str, tuple[int, ...]] = {}
    with bar("latency staircases", len(elastic.groups)) as progress:
        for group in elastic.groups:
            ladders[group.name] = _ladder(group, elastic, shapes, table, search)
            progress.advance()
    _fill(table, elastic, shapes, ladders)
    fit = _fit_whole_models(table, elastic, shapes, ladders, info, measure)
    if store is not None:
        store.set_fact(LADDERS_FACT, json.dumps(ladders))
        store.set_fact(
            FACT,
            json.dumps({"table": table.as_json(), "offset_ms": fit.offset_ms, "scale": fit.scale, "ladders": ladders}),
        )
    return LatencyModel(LatencyPredictor(shapes, table, fit), ladders)


def _from_json(saved: str, shapes: CutShapes, measure: MeasureConfig) -> LatencyModel:
    facts = json.loads(saved)
    table = LatencyTable.from_json(facts["table"], threads=measure.threads, batch_size=measure.batch_size)
    predictor = LatencyPredictor(shapes, table, AffineFit(facts["offset_ms"], facts["scale"]))
    return LatencyModel(predictor, {name: tuple(widths) for name, widths in facts["ladders"].items()})


def _ladder(
    group: PrunableGroup, elastic: ElasticModel, shapes: CutShapes, table: LatencyTable, search: SearchConfig
) -> tuple[int, ...]:
    """Widths where the time of all layers that the group touches steps down, the others at full width."""
    touched = {member.module for member in group.members}
    full = elastic.full_policy.as_dict()

    def time_ms(width: int) -> float:
        layers = shapes.layers(PruningPolicy.of({**full, group.name: width}))
        return table.sum_ms(shape for name, shape in layers.items() if name in touched)

    return staircase(candidate_widths(group.channels, min_keep=search.min_keep, max_rungs=search.max_rungs), time_ms)


def _fill(table: LatencyTable, elastic: ElasticModel, shapes: CutShapes, ladders: Ladders) -> None:
    """Measure every layer at every pair of rungs of its two sides, so that no lookup has to wait later."""
    full = elastic.full_policy.as_dict()
    owners: dict[str, set[str]] = {name: set() for name in shapes.original}
    for group in elastic.groups:
        for member in group.members:
            if member.module in owners:
                owners[member.module].add(group.name)
    with bar("latency table", len(owners)) as progress:
        for layer, groups in owners.items():
            # More than two owners (a concatenation) would be too many combinations: those are measured when asked for.
            if len(groups) <= 2:
                for widths in itertools.product(*(ladders[name] for name in groups)):
                    policy = PruningPolicy.of(full | dict(zip(groups, widths, strict=True)))
                    table.layer_ms(shapes.layers(policy)[layer])
            progress.advance()


def _fit_whole_models(
    table: LatencyTable,
    elastic: ElasticModel,
    shapes: CutShapes,
    ladders: Ladders,
    info: DataInfo,
    measure: MeasureConfig,
) -> AffineFit:
    """Export and time the original, the smallest and some random cuts, interleaved; fit the sums to them."""
    generator = rng(0, "whole models")
    policies = [elastic.full_policy, PruningPolicy.of({name: widths[0] for name, widths in ladders.items()})]
    for _ in range(WHOLE_MODELS):
        policies.append(PruningPolicy.of({name: int(generator.choice(widths)) for name, widths in ladders.items()}))
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder, bar("whole models", len(policies)) as progress:
        files = []
        for index, policy in enumerate(policies):
            files.append(Path(folder) / f"{index}.onnx")
            export_onnx(elastic.cut(policy), files[-1], info)
            progress.advance()
        images = np.zeros((measure.batch_size, *info.input_shape), dtype=np.float32)
        measured = measure_interleaved(
            files, images, threads=measure.threads, rounds=WHOLE_MODEL_ROUNDS, runs_per_round=WHOLE_MODEL_RUNS
        )
    sums_ms = [table.sum_ms(shapes.layers(policy).values()) for policy in policies]
    return fit_affine(sums_ms, [latency.latency_ms_p50 for latency in measured])

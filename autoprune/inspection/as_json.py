"""An inspection as JSON: the contract of `autoprune inspect --json`."""

import math
from dataclasses import asdict
from typing import Any

from autoprune.inspection.facts import GroupFacts, Inspection, LayerFacts, Staircase, TargetRange
from autoprune.prediction.latency_validation import LatencyValidation

SCHEMA = 1
SHAPE = ("in_channels", "out_channels", "kernel", "stride", "in_size", "out_size")  # of a layer: what is told


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The facts as JSON's own types (schema 1): shares and ratios 0..1, times in ms or s as the names say."""
    search, measure, latency = inspection.search, inspection.measure, inspection.latency
    time, stairs, check = inspection.search_time, inspection.staircase, inspection.validation
    return {
        "schema": SCHEMA,
        "model": asdict(inspection.model),
        "settings": {
            "device": None if latency is None else latency.device,
            "runtime": None if latency is None else latency.runtime,
            "threads": measure.threads,
            "batch_size": measure.batch_size,
            "ladders": "evenly spaced" if latency is None else "measured",
            "min_keep": search.min_keep,
            "max_rungs": search.max_rungs,
            "max_evaluations": search.max_evaluations,
        },
        "totals": {
            "macs": inspection.macs,
            "params": inspection.params,
            "estimated_energy_mj": inspection.estimated_energy_mj,
            "predicted_latency_ms": None if latency is None else latency.original_ms,
            "rest_latency_ms": inspection.rest_latency_ms,
        },
        "targets": {target.metric: _target_json(target) for target in inspection.targets},
        "groups": [_group_json(group) for group in inspection.groups],
        "skipped": [asdict(group) for group in inspection.skipped],
        "layers": [_layer_json(layer) for layer in inspection.layers],
        "search_time": None if time is None else {"estimated_search_s": time.estimated_search_s, **asdict(time)},
        "staircase": None if stairs is None else _staircase_json(stairs),
        "latency_validation": None if check is None else _validation_json(check),
    }


def _target_json(target: TargetRange) -> dict[str, Any]:
    fields = asdict(target)
    del fields["metric"]
    return {**fields, "smallest_max_ratio": target.smallest_max_ratio}


def _group_json(group: GroupFacts) -> dict[str, Any]:
    fields = asdict(group)
    takes = fields.pop("takes")
    return {**fields, **takes}


def _layer_json(layer: LayerFacts) -> dict[str, Any]:
    shape = {key: getattr(layer.shape, key) for key in SHAPE}
    return {"name": layer.name, "kind": layer.kind, "group": layer.group, **shape, **asdict(layer.takes)}


def _staircase_json(stairs: Staircase) -> dict[str, Any]:
    return {**asdict(stairs), "points": [{"width": width, "ms": ms} for width, ms in stairs.points]}


def _validation_json(check: LatencyValidation) -> dict[str, Any]:
    fields = asdict(check)
    points = fields.pop("points")
    # Equal predictions have no ranks to compare, and JSON has no NaN.
    spearman = check.spearman if math.isfinite(check.spearman) else None
    return {**fields, "spearman": spearman, "points_ms": points}

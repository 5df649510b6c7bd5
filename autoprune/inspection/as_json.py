"""An inspection as JSON: the contract of `autoprune inspect --json`."""

import math
from dataclasses import asdict
from typing import Any

from autoprune.inspection.facts import GroupFacts, Inspection, LayerFacts, SearchTime, Staircase
from autoprune.prediction.latency_validation import LatencyValidation

SCHEMA = 1
SHAPE = ("in_channels", "out_channels", "kernel", "stride", "in_size", "out_size")  # what is told of a layer's


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The facts as JSON's own types (schema 1): shares and ratios 0..1, times in ms or s as the names say."""
    model, search, latency = inspection.model, inspection.search, inspection.latency
    return {
        "schema": SCHEMA,
        "model": {
            "name": model.name,
            "checkpoint": model.checkpoint,
            "width": model.width,
            "input_shape": list(model.input_shape),
            "classes": model.classes,
        },
        "settings": {
            "device": None if latency is None else latency.device,
            "runtime": None if latency is None else latency.runtime,
            "threads": model.threads,
            "batch_size": model.batch_size,
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
        "targets": {
            target.metric: {
                "unit": target.unit,
                "source": target.source,
                "ceiling": target.ceiling,
                "floor": target.floor,
                "smallest_max_ratio": target.smallest_max_ratio,
            }
            for target in inspection.targets
        },
        "groups": [_group_json(group) for group in inspection.groups],
        "skipped": [
            {"name": group.name, "channels": group.channels, "reason": group.reason} for group in inspection.skipped
        ],
        "layers": [_layer_json(layer) for layer in inspection.layers],
        "search_time": _search_time_json(inspection.search_time),
        "staircase": _staircase_json(inspection.staircase),
        "latency_validation": _validation_json(inspection.validation),
    }


def _group_json(group: GroupFacts) -> dict[str, Any]:
    fields = asdict(group)
    takes = fields.pop("takes")
    return {**fields, **takes}


def _layer_json(layer: LayerFacts) -> dict[str, Any]:
    shape = {key: getattr(layer.shape, key) for key in SHAPE}
    return {"name": layer.name, "kind": layer.kind, "group": layer.group, **shape, **asdict(layer.takes)}


def _search_time_json(time: SearchTime | None) -> dict[str, Any] | None:
    return None if time is None else {"estimated_search_s": time.estimated_search_s, **asdict(time)}


def _staircase_json(staircase: Staircase | None) -> dict[str, Any] | None:
    if staircase is None:
        return None
    return {**asdict(staircase), "points": [{"width": width, "ms": ms} for width, ms in staircase.points]}


def _validation_json(validation: LatencyValidation | None) -> dict[str, Any] | None:
    if validation is None:
        return None
    fields = asdict(validation)
    points = fields.pop("points")
    # Equal predictions have no ranks to compare, and JSON has no NaN.
    spearman = validation.spearman if math.isfinite(validation.spearman) else None
    return {**fields, "spearman": spearman, "points_ms": points}

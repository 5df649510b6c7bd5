"""An inspection as JSON: the contract of `autoprune inspect --json`."""

import math
from typing import Any

from autoprune.inspection.facts import GroupFacts, Inspection, LayerFacts, SearchTime, Staircase
from autoprune.prediction.latency_validation import LatencyValidation

SCHEMA = 1


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The facts as JSON's own types (schema 1): shares and ratios 0..1, times in ms or s as the names say."""
    model, search = inspection.model, inspection.search
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
            "device": inspection.device,
            "runtime": inspection.runtime,
            "threads": model.threads,
            "batch_size": model.batch_size,
            "ladders": "evenly spaced" if inspection.predicted_latency_ms is None else "measured",
            "min_keep": search.min_keep,
            "max_rungs": search.max_rungs,
            "max_evaluations": search.max_evaluations,
        },
        "totals": {
            "macs": inspection.macs,
            "params": inspection.params,
            "estimated_energy_mj": inspection.estimated_energy_mj,
            "predicted_latency_ms": inspection.predicted_latency_ms,
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
    return {
        "name": group.name,
        "channels": group.channels,
        "coupling": group.coupling,
        "members": [
            {"layer": member.layer, "side": member.side, "role": member.role, "channels": member.channels}
            for member in group.members
        ],
        "macs": group.macs,
        "macs_share": group.macs_share,
        "params": group.params,
        "params_share": group.params_share,
        "predicted_latency_ms": group.predicted_latency_ms,
        "latency_share": group.latency_share,
        "ladder": list(group.ladder),
    }


def _layer_json(layer: LayerFacts) -> dict[str, Any]:
    shape = layer.shape
    return {
        "name": layer.name,
        "kind": layer.kind,
        "group": layer.group,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "kernel": list(shape.kernel),
        "stride": list(shape.stride),
        "in_size": list(shape.in_size),
        "out_size": list(shape.out_size),
        "macs": layer.macs,
        "macs_share": layer.macs_share,
        "params": layer.params,
        "params_share": layer.params_share,
        "predicted_latency_ms": layer.predicted_latency_ms,
        "latency_share": layer.latency_share,
    }


def _search_time_json(time: SearchTime | None) -> dict[str, Any] | None:
    if time is None:
        return None
    return {
        "estimated_search_s": time.estimated_search_s,
        "evaluation_s": time.evaluation_s,
        "evaluations_timed": time.evaluations_timed,
        "images_timed": time.images_timed,
        "images": time.images,
        "max_evaluations": time.max_evaluations,
        "setup_evaluations": time.setup_evaluations,
        "table_s": time.table_s,
    }


def _staircase_json(staircase: Staircase | None) -> dict[str, Any] | None:
    if staircase is None:
        return None
    return {
        "layer": staircase.layer,
        "group": staircase.group,
        "channels": staircase.channels,
        "rungs": list(staircase.rungs),
        "points": [{"width": width, "ms": ms} for width, ms in staircase.points],
    }


def _validation_json(validation: LatencyValidation | None) -> dict[str, Any] | None:
    if validation is None:
        return None
    return {
        "n": validation.n,
        "median_rel_error": validation.median_rel_error,
        "p95_rel_error": validation.p95_rel_error,
        # Equal predictions have no ranks to compare, and JSON has no NaN.
        "spearman": validation.spearman if math.isfinite(validation.spearman) else None,
        "points_ms": [list(point) for point in validation.points],
    }

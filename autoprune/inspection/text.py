"""The facts of an inspection in words, as the terminal and the page show them."""

import math
from dataclasses import dataclass

from autoprune.foundation import progress
from autoprune.inspection.facts import Inspection, LayerFacts, SearchTime, Share, TargetRange

METRIC_NAMES = {
    "latency": "Latency (predicted)",
    "macs": "MACs",
    "params": "Parameters",
    "energy": "Energy (estimated)",
}


@dataclass(frozen=True)
class Bar:
    """A share, 0..1, of one quantity; `text` is the quantity itself."""

    quantity: str
    share: float
    text: str


def title(inspection: Inspection) -> str:
    """The model in a line: "resnet20, 1×28×28, 10 classes"."""
    model = inspection.model
    width = "" if model.width == 1 else f" at width {model.width:g}"
    weights = "random weights" if model.checkpoint is None else f"weights of {model.checkpoint}"
    return f"{model.name}{width}, {'×'.join(map(str, model.input_shape))}, {model.classes} classes, {weights}"


def headline(inspection: Inspection) -> str:
    """What can be reached: "12 groups can be pruned, down to 24.2% of the latency"."""
    count, first = len(inspection.groups), inspection.targets[0]
    name = {"latency": "predicted latency", "macs": "MACs", "params": "parameters", "energy": "estimated energy"}
    groups = f"{count} group{' ' if count == 1 else 's '}can be pruned"
    return f"{groups}, down to {_percent_up(first.smallest_max_ratio)} of the {name[first.metric]}"


def conditions(inspection: Inspection) -> str:
    """What latency is of, or that it was left out."""
    measure, latency = inspection.measure, inspection.latency
    if latency is None:
        return "Latency was left out: the ladders are evenly spaced widths, not those where measured time steps down."
    threads = f"{measure.threads} thread{'' if measure.threads == 1 else 's'}"
    text = f"Latency of the exported file in {latency.runtime} on {latency.device}, {threads}"
    return f"{text}, batch {measure.batch_size}{'' if measure.batch_size == 1 else ' (ms for the whole batch)'}."


def target_texts(target: TargetRange) -> tuple[str, str, str, str]:
    """Name, ceiling, floor and the smallest ratio, rounded so that what is shown can be met."""
    ratio = math.ceil(target.smallest_max_ratio * 1e3 - 1e-9) / 1e3
    ceiling, floor = _amount(target, target.ceiling), _amount(target, target.floor)
    return METRIC_NAMES[target.metric], ceiling, floor, f"{ratio:.3f}"


def bars(takes: Share) -> list[Bar]:
    found = [
        Bar("MACs", takes.macs_share, _count(takes.macs)),
        Bar("params", takes.params_share, _count(takes.params)),
    ]
    if takes.predicted_latency_ms is not None and takes.latency_share is not None:
        found.append(Bar("latency", takes.latency_share, _milliseconds(takes.predicted_latency_ms)))
    return found


def rest_text(inspection: Inspection) -> str | None:
    """Milliseconds that are in no layer, with their sign; None when latency was left out."""
    rest_ms = inspection.rest_latency_ms
    return None if rest_ms is None else f"{rest_ms:+.4f} ms".replace("-", "−")


def shape_text(layer: LayerFacts) -> str:
    """ "conv 16→32, 3×3, stride 2, 14×14 out"."""
    shape = layer.shape
    text = f"{layer.kind} {shape.in_channels}→{shape.out_channels}"
    if layer.kind == "linear":
        rows = math.prod(shape.out_size)
        return text if rows == 1 else f"{text}, {rows} positions"
    text += f", {shape.kernel[0]}×{shape.kernel[1]}"
    if max(shape.stride) > 1:
        text += f", stride {shape.stride[0]}"
    if shape.groups > 1 and layer.kind == "conv":
        text += f", {shape.groups} groups"
    return f"{text}, {shape.out_size[0]}×{shape.out_size[1]} out"


def search_time_text(search: SearchTime) -> str:
    """How long a search will take, and what that is made of."""
    parts = (
        f"about {duration(search.estimated_search_s)}: {search.max_evaluations} evaluations and "
        f"{search.setup_evaluations} before it starts, one for each group, at {duration(search.evaluation_s)} each"
    )
    if search.table_s is not None:
        parts += f", and {duration(search.table_s)} for the latency table, which is kept for the next time"
    timed = "" if search.images_timed == search.images else f", on {search.images_timed} of its {search.images} images"
    return (
        f"{parts}. An evaluation cuts, recalibrates and scores; it is the median of {search.evaluations_timed} timed "
        f"just now{timed}. The agent's own learning comes on top."
    )


def validation_text(inspection: Inspection) -> str | None:
    check = inspection.validation
    if check is None:
        return None
    return (
        f"{check.n} random policies, predicted and then measured on their exported files: median error "
        f"{check.median_rel_error:.1%}, 95th percentile {check.p95_rel_error:.1%}, Spearman {check.spearman:.3f}"
    )


def duration(seconds: float) -> str:
    """ "0.42 s", "38 s", "2 min 5 s", "3 h 10 min"."""
    return f"{seconds:.2g} s" if seconds < 9.95 else progress.duration(seconds)


def _amount(target: TargetRange, value: float) -> str:
    if target.metric == "latency":
        return _milliseconds(value)
    return f"{value:.3g} mJ" if target.metric == "energy" else _count(round(value))


def _count(value: int) -> str:
    return f"{value:,}" if value < 100_000 else f"{value / 1e6:,.2f} M"


def _milliseconds(value: float) -> str:
    return f"{value:.4f} ms" if value < 1 else f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _percent_up(ratio: float) -> str:
    return f"{math.ceil(ratio * 1e3 - 1e-9) / 10:.1f}%"

"""What can be pruned in a model, what couples it, what it costs, and how small it can get: facts, assembled purely.

Nothing here measures. Latencies come in as numbers (milliseconds by layer, whole models by policy), so that the same
facts can be worked out by hand; `inspect_model` measures and calls this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from autoprune.config import CostName, MeasureConfig, SearchConfig
from autoprune.errors import InputError
from autoprune.prediction.energy import estimated_energy_mj
from autoprune.prediction.latency_validation import LatencyValidation
from autoprune.prediction.staircase import Ladders
from autoprune.pruning.cost import Cost, CutShapes, LayerShape
from autoprune.pruning.elastic import sliced_tensors
from autoprune.pruning.forward_pass import evaluation_mode, graph_of
from autoprune.pruning.groups import Member, PrunableGroup, SkippedGroup
from autoprune.pruning.layers import CONVOLUTIONS, NORMS, TRANSPOSED, Axis
from autoprune.space.policy import PruningPolicy

MAKERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.Embedding)
MOST_WIDTHS = 64  # of a staircase; a wider group shows every k-th
MOST_NAMES = 8  # in an error message
LEAF = "torch::autograd::AccumulateGrad"  # a parameter or the image
JOINS = {"adds": "Add", "multiplies": "Mul"}  # the starts of autograd's names

Role = Literal["makes", "depthwise", "normalises", "reads", "holds"]
Source = Literal["predicted", "counted", "estimated"]
UNITS: dict[CostName, tuple[str, Source]] = {
    "latency": ("ms", "predicted"),
    "macs": ("count", "counted"),
    "params": ("count", "counted"),
    "energy": ("mj", "estimated"),
}


@dataclass(frozen=True)
class InspectedModel:
    """What was asked for."""

    name: str
    checkpoint: str | None
    width: float
    input_shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True)
class LatencyFacts:
    """Of the original: each layer inside the whole graph, and the whole; of the smallest policy: the whole."""

    layers_ms: Mapping[str, float]
    original_ms: float
    smallest_ms: float
    device: str
    runtime: str


@dataclass(frozen=True)
class CoupledLayer:
    """One side of a layer that loses the group's channels; `channels` of its own are lost in all."""

    layer: str
    side: Axis
    role: Role
    channels: int


@dataclass(frozen=True)
class Share:
    """What some layers take; shares, 0..1, are of the whole model, that of latency of the time of all layers."""

    macs: int
    macs_share: float
    params: int
    params_share: float
    predicted_latency_ms: float | None
    latency_share: float | None


@dataclass(frozen=True)
class GroupFacts:
    """A prunable group, and what the layers take whose outputs it makes."""

    name: str
    channels: int
    coupling: str  # in words
    members: tuple[CoupledLayer, ...]
    takes: Share
    ladder: tuple[int, ...]  # ascending


@dataclass(frozen=True)
class LayerFacts:
    """A convolution or linear layer of the original; `group` makes its outputs (None: they cannot be pruned)."""

    name: str
    kind: str
    shape: LayerShape
    group: str | None
    takes: Share


@dataclass(frozen=True)
class TargetRange:
    """`ceiling` is the original's cost, `floor` that of the smallest policy; no target below the floor can be met."""

    metric: CostName
    unit: str
    source: Source
    ceiling: float
    floor: float

    @property
    def smallest_max_ratio(self) -> float:
        return self.floor / self.ceiling


@dataclass(frozen=True)
class SearchTime:
    """How long a search with the default settings will take, from evaluations that were timed here.

    An evaluation cuts, recalibrates and scores. The set-up scores each group alone once. `table_s` is what the latency
    table took just now: next to nothing when it was there already. The agent's own learning is not counted.
    """

    evaluation_s: float  # one evaluation, with all its images
    evaluations_timed: int
    images_timed: int  # in each; fewer than `images` when those would take long, and then scaled up
    images: int
    max_evaluations: int
    setup_evaluations: int
    table_s: float | None  # None: latency was left out

    @property
    def estimated_search_s(self) -> float:
        return self.evaluation_s * (self.max_evaluations + self.setup_evaluations) + (self.table_s or 0.0)


@dataclass(frozen=True)
class Staircase:
    """Time of the layers that a group touches at each width, the other groups at full width."""

    layer: str  # what was asked for
    group: str
    channels: int
    points: tuple[tuple[int, float], ...]  # (width, ms), ascending
    rungs: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """All facts about a model; `latency` is None when it was left out."""

    model: InspectedModel
    search: SearchConfig
    measure: MeasureConfig
    macs: int
    params: int
    estimated_energy_mj: float
    latency: LatencyFacts | None
    groups: tuple[GroupFacts, ...]
    skipped: tuple[SkippedGroup, ...]
    layers: tuple[LayerFacts, ...]
    targets: tuple[TargetRange, ...]
    search_time: SearchTime | None = None
    staircase: Staircase | None = None
    validation: LatencyValidation | None = None

    @property
    def rest_latency_ms(self) -> float | None:
        """What is not in the layers (pooling, calls), as fitted to whole models: a correction, of either sign."""
        return None if self.latency is None else self.latency.original_ms - sum(self.latency.layers_ms.values())


def assemble(
    model: InspectedModel,
    skipped: Sequence[SkippedGroup],
    shapes: CutShapes,
    ladders: Ladders,
    *,
    search: SearchConfig,
    measure: MeasureConfig,
    latency: LatencyFacts | None,
) -> Inspection:
    """The facts of the model of `shapes`, whose groups may have the widths of `ladders`; nothing is measured."""
    elastic = shapes.elastic
    full, joins = elastic.full_policy, joining_words(elastic.original, model.input_shape)
    smallest = smallest_policy(ladders)
    original, least = shapes.cost(full), shapes.cost(smallest)
    owners = {member.module: group.name for group in elastic.groups for member in group.members if member.axis == "out"}
    layers = tuple(
        LayerFacts(
            name, shape.kind, shape, owners.get(name), _share(shape.macs, shape.params, [name], original, latency)
        )
        for name, shape in shapes.original.items()
    )
    energies_mj = [estimated_energy_mj(shapes.layers(policy).values()) for policy in (full, smallest)]
    ranges: dict[CostName, Sequence[float]] = {
        **({} if latency is None else {"latency": (latency.original_ms, latency.smallest_ms)}),
        "macs": (original.macs, least.macs),
        "params": (original.params, least.params),
        "energy": energies_mj,
    }
    return Inspection(
        model=model,
        search=search,
        measure=measure,
        macs=original.macs,
        params=original.params,
        estimated_energy_mj=energies_mj[0],
        latency=latency,
        groups=tuple(
            _group_facts(group, shapes, ladders[group.name], original, latency, joins=joins) for group in elastic.groups
        ),
        skipped=tuple(skipped),
        layers=layers,
        targets=tuple(TargetRange(metric, *UNITS[metric], *ends) for metric, ends in ranges.items()),
    )


def smallest_policy(ladders: Ladders) -> PruningPolicy:
    return PruningPolicy.of({name: min(widths) for name, widths in ladders.items()})


def coupling_words(members: Sequence[CoupledLayer], *, joins: str) -> str:
    """What couples the layers of a group: "adds: conv1, layer1.0.conv2; read by: layer1.0.conv1"."""

    def names(role: Role) -> str:
        return ", ".join(dict.fromkeys(member.layer for member in members if member.role == role))

    makers = [member for member in members if member.role == "makes"]
    parts = [f"{joins if len(makers) > 1 else 'made by'}: {names('makes')}"]
    labels: dict[Role, str] = {
        "depthwise": "filtered by",
        "normalises": "normalised by",
        "holds": "held by",
        "reads": "read by",
    }
    parts += [f"{label}: {names(role)}" for role, label in labels.items() if names(role)]
    return "; ".join(parts)


def joining_words(model: nn.Module, input_shape: tuple[int, int, int]) -> str:
    """What the model does with several tensors element by element: "adds", or more where it does not only add.

    Read from autograd's graph of one image; a concatenation couples nothing and does not count.
    """
    with evaluation_mode(model), torch.enable_grad():
        output = model(torch.zeros(1, *input_shape, requires_grad=True))
    names: set[str] = set()
    for node in graph_of(output):
        inputs = [parent for parent, _ in node.next_functions if parent is not None]
        if len([parent for parent in inputs if parent.name() != LEAF]) > 1:
            names.add(node.name())
    kinds = [word for word, start in JOINS.items() if any(name.startswith(start) for name in names)]
    return " or ".join(kinds) or "joins"


def group_of_layer(
    layer: str, model: nn.Module, groups: Sequence[PrunableGroup], skipped: Sequence[SkippedGroup]
) -> PrunableGroup:
    """The group that makes, filters or normalises the outputs of `layer`; `InputError` says why there is none."""
    for group in groups:
        if any(member.module == layer and member.axis == "out" for member in group.members):
            return group
    reasons = [group.reason for group in skipped if group.name == layer]
    if reasons:
        raise InputError(f"--staircase {layer}: its channels cannot be pruned ({reasons[0]})")
    if layer in dict(model.named_modules()):
        raise InputError(f"--staircase {layer}: no prunable group makes its outputs; name one of {_some(groups)}")
    raise InputError(f"--staircase {layer}: the model has no such layer; its groups are {_some(groups)}")


def staircase_widths(channels: int, rungs: Sequence[int]) -> tuple[int, ...]:
    """Every width of a group, or every k-th down from all channels when there are many, and its rungs; ascending."""
    step = -(-channels // MOST_WIDTHS)
    return tuple(sorted({*range(channels, 0, -step), *rungs}))


def _some(groups: Sequence[PrunableGroup]) -> str:
    names = [group.name for group in groups]
    return ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")


def _group_facts(
    group: PrunableGroup,
    shapes: CutShapes,
    ladder: tuple[int, ...],
    whole: Cost,
    latency: LatencyFacts | None,
    *,
    joins: str,
) -> GroupFacts:
    model = shapes.elastic.original
    owned = [member for member in group.members if member.axis == "out"]
    layers = list(dict.fromkeys(member.module for member in owned if member.module in shapes.original))
    macs = sum(shapes.original[name].macs for name in layers)
    params = sum(shapes.original[name].params for name in layers)
    for member in owned:
        if member.module not in shapes.original:  # of a BatchNorm: a scale and a shift for each of the group's channels
            for tensor, dim in sliced_tensors(model, member.module, member.axis):
                if isinstance(tensor, nn.Parameter):
                    params += tensor.numel() // tensor.shape[dim] * len(member.local)
    members = tuple(
        CoupledLayer(member.module, member.axis, _role(model, member, shapes.original), len(set(member.local)))
        for member in group.members
    )
    return GroupFacts(
        group.name,
        group.channels,
        coupling_words(members, joins=joins),
        members,
        _share(macs, params, layers, whole, latency),
        ladder,
    )


def _role(model: nn.Module, member: Member, shapes: Mapping[str, LayerShape]) -> Role:
    if member.axis == "in":
        return "reads"
    if member.axis != "out":
        return "holds"  # a bare parameter or buffer
    if member.module in shapes:
        return "depthwise" if shapes[member.module].kind == "depthwise" else "makes"
    module = model.get_submodule(member.module)
    if isinstance(module, NORMS):
        return "normalises"
    return "makes" if isinstance(module, MAKERS) else "holds"


def _share(macs: int, params: int, layers: Sequence[str], whole: Cost, latency: LatencyFacts | None) -> Share:
    latency_ms = latency_share = None
    if latency is not None:
        latency_ms, whole_ms = sum(latency.layers_ms[name] for name in layers), sum(latency.layers_ms.values())
        latency_share = latency_ms / whole_ms if whole_ms > 0 else 0.0
    return Share(macs, macs / whole.macs, params, params / whole.params, latency_ms, latency_share)

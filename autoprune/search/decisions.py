"""What is known of a group of channels, or of a layer with options, before anything is evaluated: its decision."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from autoprune.prediction.latency_table import LatencyModel
from autoprune.pruning.cost import CutShapes, LayerShape
from autoprune.pruning.groups import PrunableGroup
from autoprune.pruning.importance import lost_importance
from autoprune.space.decision import Decision
from autoprune.space.layer_option import LayerOption
from autoprune.space.policy import PruningPolicy


def decision_of(
    group: PrunableGroup, scores: Tensor, shapes: CutShapes, latency: LatencyModel, full: PruningPolicy
) -> Decision:
    made = {member.module for member in group.members if member.axis == "out"}
    owned = [name for name in shapes.original if name in made]
    ladder = latency.ladders[group.name]
    lost = lost_importance(scores, ladder)
    return _decision(group.name, ladder, lost, _maker(group, shapes), owned, shapes, latency, full)


def layer_decision(
    option: LayerOption, model: nn.Module, shapes: CutShapes, latency: LatencyModel, full: PruningPolicy
) -> Decision:
    lost = option.lost_importance(model.get_submodule(option.layer))
    layer = shapes.original[option.layer]
    found = _decision(option.name, option.sizes, lost, layer, [option.layer], shapes, latency, full)
    return replace(found, is_width=False)


def _decision(
    name: str,
    ladder: tuple[int, ...],
    lost_importance: tuple[float, ...],
    layer: LayerShape,
    owned: Sequence[str],
    shapes: CutShapes,
    latency: LatencyModel,
    full: PruningPolicy,
) -> Decision:
    """Of a `layer`, and of the share that the layers `owned` have of the whole."""
    full_ms = latency.layers_ms(full)
    all_ms = sum(full_ms.values())
    macs = {name: shape.macs for name, shape in shapes.original.items()}
    macs_share = sum(macs[name] for name in owned) / sum(macs.values())
    return Decision(
        name=name,
        kind=layer.kind,
        ladder=ladder,
        channels_in=layer.in_channels,
        stride=layer.stride[0],
        kernel=layer.kernel[0],
        spatial=layer.out_size[0],
        macs_share=macs_share,
        # No layer takes longer than can be measured.
        latency_share=sum(full_ms[name] for name in owned) / all_ms if all_ms > 0 else macs_share,
        sensitivity=0.0,
        lost_importance=lost_importance,
    )


def _maker(group: PrunableGroup, shapes: CutShapes) -> LayerShape:
    """The first layer with a shape that makes the group's channels; a point of a linear layer if there is none."""
    made = (member.module for member in group.members if member.axis == "out" and member.module in shapes.original)
    name = group.name if group.name in shapes.original else next(made, None)
    if name is not None:
        return shapes.original[name]
    one = (1, 1)
    return LayerShape("linear", group.channels, group.channels, one, one, (0, 0), one, 1, one, one, False)

"""What is known of a group of channels, or of a layer with options, before anything is evaluated: its decision."""

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
    layer = _maker(group, shapes)
    owned = {
        name: shape
        for name, shape in shapes.original.items()
        if any(member.module == name and member.axis == "out" for member in group.members)
    }
    everything = shapes.original.values()
    full_ms = latency.layers_ms(full)
    owned_ms, all_ms = sum(full_ms[name] for name in owned), sum(full_ms.values())
    macs_share = sum(shape.macs for shape in owned.values()) / sum(shape.macs for shape in everything)
    return Decision(
        name=group.name,
        kind=layer.kind,
        ladder=latency.ladders[group.name],
        channels_in=layer.in_channels,
        stride=layer.stride[0],
        kernel=layer.kernel[0],
        spatial=layer.out_size[0],
        macs_share=macs_share,
        latency_share=owned_ms / all_ms if all_ms > 0 else macs_share,  # no layer takes longer than can be measured
        sensitivity=0.0,
        lost_importance=lost_importance(scores, latency.ladders[group.name]),
    )


def layer_decision(
    option: LayerOption, model: nn.Module, shapes: CutShapes, latency: LatencyModel, full: PruningPolicy
) -> Decision:
    layer, full_ms = shapes.original[option.layer], latency.layers_ms(full)
    macs_share = layer.macs / sum(shape.macs for shape in shapes.original.values())
    all_ms = sum(full_ms.values())
    return Decision(
        name=option.name,
        kind=layer.kind,
        ladder=option.sizes,
        channels_in=layer.in_channels,
        stride=layer.stride[0],
        kernel=layer.kernel[0],
        spatial=layer.out_size[0],
        macs_share=macs_share,
        latency_share=full_ms[option.layer] / all_ms if all_ms > 0 else macs_share,
        sensitivity=0.0,
        is_width=False,
        lost_importance=option.lost_importance(model.get_submodule(option.layer)),
    )


def _maker(group: PrunableGroup, shapes: CutShapes) -> LayerShape:
    """The first layer with a shape that makes the group's channels; a point of a linear layer if there is none."""
    made = (member.module for member in group.members if member.axis == "out" and member.module in shapes.original)
    name = group.name if group.name in shapes.original else next(made, None)
    if name is not None:
        return shapes.original[name]
    one = (1, 1)
    return LayerShape("linear", group.channels, group.channels, one, one, (0, 0), one, 1, one, one, False)

"""The time of a layer at any widths of its two sides, from what was measured along a few lines.

A layer of eight widths on either side has sixty-four times, far more than a search will ever look up. For given outputs
its time grows with the inputs along much the same curve, whatever the outputs are. So it is measured at every width of
the inputs with all outputs (the *profile*), at every width of the outputs with a few widths of the inputs (the
*anchors*), and worked out between: from anchor to anchor as the profile goes.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.prediction.staircase import Ladders
from autoprune.pruning.cost import CutShapes

ANCHORS = 5  # the fewest inputs, all of them, and some between, evenly
Time = Callable[[int, int], float]
"""Of a layer with so many input and output channels, in milliseconds, as it was measured."""


@dataclass(frozen=True)
class LayerLines:
    """`inputs` and `outputs` are the widths of the two sides, ascending."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def anchors(self) -> tuple[int, ...]:
        places = np.linspace(0, len(self.inputs) - 1, ANCHORS).round().astype(int)
        return tuple(dict.fromkeys(self.inputs[place] for place in places))

    @property
    def measured(self) -> tuple[tuple[int, int], ...]:
        """The (inputs, outputs) that have to be measured."""
        profile = [(width, self.outputs[-1]) for width in self.inputs]
        return tuple(dict.fromkeys((*profile, *((anchor, width) for width in self.outputs for anchor in self.anchors))))

    def covers(self, inputs: int, outputs: int) -> bool:
        return self.inputs[0] <= inputs <= self.inputs[-1] and outputs in self.outputs

    def ms(self, inputs: int, outputs: int, time: Time) -> float:
        """Time at widths that it `covers`: as measured where it was, elsewhere as the profile goes."""
        anchors = self.anchors
        if inputs in anchors:
            return time(inputs, outputs)
        after = bisect.bisect(anchors, inputs)
        low, high = anchors[after - 1], anchors[after]
        start, end = (self._profile(width, time) for width in (low, high))
        here = self._profile(inputs, time)
        # A profile that does not rise says nothing of where between the two anchors a width lies.
        share = (here - start) / (end - start) if end > start else (inputs - low) / (high - low)
        share = min(max(share, 0.0), 1.0)
        return (1 - share) * time(low, outputs) + share * time(high, outputs)

    def _profile(self, inputs: int, time: Time) -> float:
        """With all outputs; between two measured widths, which a layer that reads several groups has, on a line."""
        most = self.outputs[-1]
        if inputs in self.inputs:
            return time(inputs, most)
        after = bisect.bisect(self.inputs, inputs)
        low, high = self.inputs[after - 1], self.inputs[after]
        share = (inputs - low) / (high - low)
        return (1 - share) * time(low, most) + share * time(high, most)


def evenly_filled(ladders: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Widths of several groups, all of them narrow to all of them wide, in as many steps as the longest ladder has."""
    steps = max((len(ladder) for ladder in ladders), default=1)
    places = [np.linspace(0, len(ladder) - 1, steps).round().astype(int) for ladder in ladders]
    return [tuple(ladder[place[step]] for ladder, place in zip(ladders, places, strict=True)) for step in range(steps)]


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
            [
                shapes.layer(name, whole | dict(zip(groups, widths, strict=True)))
                for widths in evenly_filled([ladders[group] for group in groups])
            ]
            for groups in sides
        )
        lines[name] = LayerLines(
            tuple(sorted({layer.in_channels for layer in inputs if not layer.is_empty})),
            tuple(sorted({layer.out_channels for layer in outputs if not layer.is_empty})),
        )
    return lines

"""The two routers, a cascade and a learned one: what each decides in NumPy, and the same as a part of an ONNX graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autoprune.adaptive.figures.schema import RouterName
from autoprune.adaptive.file.export import GOES_ON, NEXT, PRICE_NAME, GraphPart, level_name
from autoprune.adaptive.routing.routing import Array, Integers
from autoprune.envs.router_observation import LOGIT_SCALE, SUREST, observe_answer, share_of
from autoprune.export.onnx_file import OUTPUT_NAME

ALWAYS = 1.02  # a threshold that every confidence is below
USUAL_PRICE, HIGHEST_PRICE = 0.5, 1.0  # of time for a cascade: where thresholds are as chosen, and where none goes on

Attributes = Mapping[str, Any]
NO_ATTRIBUTES: Attributes = {}


def priced(threshold: float, price: float) -> float:
    """A cascade's threshold at a price of time: in straight lines from `ALWAYS` at 0 to 0 at the highest price."""
    dearer = 2.0 * min(price, HIGHEST_PRICE) - 1.0
    return threshold - dearer * (threshold if dearer > 0 else ALWAYS - threshold)


@dataclass(frozen=True)
class Cascade:
    """Go one level up while the largest probability is below the level's threshold, which the price moves: a
    fixed-confidence cascade."""

    thresholds: tuple[float, ...]  # one for each level but the largest
    price: float = USUAL_PRICE
    max_price: ClassVar[float] = HIGHEST_PRICE
    name: ClassVar[RouterName] = "cascade"

    def __call__(self, level: int, probabilities: Array) -> Integers:
        threshold = priced(self.thresholds[level], self.price)
        return np.where(probabilities.max(1) < threshold, level + 1, level)

    def nodes(self, level: int, *, is_only: bool) -> GraphPart:
        """What `__call__` does at this level, its threshold as `priced` has it."""
        part, threshold = RouterGraph(level), self.thresholds[level]
        probabilities = part.node("Softmax", [part.logits], {"axis": 1})
        confidence = part.node("ReduceMax", [probabilities], {"axes": [1], "keepdims": 0})
        room = np.float32(ALWAYS - threshold)
        bounded = part.node("Min", [PRICE_NAME, part.weight(np.array([HIGHEST_PRICE], np.float32))])
        moved = part.node("Mul", [bounded, part.weight(np.array([-2.0 * room], np.float32))])
        cheaper = part.node("Add", [moved, part.weight(np.array([room], np.float32))])
        shift = part.node("LeakyRelu", [cheaper], {"alpha": float(threshold / room)})
        moved_threshold = part.node("Add", [shift, part.weight(np.array([threshold], np.float32))])
        goes_on = part.node("Less", [confidence, moved_threshold], output=GOES_ON if is_only else None)
        if not is_only:
            step = part.node("Cast", [goes_on], {"to": TensorProto.INT64})
            part.node("Add", [step, part.weight(np.array(level, np.int64))], output=NEXT)
        return part.nodes, part.weights


@dataclass(frozen=True)
class LearnedRouter:
    """What a small network makes of a level's answer and the price of time.

    A multilayer perceptron with ReLU: observation to the value of each action. `layers` are (out, in), (out,).

    The price is that of a run of the largest level, in right answers.
    """

    layers: tuple[tuple[Array, Array], ...]
    classes: int
    levels: int
    max_price: float
    price: float = 0.0
    name: ClassVar[RouterName] = "learned"

    def at_price(self, price: float) -> "LearnedRouter":
        return replace(self, price=price)

    def values(self, observations: Array) -> Array:
        """(n, fields) to (n, levels)."""
        x = observations
        for number, (weight, bias) in enumerate(self.layers, 1):
            x = x @ weight.T + bias
            if number < len(self.layers):
                x = np.maximum(x, 0.0)
        return x

    def __call__(self, level: int, probabilities: Array) -> Integers:
        share = np.full(len(probabilities), share_of(self.price, self.max_price), dtype=np.float32)
        values = self.values(observe_answer(level, probabilities, share, levels=self.levels))
        # Actions up to the level that ran all mean the same, to stop: the value of that level's stands for them.
        return np.asarray(level + values[:, level:].argmax(1), dtype=np.int64)

    def nodes(self, level: int, *, is_only: bool) -> GraphPart:
        """What `__call__` does at this level, with what is the same for all images folded into the weights.

        The first layer reads the logits themselves and, in a product of its own, the largest probabilities: its weights
        take in that logits are centred and scaled, its bias the rest of the observation. Of the last layer only what is
        compared is worked out.
        """
        part = RouterGraph(level)
        (weight, bias), *deeper = self._compared(level, is_only=is_only)
        logit_weight, surest_weight, other_weight = np.split(weight, [self.classes, self.classes + SUREST], axis=1)
        of_logits = (logit_weight - logit_weight.mean(1, keepdims=True)) / np.float32(LOGIT_SCALE)
        share = part.node("Sqrt", [part.node("Div", [PRICE_NAME, part.weight(np.array(self.max_price, np.float32))])])
        shared = part.node("Min", [share, part.weight(np.array(1.0, np.float32))])
        priced = part.node("Mul", [shared, part.weight(other_weight[:, -1])])
        shift = part.node("Add", [priced, part.weight(bias + other_weight[:, level])])
        probabilities = part.node("Softmax", [part.logits], {"axis": 1})
        surest = part.node("TopK", [probabilities, part.weight(np.array([SUREST], np.int64))], {"axis": 1}, outputs=2)
        x = part.node("Gemm", [surest, part.weight(surest_weight), shift], {"transB": 1})
        x = part.node("Gemm", [part.logits, part.weight(of_logits), x], {"transB": 1})
        for next_weight, next_bias in deeper:
            hidden = part.node("Relu", [x])
            x = part.node("Gemm", [hidden, part.weight(next_weight), part.weight(next_bias)], {"transB": 1})
        if is_only:
            part.node("Greater", [x, part.weight(np.array(0.0, np.float32))], output=GOES_ON)
        else:
            best = part.node("ArgMax", [x], {"axis": 1, "keepdims": 0})
            part.node("Add", [best, part.weight(np.array(level, np.int64))], output=NEXT)
        return part.nodes, part.weights

    def _compared(self, level: int, *, is_only: bool) -> tuple[tuple[Array, Array], ...]:
        """The layers, the last of which gives the values of stopping and of each larger level; where there is one
        larger level, what it is worth more than to stop."""
        *first, (weight, bias) = self.layers
        weight, bias = weight[level:], bias[level:]
        return (*first, (weight[1:] - weight[:1], bias[1:] - bias[:1]) if is_only else (weight, bias))


class RouterGraph:
    """Collects the nodes and weights of the router after a level, naming them."""

    def __init__(self, level: int) -> None:
        self._level = level
        self.logits = level_name(level, OUTPUT_NAME)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, values: NDArray[Any]) -> str:
        name = level_name(self._level, f"router.weight_{len(self.weights)}")
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        output: str | None = None,
        outputs: int = 1,
    ) -> str:
        """Add a node; the name of its first output."""
        name = level_name(self._level, f"router.{kind.lower()}_{len(self.nodes)}")
        first = level_name(self._level, output) if output else name
        names = [first, *(f"{name}_{place}" for place in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return first

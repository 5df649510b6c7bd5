"""Routers as parts of an ONNX graph, equal to what they decide in NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autoprune.adaptive.file.export import GOES_ON, NEXT, PRICE_NAME, GraphPart, level_name
from autoprune.adaptive.routing.learner import LearnedRouter
from autoprune.adaptive.routing.routing import ALWAYS, HIGHEST_PRICE, USUAL_PRICE
from autoprune.envs.router_observation import LOGIT_SCALE, SUREST
from autoprune.export.onnx_file import OUTPUT_NAME

Attributes = Mapping[str, Any]
NO_ATTRIBUTES: Attributes = {}
Array = NDArray[np.float32]


@dataclass(frozen=True)
class CascadeNodes:
    """The fixed-confidence cascade; another price of time than the usual one moves its thresholds."""

    thresholds: tuple[float, ...]
    default_price: float = USUAL_PRICE
    max_price: float = HIGHEST_PRICE

    def nodes(self, level: int, *, is_only: bool) -> GraphPart:
        """`routing.by_confidence` of one level, its threshold as `routing.priced` has it."""
        part, threshold = _Part(level), self.thresholds[level]
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
class LearnedNodes:
    """A learned router that weighs time by the price it is fed."""

    router: LearnedRouter
    default_price: float

    @property
    def max_price(self) -> float:
        return self.router.max_price

    def nodes(self, level: int, *, is_only: bool) -> GraphPart:
        """`LearnedRouter.at_price`, with what is the same for all images folded into the weights.

        The first layer reads the logits themselves and, in a product of its own, the largest probabilities: its weights
        take in that logits are centred and scaled, its bias the rest of the observation. Of the last layer only what is
        compared is worked out.
        """
        part = _Part(level)
        (weight, bias), *deeper = _compared(self.router, level, is_only=is_only)
        classes = self.router.classes
        logit_weight, surest_weight, other_weight = np.split(weight, [classes, classes + SUREST], axis=1)
        of_logits = (logit_weight - logit_weight.mean(1, keepdims=True)) / np.float32(LOGIT_SCALE)
        share = part.node(
            "Sqrt", [part.node("Div", [PRICE_NAME, part.weight(np.array(self.router.max_price, np.float32))])]
        )
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


def _compared(router: LearnedRouter, level: int, *, is_only: bool) -> tuple[tuple[Array, Array], ...]:
    """The layers of `router`, the last of which gives the values of stopping and of each larger level; where there is
    one larger level, what it is worth more than to stop."""
    *first, (weight, bias) = router.layers
    if is_only:
        return (*first, (weight[level + 1 :] - weight[level : level + 1], bias[level + 1 :] - bias[level : level + 1]))
    return (*first, (weight[level:], bias[level:]))


class _Part:
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

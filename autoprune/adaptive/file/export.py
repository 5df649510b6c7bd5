"""One ONNX file that runs a larger level only for inputs that need it: the levels under `If`, the router between them.

The graph is a chain: the smallest level, its router, then for each larger level an `If` that runs it or passes on what
there is. So each level stands in the file once, whatever led to it. Weights that levels have in common are stored once
(`shared_weights`), but no branch computes with weights from outside: ONNX Runtime neither prepacks those nor lays them
out anew, which more than doubles a level's time (measured: 270 instead of 150 microseconds for a cut ResNet-20).
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from autoprune.adaptive.figures.schema import RouterName
from autoprune.adaptive.levels.shared_weights import SHARED, Cut, share_weights
from autoprune.adaptive.routing.calibration import CALIBRATION, LevelCalibration
from autoprune.adaptive.routing.routing import Array, Integers
from autoprune.errors import InputError
from autoprune.export.onnx_file import INPUT_NAME, OPSET, OUTPUT_NAME
from autoprune.foundation.files import atomic_path

LEVEL_NAME, PRICE_NAME = "level", "price"
NEXT, GOES_ON = "next", "goes_on"
LEVELS_KEY = "levels"
IR_VERSION = 8


GraphPart = tuple[list[NodeProto], list[TensorProto]]
"""Nodes and weights."""


class PricedRouter(Protocol):
    """A router (`routing.Router`) at a price of time, and a part of a graph that decides the same at any price."""

    @property
    def name(self) -> RouterName: ...

    @property
    def price(self) -> float: ...

    @property
    def max_price(self) -> float:
        """The largest price that makes a difference."""
        ...

    def __call__(self, level: int, probabilities: Array) -> Integers: ...

    def nodes(self, level: int, *, is_only: bool) -> GraphPart:
        """From the logits (1, classes) of `level` and the price of time (1,) to what to do.

        `next_name(level)`, (1,) int64: the level to run next, or `level` itself or less to stop. If it is the only
        decision in the file, which has two levels, `level_name(level, GOES_ON)`, one bool: each operation less is time.
        """
        ...


def export_adaptive(
    levels: Sequence[Path],
    router: PricedRouter,
    path: Path,
    *,
    cuts: Sequence[Cut] = (),
    calibration: tuple[LevelCalibration, ...] = (),
) -> None:
    """Join exported files of the levels, the smallest first, and a router into one file for batches of one image.

    With `cuts`, what each of the first levels keeps of the layers of the last of these, their weights are stored once.
    Outputs are the logits (1, classes) and the level that answered, (1,) int64. The price of time is a constant: ONNX
    Runtime works out all that depends on it alone when it loads the file. Metadata of the largest level's file is kept;
    with `calibration`, of each level, a session can learn from labels. Raises `InputError` for a file that does not say
    how many classes there are.
    """
    models = [onnx.load(str(file)) for file in levels]
    shared = share_weights(models[: len(cuts)], cuts) if cuts else []
    first = models[0].graph
    dimensions = first.output[0].type.tensor_type.shape.dim
    if len(dimensions) != 2 or not (classes := int(dimensions[1].dim_value)):
        raise InputError(f"{levels[0]}: {OUTPUT_NAME} is not of shape (batch, classes)")
    is_only = len(models) == 2
    nodes, weights = _answering(first, 0, router.nodes(0, is_only=is_only))
    found = _found(0)  # names of the logits so far, the level that gave them, and the one to run next
    for level, model in enumerate(models[1:], 1):
        is_last = level + 1 == len(models)
        name = f"at_{level}"
        outputs = [OUTPUT_NAME, LEVEL_NAME] if is_last else [f"{name}_logits", f"{name}_level", f"{name}_next"]
        decision: GraphPart = ([], []) if is_last else router.nodes(level, is_only=False)
        passed = [f"pass_{level}_{place}" for place in range(len(outputs))]
        passing = [helper.make_node("Identity", [value], [to]) for value, to in zip(found, passed, strict=False)]
        runs = level_name(0, GOES_ON) if is_only else f"{name}_runs"
        if not is_only:
            weights.append(numpy_helper.from_array(np.array(level, np.int64), f"{name}_number"))
            nodes.append(helper.make_node("Equal", [found[-1], f"{name}_number"], [runs]))
        ran = _found(level)[: len(outputs)]
        nodes.append(
            helper.make_node(
                "If",
                [runs],
                outputs,
                name=name,
                then_branch=_branch(f"run_{level}", _answering(model.graph, level, decision), ran, classes),
                else_branch=_branch(f"pass_{level}", (passing, []), passed, classes),
            )
        )
        found = outputs
    weights.append(numpy_helper.from_array(np.array([router.price], np.float32), PRICE_NAME))
    image = copy.deepcopy(first.input[0])
    image.type.tensor_type.shape.dim[0].Clear()
    image.type.tensor_type.shape.dim[0].dim_value = 1
    graph = helper.make_graph(
        nodes,
        "adaptive",
        [image],
        [_logits_info(OUTPUT_NAME, classes), _number_info(LEVEL_NAME)],
        initializer=[*weights, *shared],
    )
    joined = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    known = {entry.key: entry.value for entry in models[-1].metadata_props}
    known |= {LEVELS_KEY: str(len(models)), "max_price": str(router.max_price)}
    helper.set_model_props(joined, known | ({CALIBRATION.name: CALIBRATION.text(calibration)} if calibration else {}))
    onnx.checker.check_model(joined, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(joined, str(temporary))


def _answering(graph: onnx.GraphProto, level: int, decision: GraphPart) -> GraphPart:
    """A level, all names its own but those of the input and of weights that are stored once; then its number, and what
    the router makes of its answer."""

    def renamed(name: str) -> str:
        is_common = name in ("", INPUT_NAME) or name.startswith(SHARED)
        return name if is_common else level_name(level, name)

    own = copy.deepcopy(graph)
    for node in own.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for weight in own.initializer:
        weight.name = renamed(weight.name)
    number = numpy_helper.from_array(np.array([level], np.int64))
    constant = helper.make_node("Constant", [], [_found(level)[1]], value=number)
    return [*own.node, constant, *decision[0]], [*own.initializer, *decision[1]]


def _branch(name: str, part: GraphPart, outputs: Sequence[str], classes: int) -> onnx.GraphProto:
    """One side of an `If`, whose `outputs` are logits and numbers."""
    infos = [_logits_info(outputs[0], classes), *map(_number_info, outputs[1:])]
    return helper.make_graph(part[0], name, [], infos, initializer=part[1])


def _logits_info(name: str, classes: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, classes])


def _number_info(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [1])


def level_name(level: int, name: str) -> str:
    """What `name` of a level's own file is called in the joined one."""
    return f"level_{level}.{name}"


def next_name(level: int) -> str:
    """What the router of a level decides, (1,) int64."""
    return level_name(level, NEXT)


def _found(level: int) -> list[str]:
    """The logits of a level, its number, and what its router decides."""
    return [level_name(level, OUTPUT_NAME), level_name(level, "answered"), next_name(level)]

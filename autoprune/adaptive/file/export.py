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
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from autoprune.adaptive.levels.shared_weights import SHARED, Cuts, share_weights
from autoprune.adaptive.routing.calibration import LevelCalibration, as_text
from autoprune.errors import InputError
from autoprune.export.onnx_file import INPUT_NAME, OPSET, OUTPUT_NAME
from autoprune.foundation.files import atomic_path

LEVEL_NAME, PRICE_NAME = "level", "price"
NEXT, GOES_ON = "next", "goes_on"
CALIBRATION_KEY, LEVELS_KEY = "calibration", "levels"
IR_VERSION = 8

Array = NDArray[np.float32]


class RouterNodes(Protocol):
    """A router as a part of a graph."""

    @property
    def default_price(self) -> float: ...

    @property
    def max_price(self) -> float:
        """The largest price that makes a difference."""
        ...

    def nodes(self, level: int, *, is_only: bool) -> "GraphPart":
        """From the logits (1, classes) of `level` and the price of time (1,) to what to do.

        `next_name(level)`, (1,) int64: the level to run next, or `level` itself or less to stop. If it is the only
        decision in the file, which has two levels, `level_name(level, GOES_ON)`, one bool: each operation less is time.
        """
        ...


GraphPart = tuple[list[NodeProto], list[TensorProto]]
"""Nodes and weights."""


def export_adaptive(
    levels: Sequence[Path],
    router: RouterNodes,
    path: Path,
    *,
    cuts: Sequence[Cuts] = (),
    calibration: Sequence[LevelCalibration] = (),
) -> None:
    """Join exported files of the levels, the smallest first, and a router into one file for batches of one image.

    With `cuts`, what each of the first levels keeps of the layers of the last of these, their weights are stored once.
    Outputs are the logits (1, classes) and the level that answered, (1,) int64. The price of time is a constant: ONNX
    Runtime works out all that depends on it alone when it loads the file. Metadata of the largest level's file is kept;
    with `calibration`, of each level, a session can learn from labels. Raises `InputError` for a file that is no such
    model.
    """
    models = [_level_model(file) for file in levels]
    shared = share_weights(models[: len(cuts)], cuts) if cuts else []
    first = models[0].graph
    classes = _output_classes(models[0], levels[0])
    is_only = len(models) == 2
    nodes, weights = _answering(first, 0, router, is_only=is_only)
    logits, answered, upcoming = level_name(0, OUTPUT_NAME), _answered(0), next_name(0)
    for level, model in enumerate(models[1:], 1):
        is_last = level + 1 == len(models)
        name = f"at_{level}"
        outputs = [OUTPUT_NAME, LEVEL_NAME] if is_last else [f"{name}_logits", f"{name}_level", f"{name}_next"]
        passed_on = [logits, answered, *([] if is_last else [upcoming])]
        runs = level_name(0, GOES_ON) if is_only else f"{name}_runs"
        if not is_only:
            weights.append(numpy_helper.from_array(np.array(level, np.int64), f"{name}_number"))
            nodes.append(helper.make_node("Equal", [upcoming, f"{name}_number"], [runs]))
        nodes.append(
            helper.make_node(
                "If",
                [runs],
                outputs,
                name=name,
                then_branch=_running(model.graph, level, router, classes=classes, is_last=is_last),
                else_branch=_passing(passed_on, level, classes=classes),
            )
        )
        logits, answered = outputs[:2]
        upcoming = outputs[-1]
    weights.append(numpy_helper.from_array(np.array([router.default_price], np.float32), PRICE_NAME))
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
    helper.set_model_props(joined, known | ({CALIBRATION_KEY: as_text(calibration)} if calibration else {}))
    onnx.checker.check_model(joined, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(joined, str(temporary))


def load_model(file: Path) -> onnx.ModelProto:
    """Raises `InputError` if there is no such file, or it is no ONNX model."""
    try:
        return onnx.load(str(file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except Exception as error:  # the reader raises almost anything on broken bytes
        raise InputError(f"{file}: not an ONNX model ({error})") from None


def _level_model(file: Path) -> onnx.ModelProto:
    model = load_model(file)
    names = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    if names != ([INPUT_NAME], [OUTPUT_NAME]):
        raise InputError(f"{file}: has inputs and outputs {names}; a level has {INPUT_NAME} and {OUTPUT_NAME}")
    return model


def _output_classes(model: onnx.ModelProto, file: Path) -> int:
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    if len(dimensions) != 2 or not dimensions[1].dim_value:
        raise InputError(f"{file}: {OUTPUT_NAME} is not of shape (batch, classes)")
    return int(dimensions[1].dim_value)


def _answering(
    graph: onnx.GraphProto, level: int, router: RouterNodes, *, is_only: bool = False, is_last: bool = False
) -> GraphPart:
    """A level, all names its own but those of the input and of weights that are stored once; then its number, and what
    the router makes of its answer, if there is a larger level."""

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
    constant = helper.make_node("Constant", [], [_answered(level)], value=number)
    decision, more = ([], []) if is_last else router.nodes(level, is_only=is_only)
    return [*own.node, constant, *decision], [*own.initializer, *more]


def _running(
    graph: onnx.GraphProto, level: int, router: RouterNodes, *, classes: int, is_last: bool
) -> onnx.GraphProto:
    """The branch that runs a level, and asks the router if there is a larger one."""
    nodes, weights = _answering(graph, level, router, is_last=is_last)
    outputs = [_logits_info(level_name(level, OUTPUT_NAME), classes), _number_info(_answered(level))]
    if not is_last:
        outputs.append(_number_info(next_name(level)))
    return helper.make_graph(nodes, f"run_{level}", [], outputs, initializer=weights)


def _passing(values: Sequence[str], level: int, *, classes: int) -> onnx.GraphProto:
    """The branch that leaves things as they are."""
    names = [f"pass_{level}_{place}" for place in range(len(values))]
    nodes = [helper.make_node("Identity", [value], [name]) for value, name in zip(values, names, strict=True)]
    infos = [_logits_info(names[0], classes), *map(_number_info, names[1:])]
    return helper.make_graph(nodes, f"pass_{level}", [], infos)


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


def _answered(level: int) -> str:
    return level_name(level, "answered")

"""An adaptive file taken apart for a session: each level with its router as a graph for batches. All is checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from autoprune.adaptive.file.export import (
    GOES_ON,
    LEVEL_NAME,
    LEVELS_KEY,
    PRICE_NAME,
    level_name,
    next_name,
)
from autoprune.adaptive.levels.shared_weights import SHARED
from autoprune.adaptive.routing.calibration import CALIBRATION, OnlineCalibration
from autoprune.errors import InputError, shown
from autoprune.export.onnx_file import INPUT_NAME, MEAN_KEY, OUTPUT_NAME, STD_KEY
from autoprune.foundation.bounds import real_number, whole_number

MAX_PRICE_KEY = "max_price"
MOST_LEVELS = 100  # far above what anybody has
LARGEST_PRICE = 1e30  # float32 holds it, whatever going on is worth
MAKE_ONE = "make one with `autoprune adapt`"


@dataclass(frozen=True)
class SessionFile:
    """What a session needs of an adaptive file with `len(parts)` levels."""

    parts: tuple[onnx.ModelProto, ...]  # as `_parts` says
    input_shape: tuple[int, ...]  # of an image: C, H, W
    classes: int
    max_price: float
    default_price: float
    calibration: OnlineCalibration | None  # None: the file says nothing of it
    pixels: tuple[float, float] | None  # the least and the most that a normalised pixel can be; None: the same


def read_session_file(path: Path) -> SessionFile:
    """Read `path`. Raises `InputError` naming it and what is wrong with it."""
    model = _loaded(path)
    known = {entry.key: entry.value for entry in model.metadata_props}
    levels = whole_number(f"{path}: its metadata {LEVELS_KEY}", _number(known[LEVELS_KEY]), least=2, most=MOST_LEVELS)
    max_price = real_number(
        f"{path}: its metadata {MAX_PRICE_KEY}",
        _number(known[MAX_PRICE_KEY]),
        least=0,
        most=LARGEST_PRICE,
        above_least=True,
    )
    try:
        shape, classes = _image_shape(model), _classes(model)
        parts = _parts(model, levels, shape, classes)
        default = next(weight for weight in model.graph.initializer if weight.name == PRICE_NAME)
        (price,) = onnx.numpy_helper.to_array(default).tolist()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        raise InputError(f"{path}: no adaptive model as this version writes them ({error!r}); {MAKE_ONE}") from None
    price = real_number(f"{path}: its default price", price, least=0, most=LARGEST_PRICE)
    calibration = _calibration(known.get(CALIBRATION.name), levels, path)
    pixels = _pixels(known, shape[0], path)
    return SessionFile(tuple(parts), shape, classes, max_price, price, calibration, pixels)


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # the reader raises almost anything on broken bytes
        raise InputError(f"{path}: not an ONNX model ({error})") from None
    known = {entry.key for entry in model.metadata_props}
    if not {LEVELS_KEY, MAX_PRICE_KEY} <= known or LEVEL_NAME not in {value.name for value in model.graph.output}:
        raise InputError(f"{path}: no adaptive model; {MAKE_ONE}")
    return model


def _calibration(text: str | None, levels: int, path: Path) -> OnlineCalibration | None:
    if text is None:
        return None
    try:
        expected = CALIBRATION.read(text)
    except ValueError as error:
        raise InputError(f"{path}: its calibration cannot be read ({error})") from None
    if len(expected) != levels:
        raise InputError(f"{path}: has the calibration of {len(expected)} levels and holds {levels}")
    return OnlineCalibration(expected)


def _pixels(known: Mapping[str, str], channels: int, path: Path) -> tuple[float, float] | None:
    """What black and white are at the extreme, by the mean and the standard deviation in the metadata."""
    if not {MEAN_KEY, STD_KEY} <= known.keys():
        return None
    mean, std = (_floats(known[key], channels, f"{path}: its metadata {key}") for key in (MEAN_KEY, STD_KEY))
    if min(std) <= 0:
        raise InputError(f"{path}: its metadata {STD_KEY}: must be above 0, got {shown(known[STD_KEY])}")
    ends = [(value - mid) / spread for mid, spread in zip(mean, std, strict=True) for value in (0.0, 1.0)]
    return min(ends), max(ends)


def _floats(text: str, count: int, where: str) -> list[float]:
    parts = [_number(part) for part in text.split(",")]
    if len(parts) != count:
        raise InputError(f"{where}: must be {count} numbers, got {shown(text)}")
    return [real_number(where, part, least=-LARGEST_PRICE, most=LARGEST_PRICE) for part in parts]


def _number(text: str) -> object:
    """The number that a text is; the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _image_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    (image,) = (value for value in model.graph.input if value.name == INPUT_NAME)
    shape = tuple(int(dimension.dim_value) for dimension in image.type.tensor_type.shape.dim)[1:]
    if len(shape) != 3 or min(shape) < 1 or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise InputError(f"takes images of {shape}; must take float32 images of fixed size (N, C, H, W)")
    return shape


def _classes(model: onnx.ModelProto) -> int:
    classes = int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    if model.graph.output[0].name != OUTPUT_NAME or classes < 1:
        raise InputError(
            f"gives {shown(model.graph.output[0].name)} of {classes} classes first; must give {OUTPUT_NAME}"
        )
    return classes


def _parts(model: onnx.ModelProto, levels: int, shape: Sequence[int], classes: int) -> list[onnx.ModelProto]:
    """Each level with its router as a model for batches; the price is an input where the router reads it."""
    graph = model.graph
    branches = [
        next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
        for node in graph.node
        if node.op_type == "If"
    ]
    first = [node for node in graph.node if node.name.startswith(level_name(0, ""))]
    own = [weight for weight in graph.initializer if weight.name.startswith(level_name(0, ""))]
    contents = [(first, own), *((list(branch.node), list(branch.initializer)) for branch in branches)]
    if len(contents) != levels:
        raise InputError(f"holds {len(contents)} levels and says that there are {levels}")
    image = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", *shape])
    price = helper.make_tensor_value_info(PRICE_NAME, TensorProto.FLOAT, [1])
    parts = []
    for level, (nodes, weights) in enumerate(contents):
        outputs = [helper.make_tensor_value_info(level_name(level, OUTPUT_NAME), TensorProto.FLOAT, ["batch", classes])]
        if level + 1 < levels:
            flag = level_name(level, GOES_ON)
            is_flag = any(flag in node.output for node in nodes)
            decision, kind = (flag, TensorProto.BOOL) if is_flag else (next_name(level), TensorProto.INT64)
            outputs.append(helper.make_tensor_value_info(decision, kind, None))
        reads_price = any(PRICE_NAME in node.input for node in nodes)
        read = {name for node in nodes for name in node.input}
        shared = [weight for weight in graph.initializer if weight.name.startswith(SHARED) and weight.name in read]
        inputs = [image, price] if reads_price else [image]
        part = helper.make_graph(nodes, f"level_{level}", inputs, outputs, initializer=[*weights, *shared])
        parts.append(helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version))
    return parts

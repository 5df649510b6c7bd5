"""What an exported graph says twice or for nothing is taken out of it, so that the file holds what the model does."""

import onnx
from onnx import numpy_helper


def drop_added_zeros(model: onnx.ModelProto) -> None:
    """Take out additions of the zeros that stand for branches which are gone, in place.

    A `Relu` of what a `Relu` gives goes with them, and so does whatever nothing reads any more.
    """
    graph = model.graph
    kept = {value.name for value in graph.output}
    zeros = _zeros(graph)
    replaced: dict[str, str] = {}  # what an operation that does nothing gives: what it was given
    rectified: set[str] = set()
    dropped = False
    for node in graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
        others = [name for name in node.input if name not in zeros]
        if node.output[0] in kept or node.op_type not in ("Add", "Relu"):
            continue
        if not others:
            zeros.add(node.output[0])
        elif node.op_type == "Add" and len(others) == 1:
            replaced[node.output[0]] = others[0]
            dropped = True
        elif node.op_type == "Relu" and others[0] in rectified and dropped:
            replaced[node.output[0]] = others[0]
        elif node.op_type == "Relu":
            rectified.add(node.output[0])
    if dropped:
        _drop_unread(graph)


def state_pads(model: onnx.ModelProto) -> None:
    """Give convolutions that pad "the same" their pads as numbers, in place.

    ONNX Runtime refuses `auto_pad` beside a dilation.
    """
    for node in model.graph.node:
        given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        how = given.get("auto_pad", b"NOTSET")
        if node.op_type != "Conv" or how not in (b"SAME_UPPER", b"SAME_LOWER"):
            continue
        if any(step != 1 for step in given.get("strides", ())):  # then pads depend on the input's size
            continue
        kernel = given["kernel_shape"]
        dilations = given.get("dilations", [1] * len(kernel))
        whole = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
        less, more = [pads // 2 for pads in whole], [pads - pads // 2 for pads in whole]
        begins, ends = (less, more) if how == b"SAME_UPPER" else (more, less)
        kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("pads", [*begins, *ends])])


def _zeros(graph: onnx.GraphProto) -> set[str]:
    """The names of zeros without a shape, as `Nothing` is exported: `ConstantOfShape` of an empty shape."""
    shapes = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    found = set()
    for node in graph.node:
        shape = shapes.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None or numpy_helper.to_array(shape.attribute[0].t).size:
            continue
        values = [numpy_helper.to_array(attribute.t) for attribute in node.attribute if attribute.name == "value"]
        if not any(value.any() for value in values):
            found.add(node.output[0])
    return found


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and weights that nothing reads; nodes stand in order of execution."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            read |= set(node.input)
            kept.append(node)
    weights = [weight for weight in graph.initializer if weight.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)

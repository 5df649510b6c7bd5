"""What an exported graph does right after each layer, up to the next one: that decides what is fused into the layer."""

from collections.abc import Mapping

import onnx

from autoprune.prediction.layer_bench import EPILOGUE_OPS
from autoprune.pruning.cost import LayerShape


def epilogues(model: onnx.ModelProto, layers: Mapping[str, LayerShape]) -> dict[str, tuple[str, ...]]:
    """The element-wise operations after each layer, by its name.

    `layers` are in order of execution, as `cost.layer_shapes` gives them. A graph whose weighted nodes are not those
    layers one by one (a layer that runs twice, a functional convolution) gives the commonest epilogue to all.
    """
    graph = model.graph
    initializers = {initializer.name for initializer in graph.initializer}
    constants = initializers | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    consumers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            consumers.setdefault(name, []).append(index)
    weighted = [index for index, node in enumerate(graph.node) if _is_weighted(node, initializers)]
    chains = {index: _chain(graph, index, consumers, constants) for index in weighted}
    kinds = ["Conv" if shape.kind != "linear" else "linear" for shape in layers.values()]
    found = ["Conv" if graph.node[index].op_type == "Conv" else "linear" for index in weighted]
    if kinds != found:
        return {name: ("Relu",) if shape.kind != "linear" else () for name, shape in layers.items()}
    # The runtime fuses a residual into the layer that runs last of the two that it adds.
    last = {node: layer for layer in weighted for node in chains[layer]}
    result = {}
    for name, index in zip(layers, weighted, strict=True):
        operations = []
        for node in chains[index]:
            if last[node] != index:
                break
            operations.append(graph.node[node].op_type)
        if layers[name].kind == "linear":  # a residual after it is never fused: it costs the same in every cut
            operations = [operation for operation in operations if operation != "Add"]
        result[name] = tuple(operations)
    return result


def _is_weighted(node: onnx.NodeProto, initializers: set[str]) -> bool:
    return node.op_type in ("Conv", "Gemm") or (node.op_type == "MatMul" and node.input[1] in initializers)


def _chain(graph: onnx.GraphProto, index: int, consumers: Mapping[str, list[int]], constants: set[str]) -> list[int]:
    """The element-wise nodes after node `index`, one by one; the `Add` of a constant or a bias is no residual."""
    chain: list[int] = []
    output = graph.node[index].output[0]
    while len(following := consumers.get(output, [])) == 1:
        node = graph.node[following[0]]
        if node.op_type not in EPILOGUE_OPS:
            break
        if not (node.op_type == "Add" and constants & set(node.input)):
            chain.append(following[0])
        output = node.output[0]
    return chain

"""NNI 3.0 (archived): L1 norm of filters (Li et al. 2017), the same ratio in each layer, cut out by ModelSpeedup."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nni.common.concrete_trace_utils.concrete_tracer import ConcreteTracer
from nni.compression.pruning import L1NormPruner
from nni.compression.speedup import ModelSpeedup
from nni.compression.utils import auto_set_denpendency_group_ids
from torch import nn
from torch.fx import Graph, Node

from peers.task import Task, classifier_name


def prune(task: Task) -> nn.Module:
    model = task.model.eval()
    shown = torch.zeros(2, *task.data.info.input_shape)
    asked: list[dict[str, Any]] = [
        {
            "op_types": ["Conv2d", "Linear"],
            "exclude_op_names": [classifier_name(task)],
            "sparse_ratio": task.knob,
        }
    ]
    if task.value:  # coupled layers then lose the same channels
        asked = auto_set_denpendency_group_ids(model, asked, shown)
    pruner = L1NormPruner(model, asked)
    _, masks = pruner.compress()
    pruner.unwrap_model()
    with _as_with_an_older_torch():
        smaller: nn.Module = ModelSpeedup(model, shown, masks).speedup_model()
    return smaller


@contextmanager
def _as_with_an_older_torch() -> Iterator[None]:
    """NNI's tracer, made for torch 2.0, on a newer one: it trips over functions that belong to no module, and replaces
    `Node.is_impure` by a function that does not take what a newer torch passes."""
    leaves = ConcreteTracer.default_autowrap_leaf_function
    for function in [function for function in leaves if getattr(function, "__module__", None) is None]:
        del leaves[function]
    eliminate = Graph.eliminate_dead_code

    def eliminate_as_before(graph: Graph) -> bool:
        narrow = Node.is_impure
        Node.is_impure = lambda node, *_new: narrow(node)
        try:
            return eliminate(graph)
        finally:
            Node.is_impure = narrow

    Graph.eliminate_dead_code = eliminate_as_before
    try:
        yield
    finally:
        Graph.eliminate_dead_code = eliminate

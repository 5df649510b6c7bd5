"""Torch-Pruning (Fang et al. 2023): a pruning ratio, for each layer alone or over a ranking of all channels."""

import warnings
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn

from peers.task import Task, classifier_name

Importance = torch_pruning.importance.Importance


@dataclass(frozen=True)
class Ranking:
    importance: Importance
    is_global: bool
    isomorphic: bool = False


def _rankings() -> dict[str, Ranking]:
    """The library's importances with its own defaults. BN scale is taken of the checkpoint as it is: network slimming
    (Liu et al. 2017) would first train it with a penalty on the scales, which the others do not get either."""
    magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    return {
        "tp_uniform": Ranking(magnitude, is_global=False),
        "tp_global_l2": Ranking(magnitude, is_global=True),
        "tp_bn_scale": Ranking(torch_pruning.importance.BNScaleImportance(), is_global=True),
        "tp_isomorphic": Ranking(magnitude, is_global=True, isomorphic=True),
    }


def prune(task: Task) -> nn.Module:
    ranking = _rankings()[task.peer.name]
    model = task.model.eval().requires_grad_(True)  # the tracer follows autograd's graph
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.pruner.BasePruner(
            model,
            torch.zeros(1, *task.data.info.input_shape),
            importance=ranking.importance,
            global_pruning=ranking.is_global,
            isomorphic=ranking.isomorphic,
            pruning_ratio=task.knob,
            round_to=task.value,
            ignored_layers=[model.get_submodule(classifier_name(task))],
            # Its defaults are dictionaries that all pruners share and change.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
            channel_groups={},
        ).step()
    return model

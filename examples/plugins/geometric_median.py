"""An importance: a filter that is near all others of its group can be made up for by them (FPGM, He et al. 2019).

`search.importance: examples/plugins/geometric_median.py:distance_to_others`
"""

import torch
from torch import Tensor, nn

from autoprune.pruning.groups import PrunableGroup


def distance_to_others(model: nn.Module, group: PrunableGroup) -> Tensor:
    """Per channel, the sum of the distances of its filter to the others', over the layers that make the group."""
    scores = torch.zeros(group.channels)
    for member in group.members:
        weight = getattr(model.get_submodule(member.module), "weight", None)
        if member.axis != "out" or weight is None or weight.dim() < 2:
            continue
        filters = weight.detach().float().flatten(1)  # (C_out, ...)
        distances = torch.cdist(filters, filters).sum(1)
        scores.index_add_(0, torch.tensor(member.root), distances[list(member.local)])
    return scores

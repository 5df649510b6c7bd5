"""Costs, files and exports of cuts of unusual networks: all that follows a cut must know what it is made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from judge_for_tests import answers, with_distinct_values
from networks_for_tests import CASES, Case
from torch import nn

from autoprune.pruning.cost import CutShapes, count_cost
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import read_groups
from autoprune.pruning.importance import l2_norm, ranking_of
from autoprune.pruning.plain import plain_copy
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.space.policy import PruningPolicy

ON_IMAGES = {
    name: case
    for name, case in CASES.items()
    if len(case.inputs()) == 1 and case.inputs()[0].shape[1:] == (2, 8, 8) and name != "many answers"
}


def elastic_of(case: Case) -> ElasticModel:
    model = plain_copy(with_distinct_values(case.build()))
    groups = read_groups(model, case.inputs())[0].prunable
    return ElasticModel(model, groups, ranking_of({group.name: l2_norm(model, group) for group in groups}))


def some_policies(elastic: ElasticModel, count: int) -> list[PruningPolicy]:
    rng = np.random.default_rng(0)
    return [
        PruningPolicy.of({group.name: int(rng.integers(1, group.channels + 1)) for group in elastic.groups})
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ON_IMAGES)
def test_the_cost_of_a_cut_is_that_of_the_module(name: str) -> None:
    elastic = elastic_of(ON_IMAGES[name])
    shapes = CutShapes(elastic, (2, 8, 8))
    for policy in (elastic.full_policy, *some_policies(elastic, 4)):
        assert shapes.cost(policy) == count_cost(elastic.cut(policy), (2, 8, 8))


@pytest.mark.parametrize("name", CASES)
def test_a_cut_is_stored_and_read_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    elastic = elastic_of(case)
    (policy,) = some_policies(elastic, 1)
    cut = elastic.cut(policy).eval()
    save_pruned(tmp_path, cut, None)
    loaded = load_pruned(tmp_path, architecture=case.build())
    state, stored = cut.state_dict(), loaded.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in state.items())
    inputs = case.inputs()
    assert all(torch.equal(a, b) for a, b in zip(answers(cut, inputs), answers(loaded, inputs), strict=True))
    assert repr(cut) == repr(loaded)


def test_ties_are_one_tensor_after_loading(tmp_path: Path) -> None:
    elastic = elastic_of(CASES["tied"])
    (policy,) = some_policies(elastic, 1)
    save_pruned(tmp_path, elastic.cut(policy), None)
    loaded = load_pruned(tmp_path, architecture=CASES["tied"].build())
    assert isinstance(loaded.one, nn.Conv2d) and isinstance(loaded.two, nn.Conv2d)
    assert loaded.one.weight is loaded.two.weight


@pytest.mark.parametrize("name", ["option A", "again", "tied", "GRU", "bare", "multiplied"])
def test_a_narrowed_model_is_cut_as_the_whole_one(name: str) -> None:
    elastic = elastic_of(CASES[name])
    wide, narrow = (
        PruningPolicy.of({group.name: max(1, group.channels * share // 8) for group in elastic.groups})
        for share in (6, 3)
    )
    inputs = CASES[name].inputs()
    with torch.no_grad():
        assert torch.equal(elastic.narrow(wide).cut(narrow).eval()(*inputs), elastic.cut(narrow).eval()(*inputs))

"""MACs and parameters: worked out by hand, and the arithmetic of cuts against counting the cut."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import SMALL_NETS, elastic_net, policies, same_state
from torch import nn

from autoprune.models import ModelSpec, build_model
from autoprune.pruning.cost import Cost, CutShapes, LayerShape, count_cost, layer_shapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.space.policy import PruningPolicy

BY_HAND = {
    "convolution": (nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 4, 4), Cost(3 * 8 * 9 * 16, 3 * 8 * 9)),
    "bias": (nn.Conv2d(3, 8, 3, padding=1), (3, 4, 4), Cost(3_456, 216 + 8)),
    "no padding": (nn.Conv2d(3, 8, 3), (3, 4, 4), Cost(216 * 2 * 2, 224)),
    "stride": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 4, 4), Cost(216 * 2 * 2, 224)),
    "same padding": (nn.Conv2d(3, 8, 3, padding="same"), (3, 4, 4), Cost(3_456, 224)),
    "dilation": (nn.Conv2d(3, 8, 3, dilation=2, padding="valid"), (3, 6, 5), Cost(216 * 2 * 1, 224)),
    "oblong": (nn.Conv2d(2, 5, (1, 3), stride=(1, 2)), (2, 4, 7), Cost(2 * 5 * 3 * 4 * 3, 30 + 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (6, 4, 4), Cost(6 * 9 * 16, 6 * 9)),
    "grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False), (6, 4, 4), Cost(4 * 3 * 9 * 16, 4 * 3 * 9)),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), Cost(60, 65)),
    "rows": (nn.Sequential(nn.Flatten(2), nn.Linear(6, 5, bias=False)), (3, 2, 3), Cost(3 * 30, 30)),
    "norm": (nn.BatchNorm2d(7), (7, 3, 3), Cost(0, 14)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_costs_by_hand(case: str) -> None:
    model, input_shape, expected = BY_HAND[case]
    assert count_cost(model, input_shape) == expected


def test_one_number_set_later_is_a_pair() -> None:
    layer = nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2)
    for name, value in (("stride", 1), ("padding", 0), ("dilation", 1)):  # as people make a network fit small images
        setattr(layer, name, value)
    assert layer_shapes(layer, (3, 4, 4)) == layer_shapes(nn.Conv2d(3, 8, 3), (3, 4, 4))
    layer.padding = "same"
    assert count_cost(layer, (3, 4, 4)) == Cost(3_456, 224)


def test_resnet20_costs_what_the_paper_s_network_does() -> None:
    model = build_model(ModelSpec("resnet20", 10, 1))
    assert count_cost(model, (1, 28, 28)) == Cost(macs=31_021_952, params=272_186)


def test_shapes_by_name_in_order_of_execution() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 5, padding="same", groups=4, bias=False, dilation=2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3, 2),
    )
    assert layer_shapes(model, (3, 4, 6)) == {
        "0": LayerShape("conv", 3, 4, (3, 3), (2, 2), (1, 1), (1, 1), 1, (4, 6), (2, 3), bias=True),
        "1": LayerShape("depthwise", 4, 4, (5, 5), (1, 1), (4, 4), (2, 2), 4, (2, 3), (2, 3), bias=False),
        "3": LayerShape("linear", 24, 2, (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 1), (1, 1), bias=True),
    }


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    model[1].eval()
    before = copy.deepcopy(model)
    count_cost(model, (1, 4, 4))
    assert same_state(model, before)
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks for module in model)


@pytest.mark.parametrize("name", SMALL_NETS)
@settings(max_examples=12)
@given(data=st.data())
def test_arithmetic_counts_what_the_cut_costs(name: str, data: st.DataObject) -> None:
    elastic, input_shape = elastic_net(name), SMALL_NETS[name].input_shape
    shapes = CutShapes(elastic, input_shape)
    policy = data.draw(policies(elastic))
    smaller = elastic.cut(policy)
    assert shapes.cost(policy) == count_cost(smaller, input_shape)
    for layer, counted in layer_shapes(smaller, input_shape).items():
        predicted = shapes.layers(policy)[layer]
        assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
        assert (predicted.in_channels, predicted.out_channels) == (counted.in_channels, counted.out_channels)


def elastic_of(model: nn.Module) -> ElasticModel:
    groups = find_groups(model, (1, 5, 5)).prunable
    return ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})


def test_parameters_of_other_layers_are_counted_too() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    elastic = elastic_of(model)
    shapes = CutShapes(elastic, (1, 5, 5))
    assert shapes.cost(elastic.full_policy).params == sum(parameter.numel() for parameter in model.parameters())


def test_a_cut_by_hand() -> None:
    """Half of the first convolution's four channels: 2 * 9 + 2 and 3 * 2 * 9 + 3 weights are left of 40 and 111."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    elastic = elastic_of(model)
    shapes = CutShapes(elastic, (1, 5, 5))
    assert shapes.cost(PruningPolicy.of({"0": 4, "1": 3})) == Cost(36 * 9 + 108 + 6, 40 + 111 + 8)
    assert shapes.cost(PruningPolicy.of({"0": 2, "1": 3})) == Cost(18 * 9 + 54 + 6, 20 + 57 + 8)


def test_the_groups_that_a_layer_s_shape_depends_on() -> None:
    """Those of its input first; a concatenation brings several, a layer that is not cut none of its own."""
    concat, input_shape = elastic_net("concat"), SMALL_NETS["concat"].input_shape
    owners = CutShapes(concat, input_shape).owners
    assert owners == {
        "first": ("first",),
        "second": ("first", "second"),
        "third": ("first", "second", "third"),
        "head": ("first", "second", "third"),
    }
    chain = elastic_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(3, 2)))
    assert CutShapes(chain, (1, 5, 5)).owners == {"0": ("0",), "1": ("0", "1"), "3": ("1",)}


@pytest.mark.parametrize("name", SMALL_NETS)
@settings(max_examples=6)
@given(data=st.data())
def test_a_layer_needs_to_know_its_owners_alone(name: str, data: st.DataObject) -> None:
    """In whatever order policies are asked for: what is remembered of one is not taken for another."""
    elastic, input_shape = elastic_net(name), SMALL_NETS[name].input_shape
    shapes = CutShapes(elastic, input_shape)
    for policy in data.draw(st.lists(policies(elastic), min_size=2, max_size=4)):
        channels = policy.as_dict()
        fresh = CutShapes(elastic, input_shape)
        assert shapes.layers(policy) == fresh.layers(policy)
        assert shapes.cost(policy) == fresh.cost(policy)
        for layer, shape in shapes.layers(policy).items():
            assert shapes.layer(layer, {group: channels[group] for group in shapes.owners[layer]}) == shape


def test_what_was_worked_out_before_is_looked_up() -> None:
    """The very same objects come back, whatever other groups do."""
    elastic, input_shape = elastic_net("flatten"), SMALL_NETS["flatten"].input_shape
    shapes = CutShapes(elastic, input_shape)
    full = elastic.full_policy
    smaller = PruningPolicy.of({**full.as_dict(), full.channels[0][0]: 1})
    before, after = shapes.layers(full), shapes.layers(smaller)
    assert list(before) == ["features.0", "features.2", "hidden", "head"]
    assert [after[name] is before[name] for name in before] == [False, False, True, True]
    assert all(shape is before[name] for name, shape in shapes.layers(full).items())

"""A cut computes what the original computes without the dropped channels; cuts are nested; the original stays."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import SMALL_NETS, elastic_net, images_for, policies, random_policy, same_state, smaller_policies
from torch import nn

from autoprune.pruning.elastic import ElasticModel, changed_layers, cut_sides
from autoprune.pruning.find import find_groups
from autoprune.pruning.layers import SIDES, kind_of, layer_sides
from autoprune.space.policy import PruningPolicy

EXAMPLES = 8
names = pytest.mark.parametrize("name", SMALL_NETS)


def masked(elastic: ElasticModel, policy: PruningPolicy) -> nn.Module:
    """A copy of the original in which nothing reads a dropped channel: its consumers' weights are zero there.

    A branch that is gone adds nothing: neither do the shifts of its layers.
    """
    model = copy.deepcopy(elastic.original)
    channels = policy.as_dict()
    for group in elastic.groups:
        for name in group.branch if not channels[group.name] else ():
            for parameter in model.get_submodule(name).parameters():
                nn.init.zeros_(parameter)
        dropped = set(elastic.ranking[group.name][channels[group.name] :])
        for member in group.members:
            if member.axis == "in":
                columns = [local for local, root in zip(member.local, member.root, strict=True) if root in dropped]
                with torch.no_grad():
                    model.get_submodule(member.module).weight[:, columns] = 0.0
    return model


@torch.no_grad()
def outputs(model: nn.Module, name: str) -> torch.Tensor:
    result: torch.Tensor = model.eval()(images_for(name))
    return result


@names
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_removed_is_masked(name: str, data: st.DataObject) -> None:
    elastic = elastic_net(name)
    policy = data.draw(policies(elastic))
    expected = outputs(masked(elastic, policy), name)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(outputs(elastic.cut(policy), name), expected, rtol=0, atol=1e-5 * scale)


@names
def test_masking_changes_what_the_original_computes(name: str) -> None:
    """Otherwise the test above would show nothing."""
    elastic = elastic_net(name)
    smallest = PruningPolicy.of({group.name: 1 for group in elastic.groups})
    difference = outputs(masked(elastic, smallest), name) - outputs(elastic.original, name)
    assert difference.abs().max() > 1e-2


@names
def test_the_full_cut_is_the_original(name: str) -> None:
    elastic = elastic_net(name)
    full = elastic.cut(elastic.full_policy)
    assert full is not elastic.original
    assert same_state(full, elastic.original)
    assert torch.equal(outputs(full, name), outputs(elastic.original, name))
    assert changed_layers(elastic.original, full) == set()


@names
def test_the_original_is_untouched(name: str) -> None:
    elastic = elastic_net(name)
    before = copy.deepcopy(elastic.original)
    for seed in range(3):
        smaller = elastic.cut(random_policy(elastic, seed))
        with torch.no_grad():
            for tensor in smaller.state_dict().values():
                tensor.zero_()
    assert same_state(elastic.original, before)
    assert repr(elastic.original) == repr(before)


@names
def test_each_layer_says_its_new_shape(name: str) -> None:
    """The attributes that PyTorch prints and exporters read follow the tensors."""
    elastic = elastic_net(name)
    smaller = elastic.cut(random_policy(elastic, 1))
    for module in smaller.modules():
        if isinstance(module, nn.Conv2d):
            out_channels, in_channels = layer_sides(module)
            assert module.weight.shape[:2] == (out_channels, in_channels // module.groups)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == layer_sides(module)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_var is not None
            assert module.weight.shape == module.running_var.shape == (module.num_features,)


@names
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_cuts_are_nested(name: str, data: st.DataObject) -> None:
    elastic = elastic_net(name)
    larger = data.draw(policies(elastic))
    smaller = data.draw(smaller_policies(larger))
    few, many = elastic.kept_channels(smaller), elastic.kept_channels(larger)
    assert few.keys() == many.keys()
    for side, kept in few.items():
        assert set(kept.tolist()) <= set(many[side].tolist())
        assert kept.tolist() == sorted(set(kept.tolist()))


@names
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_narrowing_step_by_step_is_one_cut(name: str, data: st.DataObject) -> None:
    elastic = elastic_net(name)
    first = data.draw(policies(elastic))
    second = data.draw(smaller_policies(first))
    narrowed = elastic.narrow(first)
    assert narrowed.full_policy == first
    assert same_state(narrowed.original, elastic.cut(first))
    assert same_state(narrowed.cut(second), elastic.cut(second))
    assert same_state(narrowed.narrow(second).original, elastic.cut(second))


def test_the_first_of_the_ranking_stay_in_the_layer_s_order() -> None:
    conv = nn.Conv2d(1, 3, 1, bias=False)
    conv.weight.data = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1, 1)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(3, 2))
    groups = find_groups(model, (1, 1, 1)).prunable
    smaller = ElasticModel(model, groups, {"0": (2, 0, 1)}).cut(PruningPolicy.of({"0": 2}))
    assert smaller[0].weight.flatten().tolist() == [10.0, 30.0]
    assert torch.equal(smaller[2].weight, model[2].weight[:, [0, 2]])
    assert torch.equal(smaller[2].bias, model[2].bias)
    assert changed_layers(model, smaller) == {"0", "2"}


def test_with_weights_of_another_model() -> None:
    elastic = elastic_net("flatten")
    tuned = copy.deepcopy(elastic.original)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0)
    policy = random_policy(elastic, 0)
    theirs = elastic.with_weights_of(tuned).cut(policy)
    ours = elastic.cut(policy)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other, mine + 1.0)


def test_what_needs_a_gradient_still_does() -> None:
    elastic = elastic_net("flatten")
    frozen = copy.deepcopy(elastic.original)
    frozen.get_parameter("hidden.weight").requires_grad_(False)
    smaller = elastic.with_weights_of(frozen).cut(random_policy(elastic, 0))
    asked = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    assert asked == {"hidden.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 8}, "group hidden has 7 channels; the policy keeps 8"),
        ({"hidden": None}, "group hidden has 7 channels; the policy keeps None"),
        ({"head": 4}, r"\['head'\], which are no groups"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(change: dict[str, int | None], message: str) -> None:
    elastic = elastic_net("flatten")
    channels = elastic.full_policy.as_dict() | change
    policy = PruningPolicy.of({name: kept for name, kept in channels.items() if kept is not None})
    for use in (elastic.cut, elastic.narrow, elastic.kept_channels):
        with pytest.raises(ValueError, match=message):
            use(policy)


@pytest.mark.parametrize(
    ("module", "wanted", "shape"),
    [
        (nn.Conv2d(4, 6, 3), (2, 3), (2, 3, 3, 3)),
        (nn.Conv2d(4, 4, 3, groups=4), (3, 3), (3, 1, 3, 3)),
        (nn.Conv2d(4, 8, 3, groups=2), (8, 4), (8, 2, 3, 3)),
        (nn.Linear(5, 4), (2, 3), (2, 3)),
        (nn.BatchNorm2d(5), (2, 2), (2,)),
    ],
)
def test_sides_of_layers_are_cut(module: nn.Module, wanted: tuple[int, int], shape: tuple[int, ...]) -> None:
    before = layer_sides(module)
    kind = kind_of(module)
    assert kind is not None
    kept = {
        ("0", axis): torch.arange(size)
        for axis, size, most in zip(SIDES, wanted, before, strict=True)
        if size < most and axis in kind.tensors
    }
    smaller = cut_sides(nn.Sequential(module), kept)[0]  # type: ignore[index]
    assert layer_sides(smaller) == wanted
    assert tuple(smaller.get_parameter("weight").shape) == shape
    assert layer_sides(module) == before

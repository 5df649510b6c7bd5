"""Which channels are coupled, and what is left out with which reason; reading a model leaves no trace in it."""

import copy
from collections.abc import Sequence

import pytest
import torch
from models_for_tests import SMALL_NETS, ConcatNet, FlattenNet, GroupedNet, same_state
from networks_for_tests import CASES
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.find import find_groups, read_groups
from autoprune.pruning.forward_pass import evaluation_mode
from autoprune.pruning.groups import Member, ModelGroups, PrunableGroup, guessed_groups
from autoprune.pruning.layers import is_depthwise
from autoprune.pruning.probe import Proof


def built_in(name: str, width: float = 1.0) -> nn.Module:
    return build_model(ModelSpec(name, 10, 1, width))


def sizes(groups: ModelGroups) -> dict[str, int]:
    return {group.name: group.channels for group in groups.prunable}


def group_of(groups: ModelGroups, name: str) -> PrunableGroup:
    return next(group for group in groups.prunable if group.name == name)


def sides(group: PrunableGroup) -> set[tuple[str, str]]:
    return {(member.module, member.axis) for member in group.members}


def test_resnet20_has_three_streams_and_nine_inner_groups() -> None:
    groups = find_groups(built_in("resnet20"), (1, 28, 28))
    blocks = {f"layer{stage}.{block}.conv1": 16 * 2 ** (stage - 1) for stage in (1, 2, 3) for block in (0, 1, 2)}
    streams = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert sizes(groups) == blocks | streams
    order = [name for name, _ in built_in("resnet20").named_modules()]
    assert list(sizes(groups)) == sorted(sizes(groups), key=order.index)
    (output,) = groups.skipped
    assert (output.name, output.channels, output.reason) == ("fc", 10, "it is the model's output")


def test_a_residual_stream_couples_all_that_is_added() -> None:
    groups = find_groups(built_in("resnet20"), (1, 28, 28))
    assert sides(group_of(groups, "layer3.0.conv2")) == {
        *((f"layer3.{block}.conv2", "out") for block in range(3)),
        *((f"layer3.{block}.bn2", "out") for block in range(3)),
        ("layer3.0.shortcut.0", "out"),
        ("layer3.0.shortcut.1", "out"),
        ("layer3.1.conv1", "in"),
        ("layer3.2.conv1", "in"),
        ("fc", "in"),
    }
    assert sides(group_of(groups, "layer1.0.conv1")) == {
        ("layer1.0.conv1", "out"),
        ("layer1.0.bn1", "out"),
        ("layer1.0.conv2", "in"),
    }


def test_depthwise_convolutions_follow_the_layer_before() -> None:
    model = built_in("mobilenet_v2", 0.25)
    groups = find_groups(model, (1, 8, 8))
    depthwise = {name for name, module in model.named_modules() if is_depthwise(module)}
    assert len(depthwise) == 17
    assert not depthwise & set(sizes(groups))
    assert all(sum((name, "out") in sides(group) for group in groups.prunable) == 1 for name in depthwise)
    assert {group.name for group in groups.skipped} == {"classifier"}


def test_vgg_has_a_group_for_each_convolution() -> None:
    groups = find_groups(built_in("vgg16_bn", 0.125), (1, 16, 16))
    assert list(sizes(groups).values()) == [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64]


def test_after_a_flatten_one_channel_owns_many_inputs() -> None:
    groups = find_groups(FlattenNet(), SMALL_NETS["flatten"].input_shape)
    assert sizes(groups) == {"features.0": 5, "features.2": 6, "hidden": 7}
    (member,) = (member for member in group_of(groups, "features.2").members if member.module == "hidden")
    assert member == Member("hidden", "in", tuple(range(36)), tuple(index // 6 for index in range(36)))
    assert ("norm", "out") in sides(group_of(groups, "hidden"))


def test_after_a_concatenation_a_layer_has_members_of_several_groups() -> None:
    groups = find_groups(ConcatNet(), SMALL_NETS["concat"].input_shape)
    assert sizes(groups) == {"first": 5, "second": 3, "third": 4}
    places = {
        group.name: (member.local, member.root)
        for group in groups.prunable
        for member in group.members
        if member.module == "head"
    }
    assert places == {
        "first": ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
        "second": ((5, 6, 7), (0, 1, 2)),
        "third": ((8, 9, 10, 11), (0, 1, 2, 3)),
    }


def test_grouped_convolutions_are_left_out_and_say_so() -> None:
    groups = find_groups(GroupedNet(), SMALL_NETS["grouped"].input_shape)
    assert sizes(groups) == {"free": 6}
    reasons = {group.name: group.reason for group in groups.skipped}
    assert reasons == {
        "stem": "a grouped convolution (4 groups)",
        "grouped": "a grouped convolution (4 groups)",
        "head": "it is the model's output",
    }


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(x, 1).values


def test_a_layer_of_one_number_for_each_channel_is_cut_with_them() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    groups = find_groups(model, (1, 8, 8))
    assert sizes(groups) == {"0": 4, "2": 6}
    assert sides(group_of(groups, "0")) == {("0", "out"), ("1", "out"), ("2", "in")}


def test_what_is_not_followed_is_left_out_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Sorted(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 2))
    groups = find_groups(model, (1, 8, 8))
    assert sizes(groups) == {"2": 6}
    first = groups.skipped[0]
    assert (first.name, first.reason) == ("0", "cummax is not followed (1)")


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "groups", "expected"),
    [(1, 1, 1, False), (1, 4, 1, False), (4, 4, 4, True), (4, 8, 4, False), (4, 4, 2, False)],
)
def test_what_is_depthwise(in_channels: int, out_channels: int, groups: int, expected: bool) -> None:
    assert is_depthwise(nn.Conv2d(in_channels, out_channels, 3, groups=groups)) is expected


def test_outputs_of_a_one_channel_convolution_are_free() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    groups = find_groups(model, (1, 8, 8))
    assert sizes(groups) == {"2": 4}
    assert next((group.name, group.reason) for group in groups.skipped) == ("0", "it has one channel")


def test_a_depthwise_convolution_of_the_images_is_left_out() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    groups = find_groups(model, (3, 8, 8))
    assert sizes(groups) == {"1": 4}
    reasons = {group.name: group.reason for group in groups.skipped}
    assert reasons == {"0": "what it reads has a fixed number of channels", "4": "it is the model's output"}


class TwoHeads(nn.Module):
    """Logits that two layers make side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.stem(torch.flatten(x, 1)))
        return torch.cat([self.left(hidden), self.right(hidden)], 1)


def test_every_layer_that_makes_logits_is_left_out() -> None:
    groups = find_groups(TwoHeads(), (1, 2, 2))
    assert sizes(groups) == {"stem": 6}
    assert {group.reason for group in groups.skipped} == {"it is the model's output"}


class PooledOutput(nn.Module):
    """No linear layer: the last convolution's means are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.stem(x)))).mean((2, 3))


def test_a_convolution_may_be_the_output() -> None:
    groups = find_groups(PooledOutput(), (1, 6, 6))
    assert sizes(groups) == {"stem": 4}
    assert [group.reason for group in groups.skipped] == ["it is the model's output"]


def test_a_model_without_groups_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no prunable group \(it is the model's output\)"):
        find_groups(nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), (1, 3, 3))
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        find_groups(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()), (1, 3, 3))


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run on its example inputs"):
        find_groups(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)), (3, 8, 8))


def test_the_model_is_left_as_it_was() -> None:
    model = built_in("resnet20", 0.25).train()
    model.bn1.eval()
    model.fc.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    find_groups(model, (1, 8, 8))
    assert same_state(model, before)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_evaluation_mode_ends_with_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_group_that_fails_beside_groups_that_are_read_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = CASES["halves"].build().eval(), CASES["halves"].inputs()
    proofs = 0

    def proven(_model: nn.Module, groups: Sequence[PrunableGroup], *_: object, **__: object) -> Proof:
        nonlocal proofs
        proofs += 1
        held, others = (groups[:1], groups[1:]) if proofs == 1 else (groups[1:], groups[:1])
        return Proof(tuple(held), {group.name: "late" for group in others})

    guess, _ = guessed_groups(model, inputs)
    monkeypatch.setattr("autoprune.pruning.find.proven_groups", proven)
    found, _ = read_groups(model, inputs)
    assert proofs > 1
    told = {group.name for group in (*found.prunable, *found.skipped)}
    assert told >= {group.name for group in guess.prunable}


@pytest.mark.parametrize("field", ["weight", "bias"])
def test_a_buffer_that_is_a_parameter_too_stops_nothing(field: str) -> None:
    layers = [nn.Conv2d(3 if place == 0 else 8, 8, 3, padding=1) for place in range(4)]
    layers[1].register_buffer("initial", getattr(layers[1], field))
    found = find_groups(nn.Sequential(*layers).eval(), (3, 8, 8))
    assert "2" in {group.name for group in found.prunable}

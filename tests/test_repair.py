"""Least-squares repair: hand-worked weights, the minimum it claims to be, and that it brings cuts nearer."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import elastic_net, images_for, little_data, random_policy, same_state, trained_resnet
from torch import Tensor, nn

from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.importance import rank_channels
from autoprune.search.evaluate import Evaluator
from autoprune.space.policy import PruningPolicy
from autoprune.training.repair import RIDGE, InputMoments, WeightRepair, _windows, input_moments, repaired


def test_a_kept_input_takes_over_for_its_double() -> None:
    """The second input is always twice the first, around means of 10 and 5: 1 * x + 1 * y = 3 * x - 15."""
    moments = InputMoments(torch.tensor([10.0, 5.0]), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    weight, shift = repaired(torch.ones(1, 2), torch.tensor([0]), moments)
    ridge = RIDGE * 2.5
    assert weight.item() == pytest.approx((3 + ridge) / (1 + ridge))
    assert shift.item() == pytest.approx(15 - 10 * (3 + ridge) / (1 + ridge))


def test_inputs_that_never_vary_leave_the_weights_alone() -> None:
    weight, shift = repaired(
        torch.tensor([[2.0, 3.0]]), torch.tensor([1]), InputMoments(torch.ones(2), torch.zeros(2, 2))
    )
    assert weight.item() == pytest.approx(3.0)
    assert shift.item() == pytest.approx(2.0)


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_no_small_change_of_the_weights_comes_closer(seed: int, kept_count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 1
    weight = torch.randn(3, 5, generator=generator)
    kept = torch.randperm(5, generator=generator)[:kept_count].sort().values
    moments = InputMoments(x.mean(0), torch.cov(x.T, correction=0))
    found, shift = repaired(weight, kept, moments)
    ridge = RIDGE * float(moments.covariance.diagonal().mean())

    centred, exact = (x - x.mean(0)).double(), weight.double()

    def objective(candidate: Tensor) -> float:
        missed = (centred @ exact.T - centred[:, kept] @ candidate.double().T).square().sum(1).mean()
        return float(missed + ridge * (candidate.double() - exact[:, kept]).square().sum())

    assert torch.allclose((x @ weight.T).mean(0), (x[:, kept] @ found.T).mean(0) + shift, atol=1e-3)
    for _ in range(5):
        change = 0.01 * torch.randn(found.shape, generator=generator)
        assert objective(found) <= (1 + 1e-5) * objective(found + change)  # it is worked out in float32


def test_moments_of_a_convolution_are_those_of_its_windows() -> None:
    layer = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0))
    images = torch.randn(5, 2, 6, 7, generator=torch.Generator().manual_seed(0)) + 2
    moments = input_moments(nn.Sequential(layer), {"0": layer}, images)["0"]
    windows = F.unfold(images, (3, 2), padding=(1, 0), stride=(2, 1)).transpose(1, 2).reshape(-1, 12)
    torch.testing.assert_close(moments.mean, windows.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(windows.T, correction=0), atol=1e-4, rtol=1e-3)


def test_a_layer_whose_output_nothing_shifts_is_repaired_around_zero() -> None:
    layer = nn.Conv2d(2, 3, 1, bias=False)
    images = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 2
    plain = input_moments(nn.Sequential(layer), {"0": layer}, images)["0"]
    assert plain.mean.count_nonzero() == 0
    assert plain.covariance.diagonal().min() > 3  # second moments: the mean is in there
    normalised = input_moments(nn.Sequential(layer, nn.BatchNorm2d(3)), {"0": layer}, images)["0"]
    assert normalised.mean.min() > 1


def test_repaired_outputs_of_a_cut_layer_come_closer_to_the_originals() -> None:
    """The first layer that reads cut channels, fed what the original feeds it."""
    elastic = elastic_net("vgg16_bn")
    images = images_for("vgg16_bn", 64)
    policy = random_policy(elastic, 1)
    kept = elastic.kept_channels(policy)
    layers = [name for name, module in elastic.original.named_modules() if isinstance(module, nn.Conv2d)]
    first, second = layers[:2]
    plain, fixed = elastic.cut(policy), elastic.cut(policy)
    WeightRepair(elastic, images).apply(fixed, kept)
    seen: list[Tensor] = []
    handle = elastic.original.get_submodule(second).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        elastic.original.eval()(images)
        handle.remove()
        wanted = elastic.original.get_submodule(second)(seen[0])[:, kept[second, "out"]]
        errors = []
        for model in (plain, fixed):
            output = model.get_submodule(second)(seen[0][:, kept[first, "out"]])
            off = output - wanted
            errors.append(float((off - off.mean((0, 2, 3), keepdim=True)).square().mean()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "flatten", "concat", "grouped"])
def test_only_layers_that_lost_inputs_change(name: str) -> None:
    elastic, images = elastic_net(name), images_for(name, 32)
    repair = WeightRepair(elastic, images)
    before = copy.deepcopy(elastic.original)
    whole = elastic.cut(elastic.full_policy)
    repair.apply(whole, elastic.kept_channels(elastic.full_policy))
    assert same_state(whole, elastic.original)
    policy = random_policy(elastic, 2)
    kept = elastic.kept_channels(policy)
    plain, fixed = elastic.cut(policy), elastic.cut(policy)
    repair.apply(fixed, kept)
    assert same_state(elastic.original, before)
    for (key, ours), theirs in zip(plain.state_dict().items(), fixed.state_dict().values(), strict=True):
        assert torch.isfinite(theirs).all()
        if (key.rpartition(".")[0], "in") not in kept:
            assert torch.equal(ours, theirs), key
    with torch.inference_mode():
        fixed.eval()(images)


def test_the_same_cut_is_repaired_the_same_way_twice() -> None:
    elastic = elastic_net("resnet20")
    repair = WeightRepair(elastic, images_for("resnet20", 32))
    policy = random_policy(elastic, 3)
    first, second = elastic.cut(policy), elastic.cut(policy)
    for cut in (first, second):
        repair.apply(cut, elastic.kept_channels(policy))
    assert same_state(first, second)


def test_repair_brings_cuts_of_a_trained_network_nearer_to_it() -> None:
    data, model = little_data(), trained_resnet()
    groups = find_groups(model, data.info.input_shape).prunable
    unused = torch.empty(0)
    elastic = ElasticModel(model, groups, rank_channels(model, groups, "l2", images=unused, labels=unused))
    plain, fixed = (
        Evaluator(elastic, data, score_images=500, calibration_images=256, repairs=repairs) for repairs in (False, True)
    )
    policies = [
        PruningPolicy.of(
            {
                group.name: group.channels - (index % 2 == odd) * group.channels // 4
                for index, group in enumerate(groups)
            }
        )
        for odd in (0, 1)
    ]
    kls = np.array([[made.score(policy).kl for policy in policies] for made in (plain, fixed)])
    assert (kls[1] < kls[0]).all()
    assert kls[1].mean() < 0.5 * kls[0].mean()  # a cut that hardly harms has little to be repaired


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [1, "same"])
def test_windows_are_padded_as_the_layer_pads(mode: str, padding: int | str) -> None:
    """All filters' outputs are what their weights make of the windows."""
    layer = nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode, dilation=2 if padding == "same" else 1)
    images = torch.randn(4, 2, 6, 7)
    with torch.no_grad():
        windows = _windows(layer, images, most=10_000)
        found = windows @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(found.view(4, -1, 3).mT, layer(images).flatten(2))


def test_windows_are_those_of_numbers_set_later() -> None:
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=3)
    layer.stride, layer.padding = 1, 1  # type: ignore[assignment]
    images = torch.randn(4, 2, 6, 7)
    with torch.no_grad():
        found = _windows(layer, images, most=10_000) @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(found.view(4, -1, 3).mT, layer(images).flatten(2))

"""BatchNorm of cuts: statistics against plain formulas, and folding that changes no answer."""

import copy

import pytest
import torch
from models_for_tests import SMALL_NETS, elastic_net, images_for, same_state
from torch import nn

from autoprune.training.batchnorm import BATCH, fold_batchnorm, foldable_layers, recalibrate_batchnorm


def test_statistics_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, momentum=0.3))
    model[0].weight.data.fill_(2.0)
    nn.init.constant_(model[1].running_mean, 99.0)
    recalibrate_batchnorm(model, torch.tensor([1.0, 2.0, 3.0, 6.0]).view(2, 1, 1, 2))
    assert model[1].running_mean.item() == 6.0  # of 2, 4, 6, 12
    assert model[1].running_var.item() == pytest.approx((16 + 4 + 0 + 36) / 3)
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())


def test_statistics_are_means_over_even_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    images = torch.randn(BATCH + 1, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    recalibrate_batchnorm(model, images)
    halves = images[: BATCH // 2 + 1], images[BATCH // 2 + 1 :]
    means = [half.mean((0, 2, 3)) for half in halves]
    variances = [half.transpose(0, 1).flatten(1).var(1) for half in halves]
    torch.testing.assert_close(model[0].running_mean, (means[0] + means[1]) / 2)
    torch.testing.assert_close(model[0].running_var, (variances[0] + variances[1]) / 2)


def test_no_batch_of_a_single_value_is_left_over() -> None:
    """Features of one pixel: BatchNorm refuses to be calibrated on one image."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1))
    recalibrate_batchnorm(model, torch.randn(BATCH + 1, 1, 1, 1))
    assert model[1].num_batches_tracked == 2


def test_only_statistics_change() -> None:
    model = copy.deepcopy(elastic_net("vgg16_bn").original)
    recalibrate_batchnorm(model, images_for("vgg16_bn", 8))
    changed = {
        name.rpartition(".")[2]
        for name, tensor in elastic_net("vgg16_bn").original.state_dict().items()
        if not torch.equal(tensor, model.state_dict()[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_model_without_batchnorm_is_left_alone() -> None:
    model = copy.deepcopy(elastic_net("grouped").original)
    recalibrate_batchnorm(model, images_for("grouped"))
    assert same_state(model, elastic_net("grouped").original)


@pytest.mark.parametrize("name", SMALL_NETS)
def test_folding_leaves_the_answers_and_is_left_out_where_it_would_not(name: str) -> None:
    model, images = copy.deepcopy(elastic_net(name).original), images_for(name, 8)
    pairs = foldable_layers(model, images)
    # Of the dense network the concatenation reads what BatchNorm reads; the grouped one has no BatchNorm.
    assert bool(pairs) == (name not in ("concat", "grouped"))
    assert same_state(model, elastic_net(name).original)
    fold_batchnorm(model, pairs)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) or not pairs
    with torch.inference_mode():
        torch.testing.assert_close(model(images), elastic_net(name).original(images), atol=1e-3, rtol=1e-3)

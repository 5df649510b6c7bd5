"""BatchNorm statistics and scores, against plain formulas; which images are used for what."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models_for_tests import elastic_net, images_for, little_data, random_policy, same_state, trained_resnet
from torch import nn

from autoprune.data import DataInfo, ImageSplit, SearchData, normalise
from autoprune.elastic import ElasticModel
from autoprune.evaluate import BATCH, Evaluator, recalibrate_batchnorm
from autoprune.groups import find_groups
from autoprune.policy import PruningPolicy
from autoprune.train import accuracy


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


SHADES = DataInfo("shades", ("dark", "bright", "other"), 1, 5, 5, mean=(0.0,), std=(0.02,))


def shades(count: int, first: int) -> ImageSplit:
    """Image i has the grey value first + i everywhere."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    return ImageSplit(values.view(count, 1, 1, 1).repeat(1, 1, 5, 5), torch.arange(count) % 3)


def values_of(images: torch.Tensor) -> set[int]:
    return {round(255 * 0.02 * value) for value in images[:, 0, 0, 0].tolist()}


def test_calibration_sees_train_and_scoring_sees_search() -> None:
    data = SearchData(SHADES, train=shades(60, 0), search=shades(30, 100))
    whole = Evaluator(elastic_net("concat"), data, score_images=30, calibration_images=1000)
    assert values_of(whole.calibration) == set(range(60))
    assert values_of(whole.images) == set(range(100, 130))
    assert torch.equal(whole.labels, data.search.labels)
    some = Evaluator(elastic_net("concat"), data, score_images=9, calibration_images=12)
    assert len(values_of(some.calibration)) == 12
    assert values_of(some.calibration) <= set(range(60))
    assert len(values_of(some.images)) == 9
    assert values_of(some.images) <= set(range(100, 130))
    assert torch.bincount(some.labels).tolist() == [3, 3, 3]
    assert some.score(elastic_net("concat").full_policy).images == 9


def test_scores_by_plain_formulas() -> None:
    data = SearchData(SHADES, train=shades(60, 0), search=shades(30, 100))
    elastic = elastic_net("grouped")
    evaluator = Evaluator(elastic, data, score_images=30, calibration_images=60)
    policy = PruningPolicy.of({"free": 2})
    with torch.no_grad():
        images = normalise(data.search.images, SHADES)
        p, q = (model(images).double().softmax(1) for model in (elastic.original, elastic.cut(policy)))
    score = evaluator.score(policy)
    assert score.kl == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-3)
    assert score.kl > 1e-4
    assert score.cross_entropy == pytest.approx(float(-q[torch.arange(30), data.search.labels].log().mean()), rel=1e-4)
    assert score.top1 == pytest.approx(float((q.argmax(1) == data.search.labels).double().mean()))
    full = evaluator.score(elastic.full_policy)
    assert 0 <= full.kl < 1e-6


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    """Of a trained network whose statistics are those of the calibration images already."""
    data, model = little_data(), trained_resnet()
    groups = find_groups(model, data.info.input_shape).prunable
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    made = Evaluator(elastic, data, score_images=500, calibration_images=256)
    made.recalibrate(model)
    return Evaluator(elastic, data, score_images=500, calibration_images=256)


def test_the_full_policy_scores_as_the_original(evaluator: Evaluator) -> None:
    original, data = evaluator.elastic.original, little_data()
    score = evaluator.score(evaluator.elastic.full_policy)
    assert score.kl < 1e-5
    assert score.top1 == pytest.approx(accuracy(original, data.search, data.info), abs=1e-6)
    with torch.no_grad():
        expected = F.cross_entropy(original(normalise(data.search.images, data.info)), data.search.labels)
    assert score.cross_entropy == pytest.approx(expected.item(), rel=1e-4)
    assert score.images == 500


def test_recalibration_brings_a_cut_nearer_to_the_original(evaluator: Evaluator) -> None:
    elastic, data = evaluator.elastic, little_data()
    policy = PruningPolicy.of({group.name: group.channels - group.channels // 4 for group in elastic.groups})
    before = copy.deepcopy(elastic.original)
    raw, recalibrated = elastic.cut(policy), evaluator.candidate(policy)
    assert same_state(elastic.original, before)
    assert not recalibrated.training
    images = normalise(data.search.images, data.info)
    with torch.no_grad():
        reference = elastic.original(images).log_softmax(1)
        raw_kl, kl = (
            float(F.kl_div(model(images).log_softmax(1), reference, reduction="batchmean", log_target=True))
            for model in (raw, recalibrated)
        )
    assert kl < raw_kl
    assert evaluator.score(policy).kl == pytest.approx(kl, rel=1e-3)


def test_a_policy_scores_the_same_twice(evaluator: Evaluator) -> None:
    policy = random_policy(evaluator.elastic, 0)
    assert evaluator.score(policy) == evaluator.score(policy)

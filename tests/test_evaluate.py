"""Scores against plain formulas; which images are used for what."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from judging_for_tests import accuracy
from models_for_tests import elastic_net, little_data, random_policy, same_state, trained_resnet

from autoprune.compute.compute import Compute
from autoprune.data import DataInfo, ImageSplit, SearchData, normalise
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.search import evaluate as evaluate_module
from autoprune.search.evaluate import Evaluator
from autoprune.space.policy import PruningPolicy

SHADES = DataInfo("shades", ("dark", "bright", "other"), 1, 5, 5, mean=(0.0,), std=(0.02,))


def shades(count: int, first: int) -> ImageSplit:
    """Image i has the grey value first + i everywhere."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    return ImageSplit(values.view(count, 1, 1, 1).repeat(1, 1, 5, 5), torch.arange(count) % 3)


def values_of(images: torch.Tensor) -> set[int]:
    return {round(255 * 0.02 * value) for value in images[:, 0, 0, 0].tolist()}


def test_calibration_sees_train_and_scoring_sees_search() -> None:
    data = SearchData(SHADES, train=shades(60, 0), search=shades(30, 100))
    whole = Evaluator(elastic_net("concat"), data, score_images=30, calibration_images=1000, repairs=False)
    assert values_of(whole.calibration) == set(range(60))
    assert values_of(whole.images) == set(range(100, 130))
    greys = [round(255 * 0.02 * value) for value in whole.images[:, 0, 0, 0].tolist()]
    assert whole.labels.tolist() == [(grey - 100) % 3 for grey in greys]
    assert greys != sorted(greys)  # a folder is read class by class: the first few images must be of all classes
    some = Evaluator(elastic_net("concat"), data, score_images=9, calibration_images=12, repairs=False)
    assert len(values_of(some.calibration)) == 12
    assert values_of(some.calibration) <= set(range(60))
    assert len(values_of(some.images)) == 9
    assert values_of(some.images) <= set(range(100, 130))
    assert torch.bincount(some.labels).tolist() == [3, 3, 3]
    assert some.score(elastic_net("concat").full_policy).images == 9


IN_FLOAT32 = Compute(torch.device("cpu"), fast_bf16=False)


@pytest.fixture
def in_float32(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that does not compute in bfloat16."""
    monkeypatch.setattr(evaluator, "compute", IN_FLOAT32)


def test_scores_by_plain_formulas() -> None:
    data = SearchData(SHADES, train=shades(60, 0), search=shades(30, 100))
    elastic = elastic_net("grouped")
    evaluator = Evaluator(elastic, data, score_images=30, calibration_images=60, repairs=False, compute=IN_FLOAT32)
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
    made = Evaluator(elastic, data, score_images=500, calibration_images=256, repairs=False)
    made.recalibrate(model)
    return Evaluator(elastic, data, score_images=500, calibration_images=256, repairs=False)


@pytest.mark.usefixtures("in_float32")
def test_the_full_policy_scores_as_the_original(evaluator: Evaluator) -> None:
    original, data = evaluator.elastic.original, little_data()
    score = evaluator.score(evaluator.elastic.full_policy)
    assert score.kl < 1e-5
    assert score.top1 == pytest.approx(accuracy(original, data.search, data.info), abs=1e-6)
    with torch.no_grad():
        expected = F.cross_entropy(original(normalise(data.search.images, data.info)), data.search.labels)
    assert score.cross_entropy == pytest.approx(expected.item(), rel=1e-4)
    assert score.images == 500


@pytest.mark.usefixtures("in_float32")
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


@pytest.mark.parametrize("is_fast", [False, True])
def test_looks_are_at_the_calibration_images_then_at_the_first_images_then_at_all(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    monkeypatch.setattr(evaluator, "compute", Compute(torch.device("cpu"), fast_bf16=is_fast))
    monkeypatch.setattr(evaluate_module, "SECOND_LOOK", 60)
    policy = random_policy(evaluator.elastic, 0)
    looks = list(evaluator.looks(policy))
    assert [(score.images, score.look, score.complete) for score in looks] == [
        (256, 0, False),
        (60, 1, False),
        (500, 2, True),
    ]
    model = evaluator.repaired_cut(policy)
    with torch.inference_mode():
        passing = model.train()(evaluator.calibration).log_softmax(1)  # one batch, by its own statistics
        log_p = evaluator.candidate(policy)(evaluator.images).log_softmax(1)
    on_calibration = F.kl_div(
        passing, evaluator.calibration_reference.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    kls = F.kl_div(log_p, evaluator.reference.log_softmax(1), reduction="none", log_target=True).sum(1)
    precision = 0.1 if is_fast else 1e-3
    for score, part in zip(looks, (on_calibration, kls[:60], kls), strict=True):
        assert score.kl == pytest.approx(part.mean().item(), rel=precision)
        assert score.kl_se == pytest.approx(part.std().item() / math.sqrt(len(part)), rel=precision)
    right = (log_p.argmax(1) == evaluator.labels).float().mean().item()
    assert looks[2].top1 == pytest.approx(right, abs=0.02)
    assert looks[2] == evaluator.score(policy)


def test_a_small_search_split_is_seen_whole_at_the_second_look(evaluator: Evaluator) -> None:
    looks = list(evaluator.looks(random_policy(evaluator.elastic, 0)))
    assert [(score.images, score.complete) for score in looks] == [(256, False), (500, True)]

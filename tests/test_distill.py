"""The distillation loss by hand, and fine-tuning of a cut on a little real data."""

import copy
import math
from pathlib import Path

import pytest
import torch
from judging_for_tests import accuracy
from models_for_tests import (
    NO_AUGMENTATION,
    Counting,
    asked_each_time,
    batch_of,
    elastic_net,
    half_cut,
    images_for,
    little_data,
    same_state,
    trained_resnet,
)
from torch import Tensor, nn

from autoprune.config import FinetuneConfig
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.elastic import ElasticModel, changed_layers
from autoprune.pruning.find import find_groups
from autoprune.space.policy import PruningPolicy
from autoprune.training.distill import attention_distance, distillation_loss, finetune, stage_layers
from autoprune.training.teacher import Teacher
from autoprune.training.train import EpochLog

CONFIG = FinetuneConfig(epochs=3, batch_size=32, ema_decay=0.9, augment=NO_AUGMENTATION)


class Constant(nn.Module):
    """The same two logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 4.0), (1.0, 1.0), (1.0, 4.0), (0.9, 2.0)])
def test_the_loss_by_hand(weight: float, temperature: float) -> None:
    """Two logits that differ by d give the first class sigmoid(d / T)."""
    teacher, student = Constant(3.0, 1.0), Constant(0.0, 1.0)
    config = FinetuneConfig(distill_weight=weight, temperature=temperature)
    loss = distillation_loss(asked_each_time(teacher), config)(
        student, batch_of(torch.zeros(5, 1, 1, 1), [0, 0, 0, 1, 1])
    )
    p, q = (1 / (1 + math.exp(-difference / temperature)) for difference in (2.0, -1.0))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    q1 = 1 / (1 + math.exp(1.0))
    cross_entropy = -(3 * math.log(q1) + 2 * math.log(1 - q1)) / 5
    assert loss.item() == pytest.approx((1 - weight) * cross_entropy + weight * temperature**2 * kl, rel=1e-5)
    loss.backward()
    assert student.logits.grad is not None
    assert teacher.logits.grad is None


def test_attention_by_hand() -> None:
    """Energy all in the first pixel against energy all in the second: two unit vectors at a right angle."""
    student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    student[0, :, 0, 0] = 5.0
    teacher[0, 1, 0, 1] = 0.1
    assert attention_distance(student, teacher).item() == pytest.approx(2.0)
    halfway = torch.ones(1, 1, 1, 2)
    assert attention_distance(halfway, teacher).item() == pytest.approx((2**-0.5) ** 2 + (1 - 2**-0.5) ** 2)


def test_proportional_features_have_no_distance() -> None:
    features = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert attention_distance(0.2 * features, features).item() == pytest.approx(0.0, abs=1e-9)
    assert attention_distance(torch.cat([features, -features], 1), features).item() == pytest.approx(0.0, abs=1e-9)


def test_the_gradient_of_attention_by_hand_and_where_nothing_is_active() -> None:
    """Squares s of two positions are divided by their length L; the distance's slope by s is 2 (s / L - t) over L, less
    its part along s, and that by a feature is twice the feature times it."""
    student = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)  # squares 1 and 4
    teacher = torch.tensor([[[[0.0, 3.0]]]])  # all attention on the second
    attention_distance(student, teacher).backward()
    squares, length = torch.tensor([1.0, 4.0]), 17**0.5
    by_map = 2 * (squares / length - torch.tensor([0.0, 1.0]))
    by_square = by_map / length - squares * (by_map @ squares) / length**3
    assert student.grad is not None
    torch.testing.assert_close(student.grad.flatten(), 2 * torch.tensor([1.0, 2.0]) * by_square)
    dead = torch.zeros(1, 3, 2, 2, requires_grad=True)
    attention_distance(dead, torch.ones(1, 3, 2, 2)).backward()
    assert dead.grad is not None and not dead.grad.any()


def test_the_feature_term_is_added() -> None:
    teacher = elastic_net("flatten").original
    student = elastic_net("flatten").cut(PruningPolicy.of({"features.0": 2, "features.2": 3, "hidden": 7}))
    batch = batch_of(images_for("flatten", 4), [0, 1, 2, 3])
    layers = ("features.3",)
    plain, with_features = (
        distillation_loss(asked_each_time(teacher), FinetuneConfig(feature_weight=weight), layers)(student, batch)
        for weight in (0.0, 3.0)
    )
    with torch.no_grad():
        distance = attention_distance(
            *(model.get_submodule("features")[:4](batch.images) for model in (student, teacher))
        )
    assert distance > 1e-3
    torch.testing.assert_close(with_features, plain + 3.0 * distance)
    assert not any(module._forward_hooks for model in (teacher, student) for module in model.modules())


def test_the_stages_of_resnet20() -> None:
    model = build_model(ModelSpec("resnet20", 10, 1, 0.25))
    assert stage_layers(model, (1, 28, 28)) == ("layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2")


def tuned(model: nn.Module, teacher: nn.Module, config: FinetuneConfig = CONFIG, seed: int = 0) -> nn.Module:
    return finetune(
        model, little_data(), teacher=asked_each_time(teacher), config=config, learning_rate=0.05, seed=seed
    )


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v2"])
def test_a_cut_of_every_kind_of_net_can_be_fine_tuned(name: str) -> None:
    """Widths that fill no vector register, as pruning leaves them, take other kernels than the original's."""
    data = little_data()
    torch.manual_seed(0)
    teacher = build_model(ModelSpec(name, 10, 1, 0.25)).eval()
    cut = half_cut(teacher)
    before = copy.deepcopy(cut)
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 128})
    logs: list[EpochLog] = []
    finetune(
        cut, data, teacher=Teacher.of(teacher, data, config), config=config, learning_rate=0.01, seed=0,
        on_epoch=logs.append,
    )  # fmt: skip
    assert math.isfinite(logs[0].train_loss)
    assert not any(
        torch.equal(ours, theirs) for ours, theirs in zip(cut.parameters(), before.parameters(), strict=True)
    )


def test_fine_tuning_mends_a_cut_and_leaves_the_teacher() -> None:
    data, teacher = little_data(), trained_resnet()
    before = copy.deepcopy(teacher)
    cut = half_cut(teacher)
    cut_accuracy = accuracy(cut, data.search, data.info)
    logs: list[EpochLog] = []
    remembering = Teacher.of(teacher, data, CONFIG)
    best = finetune(cut, data, teacher=remembering, config=CONFIG, learning_rate=0.05, seed=0, on_epoch=logs.append)
    best_accuracy = accuracy(best, data.search, data.info)
    assert accuracy(teacher, data.search, data.info) > 0.5
    assert best_accuracy > cut_accuracy + 0.05
    assert best_accuracy == max(log.search_accuracy for log in logs)
    assert [log.epoch for log in logs] == [1, 2, 3]
    assert same_state(teacher, before)
    assert changed_layers(best, half_cut(teacher)) == set()


def test_features_of_the_teacher_can_be_followed() -> None:
    """The feature term is in the loss of every step. Whether it helps here is another matter."""
    teacher, data, logs = trained_resnet(), little_data(), list[EpochLog]()
    for weight in (0.0, 100.0):
        config = CONFIG.model_copy(update={"epochs": 1, "feature_weight": weight})
        student = half_cut(teacher)
        guided = finetune(
            student,
            data,
            teacher=Teacher.of(teacher, data, config),
            config=config,
            learning_rate=0.05,
            seed=0,
            on_epoch=logs.append,
        )
        assert all(torch.isfinite(tensor).all() for tensor in guided.state_dict().values())
    plain, with_features = logs
    assert with_features.train_loss > plain.train_loss + 1.0


def test_a_teacher_without_weight_is_not_asked() -> None:
    batch = batch_of(torch.ones(2, 1, 2, 2), [0, 1])
    for weight, asked in ((0.0, 0), (0.1, 2)):
        teacher = Counting()
        loss = distillation_loss(asked_each_time(teacher), FinetuneConfig(distill_weight=weight))
        assert loss(Constant(0.0, 1.0), batch).isfinite()
        assert teacher.asked == asked


def test_the_same_seed_gives_the_same_weights() -> None:
    teacher = trained_resnet()
    config = CONFIG.model_copy(update={"epochs": 1})
    first, second, other = (tuned(half_cut(teacher), teacher, config, seed) for seed in (1, 1, 2))
    assert same_state(first, second)
    assert not same_state(first, other)


def test_only_layers_that_lost_channels_get_the_factor() -> None:
    """With a factor of almost nothing they stay as they are, and the others learn."""
    teacher, data = trained_resnet(), little_data()
    groups = find_groups(teacher, data.info.input_shape).prunable
    elastic = ElasticModel(teacher, groups, {group.name: tuple(range(group.channels)) for group in groups})
    cut = elastic.cut(PruningPolicy.of(elastic.full_policy.as_dict() | {"layer2.1.conv1": 3}))
    before = copy.deepcopy(cut)
    config = CONFIG.model_copy(update={"epochs": 1, "pruned_lr_factor": 1e-30, "ema_decay": 0.0})
    best = tuned(cut, teacher, config)
    unchanged = {
        name.rpartition(".")[0]
        for (name, old), new in zip(before.named_parameters(), best.parameters(), strict=True)
        if torch.equal(old, new)
    }
    assert unchanged == {"layer2.1.conv1", "layer2.1.bn1", "layer2.1.conv2"} == changed_layers(teacher, before)


def test_an_interrupted_fine_tuning_goes_on(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(log: EpochLog) -> None:
        if log.epoch == 1:
            raise Stopped

    teacher, data, state = trained_resnet(), little_data(), tmp_path / "state.pt"
    config = CONFIG.model_copy(update={"epochs": 2})
    with pytest.raises(Stopped):
        finetune(
            half_cut(teacher), data, teacher=asked_each_time(teacher), config=config, learning_rate=0.05, seed=0,
            state_path=state, on_epoch=stop,
        )  # fmt: skip
    resumed = finetune(
        half_cut(teacher), data, teacher=asked_each_time(teacher), config=config, learning_rate=0.05, seed=0,
        state_path=state,
    )  # fmt: skip
    assert same_state(resumed, tuned(half_cut(teacher), teacher, config))

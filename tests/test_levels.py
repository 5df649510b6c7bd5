"""Levels: each is the cut that it says, they share weights and nothing else, and training them makes all accurate."""

from pathlib import Path

import pytest
import torch
from models_for_tests import (
    NO_AUGMENTATION,
    SMALL_NETS,
    asked_each_time,
    elastic_net,
    images_for,
    little_data,
    nested_levels,
    same_state,
    trained_resnet,
)

from autoprune.adaptive.levels.training import Levels, levels_loss, right_by_level, train_levels
from autoprune.config import FinetuneConfig
from autoprune.data import normalise
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.importance import rank_channels
from autoprune.space.policy import PruningPolicy, check_nested
from autoprune.training.batches import Batch
from autoprune.training.distill import finetune_recipe
from autoprune.training.pace import pace_of
from autoprune.training.train import Training

FINETUNE = FinetuneConfig(epochs=6, batch_size=32, ema_decay=0.9, augment=NO_AUGMENTATION)


@pytest.mark.parametrize("name", SMALL_NETS)
def test_each_level_answers_as_the_cut_that_it_is(name: str) -> None:
    elastic = elastic_net(name)
    policies = nested_levels(elastic)
    levels = Levels(elastic, policies).eval()
    images = images_for(name, 3)
    with torch.no_grad():
        answers = levels(images).unbind(1)
        for level, cut in enumerate(policies):
            expected = elastic.cut(cut).eval()(images)
            assert torch.allclose(answers[level], expected, atol=1e-5)
            assert torch.allclose(levels.extracted(level)(images), expected, atol=1e-5)


def test_levels_share_weights_and_have_statistics_of_their_own() -> None:
    elastic = elastic_net("resnet20")
    policies = nested_levels(elastic)
    before = {name: tensor.clone() for name, tensor in elastic.original.state_dict().items()}
    levels = Levels(elastic, policies[:2]).train()
    # The largest level is not the whole model: the shared weights are no wider than it.
    shared = dict(levels.shared.named_parameters())
    middle = dict(elastic.cut(policies[1]).named_parameters())
    assert {name: tensor.shape for name, tensor in shared.items()} == {n: tensor.shape for n, tensor in middle.items()}
    small, large = levels(images_for("resnet20", 4)).unbind(1)
    small.square().sum().backward()
    gradients = {
        name: tensor.grad for name, tensor in levels.named_parameters() if tensor.grad is not None and tensor.grad.any()
    }
    assert any(name.startswith("shared.") for name in gradients)
    assert any(name.startswith("cuts.0.") for name in gradients)
    assert not any(name.startswith("cuts.1.") for name in gradients)  # only the first level was asked
    # A change of the shared weights reaches both levels.
    with torch.no_grad():
        for name, tensor in levels.shared.named_parameters():
            if tensor.ndim > 1:
                tensor.mul_(2.0 if "conv1" in name else 1.0)
        after_small, after_large = levels.eval()(images_for("resnet20", 4)).unbind(1)
    assert not torch.allclose(after_small, small)
    assert not torch.allclose(after_large, large)
    for name, tensor in elastic.original.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_levels_of_a_frozen_original_learn() -> None:
    elastic = elastic_net("resnet20")
    frozen = elastic.with_weights_of(elastic.cut(elastic.full_policy).requires_grad_(False))
    levels = Levels(frozen, nested_levels(frozen)).train()
    levels(images_for("resnet20", 4)).square().sum().backward()
    assert levels.shared.get_parameter("conv1.weight").grad is not None
    assert all(cut.get_parameter("bn1.weight").grad is not None for cut in levels.cuts)
    assert not any(parameter.requires_grad for parameter in frozen.original.parameters())


def test_recalibration_is_that_of_each_level_alone() -> None:
    elastic = elastic_net("resnet20")
    levels = Levels(elastic, nested_levels(elastic))
    images = images_for("resnet20", 16)
    levels.recalibrate(images)
    means = [cut.get_buffer("bn1.running_mean") for cut in levels.cuts]
    expected = [images_mean(levels, level, images) for level in range(3)]
    for mean, one in zip(means, expected, strict=True):
        assert torch.allclose(mean, one, atol=1e-4)


def images_mean(levels: Levels, level: int, images: torch.Tensor) -> torch.Tensor:
    """What the first convolution of a level gives, the mean over images and pixels."""
    model = levels.extracted(level)
    with torch.no_grad():
        return model.get_submodule("conv1")(images).mean((0, 2, 3))


def test_the_loss_is_the_mean_over_levels_with_one_question_to_the_teacher() -> None:
    elastic = elastic_net("resnet20")
    levels = Levels(elastic, nested_levels(elastic)).eval()
    asked = []

    class Zeros(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            asked.append(len(images))
            return torch.zeros(len(images), 4)

    images = images_for("resnet20", 6)
    batch = Batch(images, torch.arange(6) % 4, torch.arange(6), None)
    config = FinetuneConfig(distill_weight=0.0)
    with torch.no_grad():
        value = levels_loss(asked_each_time(Zeros()), config)(levels, batch)
        expected = [torch.nn.functional.cross_entropy(logits, batch.labels) for logits in levels(images).unbind(1)]
    assert asked == [6]
    assert torch.allclose(value, torch.stack(expected).mean())


def test_training_makes_every_level_accurate_and_a_stopped_one_ends_alike(tmp_path: Path) -> None:
    model, data = trained_resnet(), little_data()
    groups = find_groups(model, data.info.input_shape).prunable
    elastic = ElasticModel(
        model,
        groups,
        rank_channels(
            model, groups, "l2", images=normalise(data.train.images[:8], data.info), labels=data.train.labels[:8]
        ),
    )
    floor = PruningPolicy.of({group.name: -(-group.channels // 2) for group in groups})
    policies = (floor, elastic.full_policy)
    teacher = asked_each_time(model)
    untrained = right_by_level(Levels(elastic, policies), data.search, data).float().mean(1)

    def trained(state_path: Path | None) -> Levels:
        levels = Levels(elastic, policies)
        return train_levels(
            levels, data, teacher=teacher, config=FINETUNE, learning_rate=0.05, seed=0, state_path=state_path
        )

    whole = trained(None)
    accuracies = right_by_level(whole, data.search, data).float().mean(1)
    assert accuracies[0] > untrained[0] + 0.2
    assert accuracies[1] > untrained[1] - 0.1

    class Stopped(Exception):
        pass

    def stop(_: object) -> None:
        raise Stopped

    state_path = tmp_path / "levels.pt"
    with pytest.raises(Stopped):
        train_levels(
            Levels(elastic, policies),
            data,
            teacher=teacher,
            config=FINETUNE,
            learning_rate=0.05,
            seed=0,
            state_path=state_path,
            on_epoch=stop,
        )
    assert state_path.is_file()
    assert same_state(trained(state_path), whole)
    # With a time budget its steps are timed first, which changes nothing.
    levels = Levels(elastic, policies)
    recipe = finetune_recipe(FINETUNE.model_copy(update={"max_minutes": 1.0}), learning_rate=0.05)
    training = Training(
        levels,
        data,
        levels_loss(teacher, FINETUNE),
        lambda model: float(right_by_level(model, data.search, data).sum()),
        0,
        "test",
    )
    pace = pace_of(training, recipe, teacher=teacher)
    assert pace.step_s > 0
    assert same_state(levels, Levels(elastic, policies))
    assert right_by_level(whole, data.search, data).shape == (2, len(data.search))


def test_levels_that_are_not_nested_are_refused() -> None:
    wide, narrow = PruningPolicy.of({"a": 4, "b": 2}), PruningPolicy.of({"a": 2, "b": 3})
    with pytest.raises(ValueError, match="level 0 is no cut of level 1: b is wider"):
        check_nested((narrow, wide))
    with pytest.raises(ValueError, match="levels 0 and 1 are equal"):
        check_nested((wide, wide))
    elastic = elastic_net("resnet20")
    smallest, middle, _ = nested_levels(elastic)
    with pytest.raises(ValueError, match="level 0 is no cut of level 1"):
        Levels(elastic, (middle, smallest))

"""Elastic training: a step's gradient is that of the cut, in place; afterwards cuts are accurate without their own."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models_for_tests import (
    NO_AUGMENTATION,
    SMALL_NETS,
    asked_each_time,
    elastic_net,
    images_for,
    little_data,
    random_policy,
    same_state,
    trained_resnet,
)
from torch import Tensor, nn

from autoprune.config import ElasticConfig, FinetuneConfig
from autoprune.policy import PruningPolicy
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.importance import rank_channels
from autoprune.search.evaluate import Evaluator
from autoprune.stages.elastic_training import elastic_loss, train_elastic
from autoprune.training.batches import Batch
from autoprune.training.train import EpochLog

CLASSES = {"flatten": 4, "concat": 3, "grouped": 3}
FINETUNE = FinetuneConfig(batch_size=32, ema_decay=0.9, augment=NO_AUGMENTATION)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.images).float(), batch.labels)


def batch_for(name: str, step: int = 0) -> Batch:
    count = 6
    labels = torch.arange(count) % CLASSES.get(name, 4)
    return Batch(images_for(name, count), labels, torch.arange(count), None, step)


def trainable(elastic: ElasticModel) -> nn.Module:
    """A copy of the original, in training mode, without gradients."""
    model = elastic.cut(elastic.full_policy).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


@pytest.mark.parametrize("name", SMALL_NETS)
def test_the_gradient_is_that_of_the_cut_at_the_places_of_its_channels(name: str) -> None:
    elastic = elastic_net(name)
    policy, batch = random_policy(elastic, seed=3), batch_for(name)
    cut = elastic.cut(policy).train()
    expected_loss = cross_entropy(cut, batch)
    expected_loss.backward()  # type: ignore[no-untyped-call]
    whole = trainable(elastic)
    loss = elastic_loss(elastic, cross_entropy, [policy], ends=[], ends_share=0.0, seed=0)(whole, batch)
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()  # type: ignore[no-untyped-call]
    # A whole model whose weights are the gradients, cut by the same policy, holds the gradients of the cut.
    gradients = trainable(elastic)
    with torch.no_grad():
        for ours, theirs in zip(gradients.parameters(), whole.parameters(), strict=True):
            ours.copy_(torch.zeros_like(ours) if theirs.grad is None else theirs.grad)
    found = dict(elastic.with_weights_of(gradients).cut(policy).named_parameters())
    for key, parameter in cut.named_parameters():
        assert parameter.grad is not None
        # The two sum in another order, and six images through many BatchNorms magnify what that changes.
        assert (found[key] - parameter.grad).norm() <= 0.02 * parameter.grad.norm() + 1e-5
    total = sum(float(parameter.detach().abs().sum()) for parameter in gradients.parameters())
    kept = sum(float(parameter.grad.abs().sum()) for parameter in cut.parameters() if parameter.grad is not None)
    assert total == pytest.approx(kept, rel=0.02)  # nothing anywhere else


def test_batches_draw_their_cuts_and_a_batch_always_draws_the_same() -> None:
    elastic = elastic_net("flatten")
    whole = trainable(elastic)
    policies = [random_policy(elastic, seed=seed) for seed in range(5)]
    ends = [elastic.full_policy, PruningPolicy.of({group.name: 1 for group in elastic.groups})]

    def drawn(ends_share: float, *, seed: int = 0) -> list[PruningPolicy]:
        """The policies are told by the losses of their cuts."""
        losses = {
            cross_entropy(elastic.cut(policy).train(), batch_for("flatten")).item(): policy
            for policy in [*policies, *ends]
        }
        loss = elastic_loss(elastic, cross_entropy, policies, ends=ends, ends_share=ends_share, seed=seed)
        found = [loss(whole, batch_for("flatten", step=step)).item() for step in range(60)]
        return [losses[min(losses, key=lambda known: abs(known - value))] for value in found]

    assert set(drawn(0.0)) == set(policies)
    assert set(drawn(1.0)) == set(ends)
    assert set(drawn(0.5)) == {*policies, *ends}
    assert drawn(0.5) == drawn(0.5) != drawn(0.5, seed=1)


@cache
def elastic_resnet() -> ElasticModel:
    model, data = trained_resnet().eval(), little_data()
    groups = find_groups(model, data.info.input_shape).prunable
    return ElasticModel(model, groups, rank_channels(model, groups, "l2", images=torch.zeros(0), labels=torch.zeros(0)))


def halved(elastic: ElasticModel) -> PruningPolicy:
    return PruningPolicy.of({group.name: max(1, group.channels // 2) for group in elastic.groups})


def distilled(
    elastic: ElasticModel,
    *,
    epochs: int = 4,
    seed: int = 0,
    state_path: Path | None = None,
    logs: list[EpochLog] | None = None,
) -> ElasticModel:
    data = little_data()
    return train_elastic(
        elastic,
        data,
        [halved(elastic), *(random_policy(elastic, seed=seed) for seed in range(4))],
        smallest=halved(elastic),
        teacher=asked_each_time(elastic.original),
        evaluator=Evaluator(elastic, data, score_images=500, calibration_images=256, repairs=False),
        config=ElasticConfig(epochs=epochs, ends_share=0.2),
        distillation=FINETUNE,
        learning_rate=0.05,
        seed=seed,
        state_path=state_path,
        on_epoch=None if logs is None else logs.append,
    )


def test_a_cut_becomes_accurate_and_the_original_stays() -> None:
    elastic = elastic_resnet()
    before = trained_resnet()
    logs: list[EpochLog] = []
    trained = distilled(elastic, logs=logs)
    evaluator = Evaluator(elastic, little_data(), score_images=500, calibration_images=256, repairs=False)
    policy = halved(elastic)
    assert evaluator.of(trained).score(policy).kl < 0.8 * evaluator.score(policy).kl
    assert evaluator.of(trained).score(policy).top1 > evaluator.score(policy).top1 + 0.1
    assert same_state(elastic.original, before)
    assert [log.epoch for log in logs] == [1, 2, 3, 4]
    assert all(math.isfinite(log.train_loss) for log in logs)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    elastic = elastic_resnet()
    expected = distilled(elastic, epochs=2)
    assert same_state(distilled(elastic, epochs=2).original, expected.original)
    assert not same_state(distilled(elastic, epochs=2, seed=1).original, expected.original)

    class Stopped(Exception):
        pass

    class StopAfterOne(list[EpochLog]):
        def append(self, log: EpochLog) -> None:
            raise Stopped

    path = tmp_path / "elastic.pt"
    with pytest.raises(Stopped):
        distilled(elastic, epochs=2, state_path=path, logs=StopAfterOne())
    assert same_state(distilled(elastic, epochs=2, state_path=path).original, expected.original)

"""Training learns, repeats bit for bit, and goes on after an interruption as if there had been none."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bars_for_tests import DATA, INFO, bars
from judging_for_tests import accuracy
from models_for_tests import same_state
from rich.console import Console
from torch import Tensor, nn

from autoprune.config import AugmentConfig, TrainConfig
from autoprune.errors import RunError
from autoprune.foundation import progress
from autoprune.tasks.classification import CLASSIFICATION, Classification
from autoprune.tasks.task import PerExample
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.scores import Judge
from autoprune.training.train import (
    EpochLog,
    FitRecipe,
    Loss,
    Training,
    cosine,
    fit,
    labelled_loss,
    one_cycle,
    spent_s,
    train_baseline,
)

SCORE = Judge(DATA.search, INFO)
LOSS = labelled_loss(CLASSIFICATION)
RECIPE = FitRecipe(
    epochs=4,
    batch_size=32,
    learning_rate=0.1,
    weight_decay=5e-4,
    ema_decay=0.9,
    schedule=one_cycle,
    augmentation=AugmentConfig(crop_padding=1),
)


def net(seed: int = 0) -> nn.Module:
    """With dropout, so that the order of the global generator matters too."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 3),
    )


def training(model: nn.Module, loss: Loss = LOSS, *, seed: int = 0) -> Training:
    return Training(model, DATA, loss, SCORE, seed, "test")


def trained(
    model: nn.Module,
    recipe: FitRecipe = RECIPE,
    *,
    seed: int = 0,
    state_path: Path | None = None,
    logs: list[EpochLog] | None = None,
) -> nn.Module:
    return fit(
        training(model, seed=seed), recipe, state_path=state_path, on_epoch=None if logs is None else logs.append
    )


def test_a_separable_problem_is_learnt() -> None:
    logs: list[EpochLog] = []
    best = trained(net(), logs=logs)
    assert accuracy(best, bars(300, 2), INFO) > 0.95
    assert not best.training
    assert [log.epoch for log in logs] == [1, 2, 3, 4]
    assert logs[-1].train_loss < 0.5 * logs[0].train_loss
    assert accuracy(best, DATA.search, INFO) == max(log.search_accuracy for log in logs)


def test_a_baseline_is_trained_from_its_configuration() -> None:
    config = TrainConfig.model_validate(
        {"epochs": 4, "batch_size": 32, "learning_rate": 0.1, "ema_decay": 0, "augment": {"erase_size": 2}}
    )
    assert accuracy(train_baseline(net(), DATA, config, seed=0), bars(300, 2), INFO) > 0.95


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    first, second, other = trained(net()), trained(net()), trained(net(), seed=1)
    assert same_state(first, second)
    assert not same_state(first, other)


class Wrong(Classification):
    """The cross entropy is what is reported."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, PerExample]:
        return {"cross_entropy": super().metrics(outputs, targets)["cross_entropy"]}


def test_progress_shows_a_metric_by_its_own_name_and_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown, force_terminal=True, width=200))
    monkeypatch.setattr(progress, "_shown", True)
    config = TrainConfig(epochs=1, batch_size=32, learning_rate=0.1, ema_decay=0)
    for task, expected in (
        (CLASSIFICATION, r"epoch 1/1 search accuracy \d+\.\d\d%"),
        (Wrong(), r"epoch 1/1 search cross_entropy \d\.\d+, lower is better"),
    ):
        train_baseline(net(), DATA, config, seed=0, task=task)
        assert re.search(expected, shown.getvalue())
        shown.truncate(0)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, epochs_done: int) -> None:
    expected_logs: list[EpochLog] = []
    whole = net()
    expected = trained(whole, logs=expected_logs)
    path = tmp_path / "state.pt"
    calls = 0
    steps_per_epoch = 300 // 32

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > epochs_done * steps_per_epoch + 3:
            raise Interrupted
        return LOSS(model, batch)

    with pytest.raises(Interrupted):
        fit(training(net(), loss), RECIPE, state_path=path)
    logs: list[EpochLog] = []
    resumed = net(5)  # the weights come from the state
    best = trained(resumed, state_path=path, logs=logs)
    assert same_state(best, expected)
    assert same_state(resumed, whole)
    assert logs == expected_logs
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


class Remembering(nn.Flatten):
    """With extra state that is no tensor, of a class that no reader of tensors knows."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [RECIPE, torch.tensor([1, 2])])
def test_extra_state_stays_the_models_own_through_an_interruption(tmp_path: Path, extra: object) -> None:
    path = tmp_path / "state.pt"
    short = replace(RECIPE, epochs=1)
    model, again = (nn.Sequential(*net()[:4], Remembering(extra), net()[5]) for _ in range(2))  # type: ignore[index]
    best = trained(model, short, state_path=path)
    resumed = trained(again, short, state_path=path)
    assert repr(resumed.get_submodule("4").extra) == repr(extra)
    assert torch.equal(best.get_parameter("5.weight"), resumed.get_parameter("5.weight"))


def test_a_training_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    first = trained(net(), state_path=path)
    written = path.stat().st_mtime_ns
    assert same_state(trained(net(3), state_path=path), first)
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_corrupt_state_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "state.pt"
    trained(net(), replace(RECIPE, epochs=1), state_path=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(RunError, match=r"state\.pt: corrupt training state .* delete it"):
        trained(net(), state_path=path)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(RunError, match=r"test: the loss is (nan|inf) in epoch 1; lower the learning rate"):
        fit(training(net(), lambda model, batch: LOSS(model, batch) * math.inf), RECIPE, state_path=path)
    assert not path.exists()


class Clock:
    """A second goes by each time it is looked at: once for each step, and a few times for an epoch."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_a_time_budget_ends_a_training_with_its_schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nine steps an epoch, so that 25 seconds are over in the third, whether it was stopped in between or not."""
    recipe = replace(RECIPE, epochs=100, max_s=25.0)
    logs: list[EpochLog] = []
    monkeypatch.setattr("autoprune.training.train.time", Clock())
    whole = trained(net(), recipe, logs=logs)
    assert [log.epoch for log in logs] == [1, 2, 3]
    assert logs[0].learning_rate > 0.06 > 0.01 > logs[2].learning_rate

    class Stopped(Exception):
        pass

    def stop(log: EpochLog) -> None:
        raise Stopped

    path, seen = tmp_path / "state.pt", list[EpochLog]()
    monkeypatch.setattr("autoprune.training.train.time", Clock())
    with pytest.raises(Stopped):
        fit(training(net()), recipe, state_path=path, on_epoch=stop)
    monkeypatch.setattr("autoprune.training.train.time", Clock())
    trained(net(), recipe, state_path=path, logs=seen)
    assert [log.epoch for log in seen] == [1, 2, 3]
    assert logs[0] == seen[0]
    assert not same_state(whole, net())


def test_a_training_stopped_at_an_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    path, whole, rest = tmp_path / "state.pt", list[EpochLog](), list[EpochLog]()
    expected = trained(net(), logs=whole)
    head = fit(training(net()), RECIPE, state_path=path, until_epoch=1, on_epoch=rest.append)
    assert rest == whole[:1]
    assert not same_state(head, expected)
    kept = torch.load(path, weights_only=True)
    assert all(torch.equal(value, kept["averaged"][name]) for name, value in head.state_dict().items())
    assert spent_s(path) == kept["spent_s"] > 0 == spent_s(tmp_path / "none.pt")
    assert same_state(trained(net(), state_path=path, logs=rest), expected)
    assert rest[1:] == whole  # the first is told again


def test_no_epochs_return_the_model_as_it_is() -> None:
    model = net()
    assert same_state(trained(model, replace(RECIPE, epochs=0)), model)


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    logs: list[EpochLog] = []
    trained(net(), replace(RECIPE, batch_size=4096, epochs=2), logs=logs)
    assert [log.epoch for log in logs] == [1, 2]


def seen(recipe: FitRecipe, epoch: int, seed: int = 0) -> tuple[list[int], Tensor]:
    """The places of the images of an epoch in their order, and the images in the order of the split."""
    batches = list(epoch_batches(DATA, recipe.augmentation, batch_size=recipe.batch_size, epoch=epoch, seed=seed))
    order = torch.cat([batch.indices for batch in batches])
    images = torch.zeros(len(DATA.train), *INFO.input_shape)
    images[order] = torch.cat([batch.images for batch in batches])
    assert torch.equal(torch.cat([batch.labels for batch in batches]), DATA.train.labels[order])
    return order.tolist(), images


def test_each_epoch_has_an_order_and_an_augmentation_of_its_own() -> None:
    recipe = replace(RECIPE, batch_size=100)
    first, second = seen(recipe, 0), seen(recipe, 1)
    assert sorted(first[0]) == sorted(second[0]) == list(range(300))
    assert first[0] != second[0]
    assert not torch.equal(first[1], second[1])
    again, other_seed = seen(recipe, 0), seen(recipe, 0, seed=1)
    assert again[0] == first[0] != other_seed[0]
    assert torch.equal(again[1], first[1])
    assert not torch.equal(other_seed[1], first[1])


def test_learning_rates_can_be_set_for_single_parameters() -> None:
    model = net()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fit(training(model), replace(RECIPE, epochs=1), lr_factors={"0.weight": 0.0, "5.weight": 2.0})
    after = dict(model.named_parameters())
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["5.weight"], after["5.weight"])


def test_schedules_by_hand() -> None:
    assert one_cycle(0.0) == 0.04
    assert one_cycle(0.1) == pytest.approx(0.52)
    assert one_cycle(0.2) == 1.0
    assert one_cycle(0.6) == pytest.approx(0.5)
    assert one_cycle(1.0) == pytest.approx(0.0)
    assert cosine(0.05) == 1.0
    assert cosine(0.525) == pytest.approx(0.5)
    assert cosine(1.0) == pytest.approx(0.0)
    for schedule in (one_cycle, cosine):
        assert all(0 <= schedule(step / 200) <= 1 for step in range(201))


def test_accuracy_by_hand() -> None:
    class AlwaysTop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    assert accuracy(AlwaysTop(), bars(1200, 0), INFO) == pytest.approx(1 / 3)  # three batches


def test_label_smoothing_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, math.log(3.0)]]).repeat(len(x), 1)  # shares 1/4 and 3/4

    batch = Batch(torch.zeros(2, 1), torch.tensor([1, 1]), torch.tensor([0, 1]), None)
    value = labelled_loss(CLASSIFICATION, smoothing=0.2)(Fixed(), batch)
    assert float(value) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_batches_of_mixed_images_have_mixed_labels() -> None:
    plain = AugmentConfig(crop_padding=0, flip=False)
    mixing = plain.model_copy(update={"cutmix_size": 3})
    drawn = (
        epoch_batches(DATA, augmentation, batch_size=RECIPE.batch_size, epoch=0, seed=0)
        for augmentation in (mixing, plain)
    )
    pairs = list(zip(*drawn, strict=True))
    assert len(pairs) == 9
    for mixed, shown in pairs:
        assert torch.equal(mixed.indices, shown.indices)
        assert mixed.labels.shape == (32, 3)
        torch.testing.assert_close(mixed.labels.sum(1), torch.ones(32))
        assert (mixed.labels.gather(1, shown.labels[:, None]) > 0.85).all()  # at most 9 of 64 pixels are another's
        changed = (mixed.images != shown.images).flatten(1).sum(1)
        assert 0 < changed.max() <= 9
    assert math.isfinite(trained_loss(replace(RECIPE, augmentation=mixing)))


def trained_loss(recipe: FitRecipe) -> float:
    logs: list[EpochLog] = []
    trained(net(), recipe, logs=logs)
    assert logs[-1].search_accuracy > 0.8
    return logs[-1].train_loss

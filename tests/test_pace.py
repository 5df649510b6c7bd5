"""A training that does not fit into its time is planned anew before it begins."""

import time
from dataclasses import replace

import pytest
import torch
from models_for_tests import Counting
from test_train import DATA, RECIPE, net
from torch import Tensor, nn

from autoprune.training import pace
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.pace import Pace, epochs_held, in_time, pace_of
from autoprune.training.teacher import Teacher
from autoprune.training.train import FitRecipe, Loss, cosine, cross_entropy_loss

LOSS = cross_entropy_loss(0.0)


def planned(recipe: FitRecipe, monkeypatch: pytest.MonkeyPatch, found: Pace) -> FitRecipe:
    def known(model: nn.Module, data: object, loss: Loss, recipe: FitRecipe, *, seed: int) -> Pace:
        return found

    monkeypatch.setattr(pace, "pace_of", known)
    teacher = Teacher(Counting(), images=len(DATA.train), classes=2, forms=recipe.augmentation.forms)
    return in_time(recipe, net(), DATA, LOSS, teacher=teacher, seed=0, description="test")


def test_what_the_time_holds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine steps an epoch, 100 epochs, two seconds a step: 1,800 seconds."""
    recipe, two_seconds = replace(RECIPE, epochs=100, schedule=cosine), Pace(2.0)
    assert planned(recipe, monkeypatch, two_seconds) == recipe  # without a budget nothing is timed
    whole = replace(recipe, max_s=1800.0)
    assert planned(whole, monkeypatch, two_seconds) == whole
    quarter = planned(replace(recipe, max_s=450.0), monkeypatch, two_seconds)
    assert quarter.epochs == 25
    assert quarter.learning_rate == pytest.approx(recipe.learning_rate / 2)
    little = planned(replace(recipe, max_s=1.8), monkeypatch, two_seconds)
    assert little.epochs == 1
    assert little.learning_rate == pytest.approx(recipe.learning_rate * 0.1**1.5)


def test_epochs_take_less_the_more_the_teacher_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two forms of each image half are new in the second epoch, a quarter in the third: with a second a step and two
    more where the teacher is asked, about 27, 18 and 13.5 seconds."""
    flips = replace(RECIPE, epochs=3, schedule=cosine, augmentation=replace(RECIPE.augmentation, crop_padding=0))
    assert flips.augmentation.forms == 2
    found = Pace(step_s=1.0, asking_s=2.0)
    assert planned(replace(flips, max_s=60.0), monkeypatch, found).epochs == 3
    assert planned(replace(flips, max_s=40.0), monkeypatch, found).epochs == 2


def test_epochs_held_by_hand() -> None:
    assert epochs_held([30.0, 20.0, 10.0], 60.0) == 3.0
    assert epochs_held([30.0, 20.0, 10.0], 45.0) == 1.75
    assert epochs_held([30.0, 20.0, 10.0], 3.0) == pytest.approx(0.1)


@pytest.mark.parametrize("forms", [2, None])
def test_what_the_teacher_will_be_asked_is_what_it_is_asked(forms: int | None) -> None:
    """Whether it remembers forms of images or batches; and nothing more of what it has answered."""
    augmentation = replace(RECIPE.augmentation, crop_padding=0)
    asked = Counting()
    teacher = Teacher(asked, images=len(DATA.train), classes=2, forms=forms)
    expected = teacher.to_be_asked(DATA, augmentation, batch_size=32, epochs=4, seed=3)
    found = []
    for epoch in range(4):
        before, images = asked.asked, 0
        for batch in epoch_batches(DATA, augmentation, batch_size=32, epoch=epoch, seed=3):
            teacher(batch)
            images += len(batch.images)
        found.append((asked.asked - before) / images)
    assert found == expected
    assert expected == [1.0] * 4 if forms is None else expected[3] < 0.3 < expected[1] < 0.7 < expected[0] == 1.0
    assert teacher.to_be_asked(DATA, augmentation, batch_size=32, epochs=4, seed=3) == [0.0] * 4


def test_timing_steps_changes_nothing() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert pace_of(model, DATA, LOSS, RECIPE, seed=0).step_s > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_teacher_that_takes_time_is_told_from_the_steps() -> None:
    class Slow(Counting):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.2)
            return super().forward(images)

    teacher = Teacher(Slow(), images=len(DATA.train), classes=2, forms=RECIPE.augmentation.forms)

    def taught(model: nn.Module, batch: Batch) -> Tensor:
        return LOSS(model, batch) + 0.0 * teacher(batch).sum()

    found = pace_of(net(), DATA, taught, RECIPE, seed=0)
    assert found.asking_s > 0.1 and found.asking_s > found.step_s

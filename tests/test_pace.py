"""A training that does not fit into its time is planned anew before it begins."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import Counting
from test_train import DATA, LOSS, RECIPE, net, training
from torch import Tensor, nn

from autoprune.compute.threads import computing_with, fewer_threads
from autoprune.config import AugmentConfig
from autoprune.errors import RunError
from autoprune.training import pace
from autoprune.training import teacher as teacher_module
from autoprune.training.batches import Batch, epoch_batches
from autoprune.training.pace import Pace, epochs_held, in_time, pace_of
from autoprune.training.teacher import Teacher
from autoprune.training.train import FitRecipe, cosine, fit

FLIPPED = AugmentConfig(crop_padding=0, flip=True)


def planned(
    recipe: FitRecipe, monkeypatch: pytest.MonkeyPatch, found: Pace, *, plan_path: Path | None = None
) -> FitRecipe:
    monkeypatch.setattr(pace, "pace_of", lambda *_, **__: found)
    return in_time(recipe, training(net()), teacher=teacher_of(recipe, Counting()), plan_path=plan_path)


def teacher_of(recipe: FitRecipe, model: nn.Module) -> Teacher:
    return Teacher(model, images=len(DATA.train), classes=2, forms=recipe.augmentation.forms)


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
    """Of two forms of each image half are new in the second epoch, a quarter in the third: with a second a step, two
    more where the teacher is asked and one to judge an epoch about 28, 19 and 14.5 seconds."""
    flips = replace(
        RECIPE, epochs=3, schedule=cosine, augmentation=RECIPE.augmentation.model_copy(update={"crop_padding": 0})
    )
    assert flips.augmentation.forms == 2
    found = Pace(step_s=1.0, asking_s=2.0, judging_s=1.0)
    assert planned(replace(flips, max_s=65.0), monkeypatch, found) == replace(flips, max_s=65.0)
    short = planned(replace(flips, max_s=40.0), monkeypatch, found)
    assert short.epochs == 2
    assert short.learning_rate == pytest.approx(flips.learning_rate * ((1 + 12 / 19) / 3) ** 0.5, rel=0.02)


def test_trainings_that_are_compared_go_by_one_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And one that is stopped before its first epoch was over goes by the plan that it had."""
    recipe, path = replace(RECIPE, epochs=100, schedule=cosine, max_s=450.0), tmp_path / "state" / "plan.json"
    first = planned(recipe, monkeypatch, Pace(2.0), plan_path=path)
    assert first.epochs == 25
    assert planned(recipe, monkeypatch, Pace(20.0), plan_path=path) == first
    for broken in ("{}", '{"epochs": 2.5, "learning_rate": 0.1}', '{"epochs": 2, "learning_rate": "NaN"}'):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(RunError, match=r"plan\.json: corrupt plan of a training"):
            planned(recipe, monkeypatch, Pace(2.0), plan_path=path)


def test_epochs_that_do_not_fit_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand would take half an hour."""
    drawn: list[int] = []
    real = teacher_module.epoch_draws

    def counting(*args: object, epoch: int, **named: object) -> object:
        drawn.append(epoch)
        return real(*args, epoch=epoch, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_module, "epoch_draws", counting)
    assert planned(replace(RECIPE, epochs=100_000, max_s=60.0), monkeypatch, Pace(2.0)).epochs == 4
    assert drawn == [0, 1, 2, 3]


def test_epochs_held_by_hand() -> None:
    assert epochs_held([30.0, 20.0, 10.0], 60.0) == 3.0
    assert epochs_held([30.0, 20.0, 10.0], 45.0) == 1.75
    assert epochs_held([30.0, 20.0, 10.0], 3.0) == pytest.approx(0.1)


@pytest.mark.parametrize("forms", [2, None])
def test_what_the_teacher_will_be_asked_is_what_it_is_asked(forms: int | None) -> None:
    """Whether it remembers forms of images or batches; and nothing more of what it has answered."""
    asked = Counting()
    teacher = Teacher(asked, images=len(DATA.train), classes=2, forms=forms)
    expected = list(teacher.to_be_asked(DATA, FLIPPED, batch_size=32, epochs=4, seed=3))
    found = []
    for epoch in range(4):
        before, images = asked.asked, 0
        for batch in epoch_batches(DATA, FLIPPED, batch_size=32, epoch=epoch, seed=3):
            teacher(batch)
            images += len(batch.images)
        found.append((asked.asked - before) / images)
    assert found == expected
    assert expected == [1.0] * 4 if forms is None else expected[3] < 0.3 < expected[1] < 0.7 < expected[0] == 1.0
    assert list(teacher.to_be_asked(DATA, FLIPPED, batch_size=32, epochs=4, seed=3)) == [0.0] * 4


def test_timing_steps_changes_nothing() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = pace_of(training(model), RECIPE, teacher=teacher_of(RECIPE, Counting()))
    assert found.step_s > 0 and found.judging_s > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("forms", [RECIPE.augmentation.forms, None])
@pytest.mark.parametrize("batch_size", [32, 1000])
def test_a_teacher_that_takes_time_is_told_from_the_steps(forms: int | None, batch_size: int) -> None:
    """Also where it has answered the very batches, for a training before; also where an epoch is one batch."""

    class Slow(Counting):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.1)
            return super().forward(images)

    teacher = Teacher(Slow(), images=len(DATA.train), classes=2, forms=forms)
    recipe = replace(RECIPE, batch_size=batch_size)

    def taught(model: nn.Module, batch: Batch) -> Tensor:
        return LOSS(model, batch) + 0.0 * teacher(batch).sum()

    for _ in range(2):
        found = pace_of(training(net(), taught), recipe, teacher=teacher)
        assert found.asking_s > 0.05 > found.step_s


def test_a_slow_score_is_told_from_the_steps() -> None:
    def slow(model: nn.Module) -> float:
        time.sleep(0.1)
        return 0.0

    teacher = teacher_of(RECIPE, Counting())
    assert pace_of(replace(training(net()), score=slow), RECIPE, teacher=teacher).judging_s > 0.1


@pytest.mark.parametrize(("slow_with", "taken"), [(2, 1), (1, None)])
def test_fewer_threads_are_taken_where_they_do_more(slow_with: int, taken: int | None, tmp_path: Path) -> None:
    """As where a neighbour holds up one of two. A plan keeps it, and the training goes by it and by nothing else; not
    where all epochs fit, nor where there are fewer threads now."""
    used = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        used.append(torch.get_num_threads())
        time.sleep(0.05 if used[-1] == slow_with else 0.0)
        return LOSS(model, batch)

    def found(recipe: FitRecipe) -> FitRecipe:
        teacher = teacher_of(recipe, Counting())
        return in_time(recipe, training(net(), loss), teacher=teacher, plan_path=tmp_path / f"{recipe.max_s}.json")

    short, whole = replace(RECIPE, epochs=100, max_s=0.5), replace(RECIPE, epochs=2, max_s=600.0)
    with computing_with(2):
        assert found(whole) == whole
        assert set(used) == {2}
        planned_for = found(short)
        assert (planned_for.epochs < 100, planned_for.threads) == (True, taken)
        assert found(short) == planned_for
        used.clear()
        fit(training(net(), loss), planned_for)
        assert set(used) == {taken or 2}
        assert torch.get_num_threads() == 2
    with computing_with(1):
        assert found(short).threads is None


def test_fewer_threads_by_hand() -> None:
    tried = {}
    for threads in (1, 2, 3, 8):
        with computing_with(threads):
            tried[threads] = fewer_threads()
    assert tried == {1: (), 2: (1,), 3: (2, 1), 8: (7, 4)}

"""A training that does not fit into its time is planned anew before it begins."""

from dataclasses import replace

import pytest
import torch
from test_train import DATA, RECIPE, net
from torch import nn

from autoprune.training import pace
from autoprune.training.pace import in_time, seconds_a_step
from autoprune.training.train import FitRecipe, Loss, cosine, cross_entropy_loss

LOSS = cross_entropy_loss(0.0)


def planned(recipe: FitRecipe, monkeypatch: pytest.MonkeyPatch, *, step_s: float) -> FitRecipe:
    def known(model: nn.Module, data: object, loss: Loss, recipe: FitRecipe, *, seed: int) -> float:
        return step_s

    monkeypatch.setattr(pace, "seconds_a_step", known)
    return in_time(recipe, net(), DATA, LOSS, seed=0, description="test")


def test_what_the_time_holds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine steps an epoch, 100 epochs, two seconds a step: 1,800 seconds."""
    recipe = replace(RECIPE, epochs=100, schedule=cosine)
    assert planned(recipe, monkeypatch, step_s=2.0) == recipe  # without a budget nothing is timed
    whole = replace(recipe, max_s=1800.0)
    assert planned(whole, monkeypatch, step_s=2.0) == whole
    quarter = planned(replace(recipe, max_s=450.0), monkeypatch, step_s=2.0)
    assert quarter.epochs == 25
    assert quarter.learning_rate == pytest.approx(recipe.learning_rate / 2)
    little = planned(replace(recipe, max_s=1.8), monkeypatch, step_s=2.0)
    assert little.epochs == 1
    assert little.learning_rate == pytest.approx(recipe.learning_rate * 0.1**1.5)


def test_timing_steps_changes_nothing() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert seconds_a_step(model, DATA, LOSS, RECIPE, seed=0) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())

"""Orthogonalised momentum: its steps by hand, which weights take them, and trainings with it that repeat and go on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bars_for_tests import DATA, INFO, bars
from hypothesis import given
from hypothesis import strategies as st
from judging_for_tests import accuracy
from models_for_tests import same_state
from torch import Tensor, nn

from autoprune.compute.kernels.muon import MuonSGD, hidden_convolutions, orthogonalised
from autoprune.config import AugmentConfig
from autoprune.models import ModelSpec, build_model
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.training.scores import Judge
from autoprune.training.train import EpochLog, FitRecipe, Training, cosine, fit, labelled_loss

SCORE = Judge(DATA.search, INFO)
RECIPE = FitRecipe(
    epochs=3,
    batch_size=32,
    learning_rate=0.05,
    weight_decay=5e-4,
    ema_decay=0.9,
    schedule=cosine,
    augmentation=AugmentConfig(crop_padding=1),
    muon_step=0.02,
)


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_singular_values_come_near_one_and_vectors_stay(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    least = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, least, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, least, generator=generator)).Q
    values = torch.logspace(0.0, -1.3, least)
    turned = orthogonalised(1e-3 * left @ values.diag() @ right.T)
    seen = left.T @ turned @ right
    assert turned.shape == (rows, columns)
    assert seen.diagonal().min() > 0.65
    assert seen.diagonal().max() < 1.15
    assert (seen - seen.diagonal().diag()).abs().max() < 1e-3


def test_nothing_to_orthogonalise_is_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def stepped(weight: nn.Parameter, gradients: list[list[float]]) -> Tensor:
    group = {"params": [weight], "lr": 0.1, "muon": True}
    optimizer = MuonSGD([group], lr=1.0, momentum=0.9, nesterov=True)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient).view_as(weight)
        optimizer.step()
    return weight.detach().flatten()


def test_steps_by_hand() -> None:
    """One output channel: a matrix of one row, whose singular vector is the row itself."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2))
    # A tenth of the norm of 5, however long the gradient is.
    torch.testing.assert_close(stepped(weight, [[0, 0, 0, 200.0]]), torch.tensor([3.0, 4.0, 0.0, -0.5]))

    weight = nn.Parameter(torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2))
    # Momentum (0, 1, 0, 0.9 * 2), gradient ahead (0, 1, 0, 0) + 0.9 * (0, 1, 0, 1.8) = (0, 1.9, 0, 1.62).
    norm, length = math.hypot(3.0, 4.0, 0.5), math.hypot(1.9, 1.62)
    by_hand = [3.0, 4.0 - 0.1 * norm * 1.9 / length, 0.0, -0.5 - 0.1 * norm * 1.62 / length]
    torch.testing.assert_close(stepped(weight, [[0, 0, 0, 2.0], [0, 1.0, 0, 0]]), torch.tensor(by_hand))


def test_a_step_does_not_depend_on_the_scale_of_the_gradient() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    once, twice = (stepped(nn.Parameter(start.clone()), [(factor * gradient).tolist()]) for factor in (1.0, 64.0))
    torch.testing.assert_close(once, twice)
    assert (once - start.flatten()).norm() / start.norm() == pytest.approx(0.1, rel=1e-4)


def test_other_groups_are_those_of_sgd() -> None:
    torch.manual_seed(0)
    start, ours = torch.randn(5), list[Tensor]()
    for optimizer_class, extra in ((torch.optim.SGD, {}), (MuonSGD, {"muon": False})):
        weight = nn.Parameter(start.clone())
        group = {"params": [weight], "weight_decay": 0.1, **extra}
        optimizer = optimizer_class([group], lr=0.1, momentum=0.9, nesterov=True)
        for _ in range(3):
            weight.grad = weight.detach().square()
            optimizer.step()
        ours.append(weight.detach())
    assert torch.equal(*ours)


def test_a_training_that_sgd_began_goes_on() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    before = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    before.step()
    after = MuonSGD([{"params": [weight], "muon": False}], lr=0.1, momentum=0.9)
    after.load_state_dict(before.state_dict())
    after.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1.0 - 0.1 - 0.1 * 1.9))


def test_which_weights_are_turned() -> None:
    resnet = hidden_convolutions(build_model(ModelSpec("resnet20", 10, 3, 0.5)), 3)
    assert len(resnet) == 20  # 19 of 3x3 and 2 of 1x1, but for the first
    assert "conv1.weight" not in resnet
    mobilenet = build_model(ModelSpec("mobilenet_v2", 10, 3, 0.25))
    pointwise = hidden_convolutions(mobilenet, 3)
    assert pointwise
    for name in pointwise:
        assert mobilenet.get_parameter(name).shape[1] > 3  # a depthwise one has 1 here


class Interrupted(Exception):
    pass


def trained(
    recipe: FitRecipe = RECIPE, *, state_path: Path | None = None, stop_after: int | None = None
) -> tuple[nn.Module, list[EpochLog]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 3),
    )
    logs: list[EpochLog] = []

    def note(log: EpochLog) -> None:
        logs.append(log)
        if log.epoch == stop_after:
            raise Interrupted

    training = Training(model, DATA, labelled_loss(CLASSIFICATION), SCORE, 0, "test")
    best = fit(training, recipe, state_path=state_path, on_epoch=note)
    assert accuracy(best, bars(300, 2), INFO) > 0.95
    return best, logs


def test_it_learns_and_repeats_bit_for_bit() -> None:
    (first, logs), (second, again) = trained(), trained()
    assert same_state(first, second)
    assert logs == again
    assert not same_state(first, trained(replace(RECIPE, muon_step=0.0))[0])


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, logs = trained()
    with pytest.raises(Interrupted):
        trained(state_path=tmp_path / "state.pt", stop_after=2)
    resumed, all_logs = trained(state_path=tmp_path / "state.pt")
    assert same_state(resumed, whole)
    assert all_logs == logs

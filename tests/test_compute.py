"""Which arithmetic and which kernels networks run with."""

import pytest
import torch
from bars_for_tests import DATA
from models_for_tests import same_state
from torch import nn

from autoprune.compute.compute import Compute, this_compute
from autoprune.compute.kernels.memory_format import laid_out
from autoprune.config import AugmentConfig, TrainConfig
from autoprune.training.train import train_baseline

CPU = torch.device("cpu")
CONFIG = TrainConfig(epochs=1, batch_size=32, learning_rate=0.05, augment=AugmentConfig(crop_padding=0))


def net() -> nn.Module:
    """A BatchNorm of three channels, which fill no register, and a strided 1x1 convolution of as many."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 1, 2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


def test_this_machine_is_its_cpu() -> None:
    found = this_compute()
    assert found.device == CPU
    assert found.own_kernels
    assert not this_compute(own_kernels=False).own_kernels


@pytest.mark.parametrize("fast_bf16", [False, True])
def test_arithmetic_is_bfloat16_where_that_is_fast(fast_bf16: bool) -> None:
    with Compute(CPU, fast_bf16).fast_arithmetic():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast_bf16 else torch.float32)
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("own_kernels", [False, True])
def test_nothing_is_patched_in_unless_it_may_be(own_kernels: bool) -> None:
    model, compute = laid_out(net()), Compute(CPU, fast_bf16=False, own_kernels=own_kernels)
    with compute.prepared_for_training(model):
        patched = [index for index, module in enumerate(model) if "forward" in vars(module)]  # type: ignore[arg-type]
    assert patched == ([1, 3] if own_kernels else [])
    with compute.prepared_for_calibration(model):
        patched = [index for index, module in enumerate(model) if "forward" in vars(module)]  # type: ignore[arg-type]
    assert patched == ([1] if own_kernels else [])
    assert not any("forward" in vars(module) for module in model.modules())


def test_training_with_own_kernels_and_with_pytorchs_comes_to_the_same_but_for_rounding() -> None:
    trained = [
        train_baseline(net(), DATA, CONFIG, seed=0, compute=Compute(CPU, fast_bf16=False, own_kernels=own))
        for own in (True, False)
    ]
    assert not same_state(trained[0], net())
    for ours, theirs in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)

"""The training kernel must be PyTorch's BatchNorm in all but speed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.compute.kernels.fast_batchnorm import VECTOR_CHANNELS, fast_batchnorm


def norm(channels: int, seed: int) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    module = nn.BatchNorm2d(channels)
    nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(module.bias)
    return module


def step(module: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(gradient)
    assert x.grad is not None
    return y.detach(), x.grad


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 40).filter(lambda count: count % VECTOR_CHANNELS),
    images=st.integers(2, 5),
    size=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_outputs_gradients_and_statistics_are_pytorchs(channels: int, images: int, size: int, seed: int) -> None:
    theirs = norm(channels, seed)
    ours = copy.deepcopy(theirs)
    x = torch.randn(images, channels, size, size) * 2 + 1
    gradient = torch.randn_like(x)
    expected_y, expected_gradient = step(theirs, x, gradient)
    with fast_batchnorm(ours):
        y, x_gradient = step(ours, x, gradient)
    torch.testing.assert_close(y, expected_y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x_gradient, expected_gradient, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-5)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 1


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_an_activation_may_change_the_output_in_place(activation: type[nn.ReLU] | type[nn.ReLU6]) -> None:
    """As in VGG and MobileNet."""
    theirs = nn.Sequential(norm(6, 0), activation())
    ours = nn.Sequential(copy.deepcopy(theirs[0]), activation(inplace=True))
    x, gradient = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    expected_y, expected_gradient = step(theirs, x, gradient)
    with fast_batchnorm(ours):
        y, x_gradient = step(ours, x, gradient)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(x_gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_by_hand() -> None:
    # One channel, values 1 and 3: mean 2, biased variance 1, so the outputs are -1 and 1 (eps 0).
    module = nn.BatchNorm2d(1, eps=0.0)
    x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    with fast_batchnorm(module):
        assert module(x).flatten().tolist() == [-1.0, 1.0]
    assert module.running_mean is not None and module.running_var is not None
    assert module.running_mean.item() == pytest.approx(0.2)  # 0.9 * 0 + 0.1 * 2
    assert module.running_var.item() == pytest.approx(0.9 + 0.1 * 2.0)  # the running average takes the unbiased one


def test_evaluation_uses_the_running_statistics() -> None:
    module = norm(6, 0).eval()
    x = torch.randn(2, 6, 4, 4)
    expected = module(x)
    with fast_batchnorm(module):
        assert torch.equal(module(x), expected)


def test_only_odd_widths_are_patched_and_only_for_the_block() -> None:
    net = nn.Sequential(nn.BatchNorm2d(6), nn.BatchNorm2d(VECTOR_CHANNELS), nn.BatchNorm2d(6, affine=False))
    with fast_batchnorm(net):
        assert ["forward" in vars(module) for module in net] == [True, False, False]
    assert not any("forward" in vars(module) for module in net)


def test_bfloat16_stays_close() -> None:
    theirs = norm(10, 1)
    ours = copy.deepcopy(theirs)
    x = (torch.randn(8, 10, 6, 6) * 2 + 1).bfloat16()
    gradient = torch.randn_like(x)
    with torch.autocast("cpu", torch.bfloat16):
        expected_y, expected_gradient = step(theirs, x, gradient)
        with fast_batchnorm(ours):
            y, x_gradient = step(ours, x, gradient)
    assert y.dtype == x_gradient.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected_y, rtol=0.03, atol=0.03)
    torch.testing.assert_close(x_gradient, expected_gradient, rtol=0.03, atol=0.05)

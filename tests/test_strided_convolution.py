"""The same numbers as PyTorch's own strided convolution, forward and backward, in the layout that it is safe in."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from autoprune.compute.kernels.strided_convolution import safe_strided_convolutions

TRAIN = """
import torch
from torch import nn
from autoprune.compute.kernels.strided_convolution import safe_strided_convolutions
layer = nn.Conv2d(4, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)
kept = []
with safe_strided_convolutions(layer):
    for _ in range(400):
        x = torch.randn(32, 4, 28, 28).to(memory_format=torch.channels_last).requires_grad_(True)
        layer(x).sum().backward()
        kept = [*kept[-4:], [torch.randn(37) for _ in range(20)]]
print("alive")
"""


@pytest.mark.parametrize(("stride", "size"), [((2, 2), (8, 8)), ((2, 1), (7, 5)), ((3, 2), (9, 7))])
@pytest.mark.parametrize("bias", [False, True])
def test_numbers_are_those_of_pytorch(stride: tuple[int, int], size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 1, stride, bias=bias)
    x = torch.randn(2, 3, *size, requires_grad=True)
    expected = layer(x)
    expected_gradients = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    with safe_strided_convolutions(layer):
        found = layer(x)
        gradients = torch.autograd.grad(found.square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_strided_pointwise_convolutions_change_and_only_for_a_while() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 2, 1, 2), nn.Conv2d(2, 2, 1, 2, 1))
    with safe_strided_convolutions(model):
        assert ["forward" in vars(layer) for layer in model] == [False, False, True, False]
    assert not any("forward" in vars(layer) for layer in model)


def test_training_in_channels_last_survives() -> None:
    """Without the module this process dies of a corrupted heap on a CPU with AVX2 alone."""
    ended = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr

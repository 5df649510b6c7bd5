"""Training 1x1 convolutions with a stride without the kernel that writes past its buffer.

On CPUs without AVX-512, oneDNN's backward pass of such a convolution (as in the shortcuts of ResNets) corrupts the heap
when the input is channels-last and has fewer than 8 channels: seen with PyTorch 2.13.0, and pruned networks have such
widths. Taking every second pixel first and convolving those gives the same numbers.
"""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.compute.kernels.replaced_forward import replaced_forward


def safe_strided_convolutions(model: nn.Module) -> AbstractContextManager[None]:
    """Let the strided 1x1 convolutions of `model` skip pixels before they multiply, while the block runs."""
    return replaced_forward(model, _is_strided_pointwise, _forward)


def _is_strided_pointwise(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:
        return False
    return module.kernel_size == (1, 1) and module.padding in ((0, 0), "valid") and module.stride != (1, 1)


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    rows, columns = self.stride
    kept = x[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)
    return F.conv2d(kept, self.weight, self.bias, groups=self.groups)

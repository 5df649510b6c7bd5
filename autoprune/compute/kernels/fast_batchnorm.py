"""BatchNorm for training on CPUs, for channels-last images of few channels.

PyTorch's own kernel runs over the channels of each pixel; where they do not fill a vector register, as in a pruned
network, it takes most of a training step. Here an image is one long row of height x width x channels values, so that
every pass runs over contiguous memory; the statistics and the gradient are those of Ioffe & Szegedy 2015.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute.kernels.replaced_forward import replaced_forward

# PyTorch's kernel is the faster one for multiples of this, what a vector register holds (measured: AVX-512, float32 and
# bfloat16; AVX2, float32).
VECTOR_CHANNELS = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


class _BatchNorm(torch.autograd.Function):
    """(x (N, C, H, W) channels-last, weight (C,), bias (C,), eps) to (y, mean (C,), biased variance (C,)).

    y is (N, C, H, W) channels-last and no view of another tensor: an activation that changes a view in place would cost
    six more passes in the backward computation, one of them out of order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x)
        count = x.numel() // x.shape[1]
        pixels = x.shape[2] * x.shape[3]
        mean = _channel_sums(rows, x.shape[1]) / count
        variance = (_channel_sums(rows * rows, x.shape[1]) / count - mean.square()).clamp_(min=0.0)
        inverse_std = (variance + eps).rsqrt()
        scale = weight * inverse_std
        shift = bias - mean * scale
        y = torch.empty_like(x)
        torch.addcmul(shift.to(x.dtype).repeat(pixels), rows, scale.to(x.dtype).repeat(pixels), out=_rows(y))
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        rows, gradient_rows = _rows(x), _rows(gradients[0].contiguous(memory_format=torch.channels_last))
        count = x.numel() // x.shape[1]
        pixels = x.shape[2] * x.shape[3]
        bias_gradient = _channel_sums(gradient_rows, x.shape[1])
        products = _channel_sums(gradient_rows * rows, x.shape[1])
        weight_gradient = (products - mean * bias_gradient) * inverse_std
        # dx = scale * (dy - mean(dy) - normalised x * mean(dy * normalised x)), collected as a * dy + b * x + c
        scale = weight * inverse_std
        slope = -scale * inverse_std * weight_gradient / count
        constant = -scale * bias_gradient / count - slope * mean
        dtype = x.dtype
        x_gradient = torch.addcmul(constant.to(dtype).repeat(pixels), rows, slope.to(dtype).repeat(pixels))
        x_gradient.addcmul_(gradient_rows, scale.to(dtype).repeat(pixels))
        return _images(x_gradient, x.shape), weight_gradient, bias_gradient, None


def fast_batchnorm(model: nn.Module) -> AbstractContextManager[None]:
    """Let the BatchNorms of `model` whose channels do not fill vector registers train by the kernel of this module."""
    return replaced_forward(model, _gains, _forward)


def _gains(module: nn.Module) -> bool:
    if type(module) is not nn.BatchNorm2d or module.num_features % VECTOR_CHANNELS == 0:
        return False
    return module.affine and module.track_running_stats and module.momentum is not None


def _forward(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if not self.training:
        return nn.BatchNorm2d.forward(self, x)
    assert self.running_mean is not None and self.running_var is not None
    assert self.num_batches_tracked is not None and self.momentum is not None
    x = x.contiguous(memory_format=torch.channels_last)
    y: Tensor
    y, mean, variance = _BatchNorm.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        self.num_batches_tracked.add_(1)
    return y


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) channels-last as (N, H * W * C), without a copy."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


def _images(rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_rows`."""
    return rows.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)


def _channel_sums(rows: Tensor, channels: int) -> Tensor:
    """Sums over images and pixels: (N, H * W * C) to (C,), float32.

    The sum over images adds up in float32 but is rounded to the type of `rows`: asking for float32 would copy all of
    `rows` first, which takes eight times as long. Rounding errors of that many pixels even out.
    """
    return rows.sum(0).view(-1, channels).sum(0, dtype=torch.float32)

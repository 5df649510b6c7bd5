"""Where networks run: the device, its arithmetic, and which kernels they train with, chosen in this one place."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from autoprune.compute.kernels.fast_batchnorm import fast_batchnorm
from autoprune.compute.kernels.strided_convolution import safe_strided_convolutions


@dataclass(frozen=True)
class Compute:
    """A device and the way it is used. `own_kernels`: whether networks may run by kernels of this package."""

    device: torch.device
    fast_bf16: bool  # it computes in bfloat16 itself; elsewhere autocast would only slow it down
    own_kernels: bool = True

    def fast_arithmetic(self) -> AbstractContextManager[object]:
        """Within the block, bfloat16 where that is faster."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast_bf16)

    @contextlib.contextmanager
    def prepared_for_training(self, model: nn.Module) -> Iterator[None]:
        """Within the block `model` trains by the fastest kernels that there are for it."""
        with self.prepared_for_calibration(model), self._strided_convolutions(model):
            yield

    def prepared_for_calibration(self, model: nn.Module) -> AbstractContextManager[None]:
        """The same for BatchNorms alone, whose statistics are taken."""
        return fast_batchnorm(model) if self.own_kernels else contextlib.nullcontext()

    def _strided_convolutions(self, model: nn.Module) -> AbstractContextManager[None]:
        return safe_strided_convolutions(model) if self.own_kernels else contextlib.nullcontext()


def this_compute(*, own_kernels: bool = True) -> Compute:
    """This machine's: its CPU."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None) or getattr(
        torch.cpu, "_is_amx_tile_supported", None
    )
    return Compute(torch.device("cpu"), bool(supported and supported()), own_kernels)


HERE = this_compute()

"""Where networks run: the device, its arithmetic, and which kernels they train with, chosen in this one place."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from autoprune.compute.kernels.fast_batchnorm import fast_batchnorm
from autoprune.compute.kernels.strided_convolution import safe_strided_convolutions

# Each patches what it can do better in a network, for as long as a block runs.
Kernel = Callable[[nn.Module], AbstractContextManager[None]]
# By type of device: of training, and of taking BatchNorm's statistics, which has no backward pass.
TRAINING: Mapping[str, Sequence[Kernel]] = {"cpu": (fast_batchnorm, safe_strided_convolutions)}
CALIBRATION: Mapping[str, Sequence[Kernel]] = {"cpu": (fast_batchnorm,)}


@dataclass(frozen=True)
class Compute:
    """A device and the way it is used. `own_kernels`: whether networks may run by kernels of this package."""

    device: torch.device
    fast_bf16: bool  # it computes in bfloat16 itself; elsewhere autocast would only slow it down
    own_kernels: bool = True

    def fast_arithmetic(self) -> AbstractContextManager[object]:
        """Within the block, bfloat16 where that is faster."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast_bf16)

    def prepared_for_training(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within the block `model` trains by the best kernels that there are for it."""
        return self._patched(model, TRAINING)

    def prepared_for_calibration(self, model: nn.Module) -> AbstractContextManager[None]:
        """The same where its BatchNorms take their statistics."""
        return self._patched(model, CALIBRATION)

    @contextlib.contextmanager
    def _patched(self, model: nn.Module, kernels: Mapping[str, Sequence[Kernel]]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for kernel in kernels.get(self.device.type, ()) if self.own_kernels else ():
                stack.enter_context(kernel(model))
            yield


def this_compute(*, own_kernels: bool = True) -> Compute:
    """This machine's: its CPU."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None) or getattr(
        torch.cpu, "_is_amx_tile_supported", None
    )
    return Compute(torch.device("cpu"), bool(supported and supported()), own_kernels)


HERE = this_compute()

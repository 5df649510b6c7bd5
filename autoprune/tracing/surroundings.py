"""How PyTorch has to be set while a forward pass is followed, so that all that happens is seen."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Recurrent and attention layers as the products that they consist of, not as one kernel each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings for other machines that the context touches
            with torch.backends.mkldnn.flags(enabled=False) if is_recurrent else contextlib.nullcontext():
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def no_validation() -> Iterator[None]:
    """Distributions as they are: to check their arguments is no choice by value."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)

"""What holds for the whole process while a command works."""

import contextlib
import warnings
from collections.abc import Iterator

from autoprune.foundation import progress
from autoprune.foundation.scratch import scratch_for_all


@contextlib.contextmanager
def process_of_a_job(quiet: bool) -> Iterator[None]:
    """Progress is shown unless it is to be `quiet`, scratch folders go with the block, and arithmetic is quick."""
    import torch

    progress.show(not quiet)
    torch.set_flush_denormal(True)  # subnormal weights would slow training and scoring
    with warnings.catch_warnings(), scratch_for_all():
        warnings.filterwarnings("ignore", category=UserWarning, module="stable_baselines3")
        yield

"""How exported files are timed in turn, and when a latency target is met: one definition for a run's last measurement,
its page, and what its search selects.

It is met if the median call (p50) of the exported file, timed in turn with the original's, takes no longer than the
target allows. What is selected has to meet it with `HEADROOM`, and undisturbed too: a neighbour on the machine may be
gone, or have come, when its file is measured for the last time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.config import MeasureConfig, TargetConfig
from autoprune.data import DataInfo, ImageSplit, normalise
from autoprune.measure.latency import Latency, measure_interleaved
from autoprune.runtimes.find import find_runtime

HEADROOM = 0.01  # share of the allowed latency: about how far two measurements of one file lie apart


def timed_images(split: ImageSplit, info: DataInfo, config: MeasureConfig) -> np.ndarray[Any, Any]:
    """The batch (N, C, H, W) that files are timed on: the first images of `split`, normalised, over and over if there
    are too few."""
    places = torch.arange(config.batch_size) % len(split)
    return normalise(split.images[places], info).contiguous().numpy()


def timed_together(files: Sequence[Path], images: np.ndarray[Any, Any], config: MeasureConfig) -> list[Latency]:
    """All files on the same images (N, C, H, W), in turn."""
    return measure_interleaved(
        files,
        images,
        runtime=find_runtime(config.runtime),
        threads=config.threads,
        rounds=config.rounds,
        runs_per_round=config.runs_per_round,
    )


def latency_targets(targets: Sequence[TargetConfig]) -> list[TargetConfig]:
    """Those that bound the latency themselves; a `max_drop` is no bound."""
    return [target for target in targets if target.metric == "latency" and target.max_drop is None]


def median_share(candidate: Latency, original: Latency, targets: Sequence[TargetConfig]) -> float:
    """The median call, divided by what the strictest of `targets` allows: at most 1 where they are met."""
    return _share(candidate.latency_ms_p50, original.latency_ms_p50, targets)


def share_of_allowed(
    candidate: Latency, original: Latency, targets: Sequence[TargetConfig], *, original_at_most_ms: float
) -> float:
    """`median_share`, or that of the undisturbed calls, if it is larger: on a busy machine the two can differ.

    Where neighbours push a large original's weights out of a cache that they share, even its undisturbed calls take
    longer, and those of its cuts do not: no more than `original_at_most_ms` of them counts.
    """
    return max(
        median_share(candidate, original, targets),
        _share(candidate.latency_ms_quiet, min(original.latency_ms_quiet, original_at_most_ms), targets),
    )


def _share(candidate_ms: float, original_ms: float, targets: Sequence[TargetConfig]) -> float:
    return candidate_ms / min(target.bound(original_ms) for target in targets)

"""Whole models: random cuts, exported, loaded and timed, by which predictions are corrected and judged."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autoprune.compute.memory import free_bytes
from autoprune.config import MeasureConfig
from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.progress import bar
from autoprune.foundation.scratch import scratch_folder
from autoprune.foundation.seeding import rng
from autoprune.measure.timing import Call, time_until_quiet
from autoprune.prediction.layer_bench import BYTES_PER_WEIGHT
from autoprune.prediction.staircase import Ladders
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.runtimes.find import find_runtime
from autoprune.space.policy import PruningPolicy

# Random cuts measured whole, beside the original and the smallest, to correct the sum of the layers, and how often each
# is loaded: one load may run faster than the next for as long as it lives, by where its memory happens to lie. With
# more weights, what stays in the caches has to be found out too, from more of them. Loads tell more than models: on a
# shared machine a VGG's 28 cuts, loaded three times, predict others to 2.7% in the median, 80 cuts loaded once to 4.5%.
LOADS = 3
BY_WEIGHT_BYTES = ((0.0, 12), (10e6, 28))  # from so many bytes on: models
# Weights of models that are loaded together and timed in turn: what others leave of a shared cache drifts within
# seconds, and only models that were timed in turn all the while saw the same of it. A session takes twice its weights.
LOADED_BYTES, LOADED_SHARE = 5e8, 0.15  # at least so many, and as a share of the free memory
SECONDS_A_LOAD = 0.8  # of a model, at most, on a machine that is never quiet


def whole_models(shapes: CutShapes, ladders: Ladders) -> list[PruningPolicy]:
    """What predictions are corrected by: the original, the smallest and some random cuts."""
    smallest = PruningPolicy.of({name: widths[0] for name, widths in ladders.items()})
    full = shapes.elastic.full_policy
    weights = weight_bytes(shapes, full)
    models = max(models for least, models in BY_WEIGHT_BYTES if weights >= least)
    return [full, smallest, *random_policies(ladders, models, purpose="whole models")]


def random_policies(ladders: Ladders, count: int, *, purpose: str, seed: int = 0) -> list[PruningPolicy]:
    """A rung for each group, drawn evenly."""
    generator = rng(seed, purpose)
    return [
        PruningPolicy.of({name: int(generator.choice(widths)) for name, widths in ladders.items()})
        for _ in range(count)
    ]


def measure_cuts(
    shapes: CutShapes, policies: Sequence[PruningPolicy], info: DataInfo, measure: MeasureConfig
) -> list[float]:
    """Export each cut and time the files in turn: milliseconds of an undisturbed call, mean over several loads.

    Not all fit into memory at once; which ones are loaded together changes with each load.
    """
    loads_ms = np.empty((LOADS, len(policies)))
    order = rng(0, "whole models in turn")
    with exported_cuts(shapes.elastic, policies, info) as files, bar("whole models", LOADS * len(policies)) as progress:
        for load_ms in loads_ms:
            for part in _loaded_together(policies, shapes, order.permutation(len(policies)).tolist()):
                calls = [black_images_call(files[index], info, measure) for index in part]
                times = time_until_quiet(calls, limit_s=SECONDS_A_LOAD * len(part))
                load_ms[part] = [time.quiet_ms for time in times]
                progress.advance(len(part))
    return [float(value) for value in loads_ms.mean(0)]


@contextlib.contextmanager
def exported_cuts(elastic: ElasticModel, policies: Sequence[PruningPolicy], info: DataInfo) -> Iterator[list[Path]]:
    """The ONNX files of some cuts, while the block runs."""
    with scratch_folder() as folder:
        files = [folder / f"{index}.onnx" for index in range(len(policies))]
        with bar("exporting cuts", len(policies)) as progress:
            for file, policy in zip(files, policies, strict=True):
                export_onnx(elastic.cut(policy), file, info)
                progress.advance()
        yield files


def black_images_call(file: Path, info: DataInfo, measure: MeasureConfig) -> Call:
    """Load `file`: a call that runs it on a batch of black images."""
    images = np.zeros((measure.batch_size, *info.input_shape), dtype=np.float32)
    return find_runtime(measure.runtime).open_model(file, threads=measure.threads).bind(images)


def weight_bytes(shapes: CutShapes, policy: PruningPolicy) -> int:
    return shapes.cost(policy).params * BYTES_PER_WEIGHT


def _loaded_together(policies: Sequence[PruningPolicy], shapes: CutShapes, order: Sequence[int]) -> list[list[int]]:
    """The numbers of `policies` in `order`, split so that no part has more weights than may be loaded together, unless
    it is one model."""
    parts: list[list[int]] = [[]]
    loaded, most = 0, max(LOADED_BYTES, LOADED_SHARE * (free_bytes() or 0))
    for index in order:
        size = weight_bytes(shapes, policies[index])
        if parts[-1] and loaded + size > most:
            parts.append([])
            loaded = 0
        parts[-1].append(index)
        loaded += size
    return parts

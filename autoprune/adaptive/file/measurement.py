"""An adaptive file on real images, one at a time as a service gets them, in turn with the original's file."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.adaptive.figures.schema import RouterName
from autoprune.adaptive.file.export import LEVEL_NAME, PricedRouter, export_adaptive
from autoprune.data import DataInfo, ImageSplit, normalise
from autoprune.errors import AutopruneError, InputError
from autoprune.export.onnx_file import INPUT_NAME, ONNX_RUNTIME, OUTPUT_NAME
from autoprune.foundation.progress import bar
from autoprune.foundation.scratch import scratch_folder
from autoprune.runtimes.onnxruntime import OnnxRuntime, make_session
from autoprune.runtimes.runtime import Runtime

WARM_UP_IMAGES = 50
REPEATS = 3  # of each call, of which the median counts: one call may be interrupted
CHUNK = 500
DECISION_IMAGES = 300


@dataclass(frozen=True)
class ImageTimes:
    """What a file did to N images."""

    logits: NDArray[np.float32]  # (N, classes)
    levels: NDArray[np.int64]  # (N,) the level that answered; 0 in a file without levels
    latency_ms: NDArray[np.float64]  # (N,) of the call for that image, the median of its repeats

    @property
    def answers(self) -> NDArray[np.int64]:
        """(N,) the class."""
        return np.asarray(self.logits.argmax(1))

    @property
    def latency_ms_mean(self) -> float:
        return float(self.latency_ms.mean())

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        return float((self.answers == labels).mean())


def measure_by_image(
    files: Sequence[Path], split: ImageSplit, info: DataInfo, *, threads: int, runtime: Runtime = ONNX_RUNTIME
) -> list[ImageTimes]:
    """Run every image of `split` alone through each file in turn, so that slow spells fall on all files alike. Files
    with levels need ONNX Runtime.

    Raises `InputError` naming the file that does not run on an image, or answers NaN or infinity.
    """
    runs = [running(file, runtime, threads=threads) for file in files]
    count = len(split)
    logits = np.zeros((len(files), count, len(info.classes)), dtype=np.float32)
    levels = np.zeros((len(files), count), dtype=np.int64)
    latency_ms = np.zeros((len(files), count))
    number = 0  # of the file that runs
    try:
        with bar("image by image", count) as progress:
            for start in range(0, count, CHUNK):
                images = normalise(split.images[start : start + CHUNK], info).contiguous().numpy()
                for place in range(WARM_UP_IMAGES if start == 0 else 0):
                    for number, run in enumerate(runs):  # noqa: B007
                        run(images[place % len(images)][None])
                for place, image in enumerate(images, start):
                    for number, run in enumerate(runs):
                        times = []
                        for _ in range(REPEATS):
                            started = time.perf_counter()
                            found = run(image[None])
                            times.append(time.perf_counter() - started)
                        latency_ms[number, place] = 1000 * float(np.median(times))
                        logits[number, place] = found[0][0]
                        if len(found) > 1:
                            levels[number, place] = int(found[1][0])
                _check_finite(files, logits[:, start : start + len(images)], start)
                progress.advance(len(images))
    except AutopruneError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise InputError(f"{files[number]}: does not run on the images of {info.name} ({error})") from None
    return [
        ImageTimes(one_logits, one_levels, one_ms)
        for one_logits, one_levels, one_ms in zip(logits, levels, latency_ms, strict=True)
    ]


def running(file: Path, runtime: Runtime, *, threads: int) -> Callable[[NDArray[Any]], Sequence[NDArray[Any]]]:
    """From an image (1, C, H, W) to its logits and, of a file with levels, the level that answered."""
    if not isinstance(runtime, OnnxRuntime):
        loaded = runtime.open_model(file, threads=threads)
        return lambda image: (loaded(image),)
    session = make_session(file, threads=threads, provider=runtime.device)
    given = {value.name for value in session.get_outputs()}
    names = [name for name in (OUTPUT_NAME, LEVEL_NAME) if name in given]
    return lambda image: session.run(names, {INPUT_NAME: image})


def _check_finite(files: Sequence[Path], logits: NDArray[np.float32], first: int) -> None:
    wrong = np.argwhere(~np.isfinite(logits).all(2))  # (file, image)
    if len(wrong):
        number, place = wrong[0].tolist()
        raise InputError(f"{files[number]}: answers NaN or infinity to image {first + place}; export it again")


def measured_decision_ms(
    levels: Sequence[Path], routers: Sequence[PricedRouter], split: ImageSplit, info: DataInfo, *, threads: int
) -> dict[RouterName, float]:
    """What one decision costs: a file with the router beside the smallest level's, for images that it stops at.

    A median over the first images of `split`; 0 for a router that never stops.
    """
    shown = split.select(torch.arange(min(len(split), DECISION_IMAGES)))
    with scratch_folder() as folder:
        files = [folder / f"{number}.onnx" for number in range(len(routers))]
        for file, router in zip(files, routers, strict=True):
            export_adaptive(levels, router, file)
        smallest, *routed = measure_by_image([levels[0], *files], shown, info, threads=threads)
    found = {}
    for router, times in zip(routers, routed, strict=True):
        stopped = times.levels == 0
        more_ms = (times.latency_ms - smallest.latency_ms)[stopped]
        found[router.name] = max(0.0, float(np.median(more_ms))) if stopped.any() else 0.0
    return found

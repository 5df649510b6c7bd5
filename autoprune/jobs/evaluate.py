"""Exported files on labelled images, each image alone through all files in turn: accuracy and latency, and how both
compare with the first file's.

Random images, as `autoprune bench` has them, cannot tell what an input-adaptive file takes: that depends on the images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.adaptive.figures.figures import shares
from autoprune.adaptive.file.export import LEVEL_NAME, LEVELS_KEY
from autoprune.adaptive.file.measurement import ImageTimes, measure_by_image, running
from autoprune.adaptive.file.session_file import MOST_LEVELS
from autoprune.bench.measurement import unique_names
from autoprune.compute.memory import memory_limited
from autoprune.data import DataInfo, ImageSplit
from autoprune.errors import AutopruneError, InputError, cut
from autoprune.export.onnx_file import INPUT_NAME, MEAN_KEY, ONNX_RUNTIME, OUTPUT_NAME, STD_KEY
from autoprune.foundation.bounds import thread_count
from autoprune.foundation.seeding import rng
from autoprune.measure.device import Device, this_device
from autoprune.measure.matched import Interval, Right, change_of_accuracy
from autoprune.measure.stats import mean_ratio
from autoprune.runtimes.onnxruntime import OnnxRuntime, make_session
from autoprune.runtimes.runtime import Runtime
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.judging import main_metric

SCHEMA = 1
KIND = "evaluation"
SAME_PIXELS = 1e-4  # of a mean or standard deviation, which the files' metadata give to six digits


@dataclass(frozen=True)
class FileFigures:
    """One file; what compares it with the first file is None for that one."""

    name: str
    path: str
    accuracy: float
    accuracy_change: float | None
    accuracy_change_ci95: Interval | None
    latency_ms_mean: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_max: float
    latency_ratio: float | None  # of the mean latencies, to the first file's
    latency_ratio_ci95: Interval | None
    level_share: tuple[float, ...] | None  # of the images, by the level that answered; None: a file without levels
    file_bytes: int


@dataclass(frozen=True)
class Evaluation:
    data: str
    split: str
    images: int
    device: Device
    files: tuple[FileFigures, ...]

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "kind": KIND, **asdict(self)}


@dataclass(frozen=True)
class CheckedFile:
    """A file that can answer images of the data it was checked for."""

    source: str
    levels: int | None  # of an adaptive file


def check_files(sources: Sequence[str], info: DataInfo, *, runtime: Runtime = ONNX_RUNTIME) -> tuple[CheckedFile, ...]:
    """Raises `InputError` naming the first file that cannot answer images of `info` in `runtime`, and why."""
    checked = []
    for source in sources:
        if not Path(source).is_file():
            raise InputError(f"{source}: no such file")
        with memory_limited():
            session = make_session(Path(source), threads=1)  # which tells what is in a file
        inputs = {value.name: value.shape for value in session.get_inputs()}
        outputs = {value.name: value.shape for value in session.get_outputs()}
        if list(inputs) != [INPUT_NAME] or OUTPUT_NAME not in outputs:
            raise InputError(
                f"{source}: takes {', '.join(inputs)} and gives {', '.join(outputs)}; must take {INPUT_NAME} and give "
                f"{OUTPUT_NAME}, as the files in a run's export folder do"
            )
        if tuple(inputs[INPUT_NAME][1:]) != info.input_shape:
            raise InputError(
                f"{source}: takes images of {tuple(inputs[INPUT_NAME][1:])}, {info.name} has {info.input_shape}"
            )
        if (found := tuple(outputs[OUTPUT_NAME][1:])) != (info.num_classes,):
            raise InputError(f"{source}: gives {found} logits of an image, {info.name} has {info.num_classes} classes")
        known = session.get_modelmeta().custom_metadata_map
        for key, expected in ((MEAN_KEY, info.mean), (STD_KEY, info.std)):
            if key in known and not _same(known[key], expected):
                raise InputError(f"{source}: was exported for pixels of {key} {known[key]}, {info.name} has {expected}")
        levels = known.get(LEVELS_KEY)
        if levels is not None and not (_is_level_count(levels) and LEVEL_NAME in outputs):
            given = ", ".join(outputs)
            raise InputError(
                f"{source}: its metadata say it has {cut(levels)} levels, and it gives {given}; export it again"
            )
        if levels is not None and not isinstance(runtime, OnnxRuntime):
            raise InputError(f"{source}: an input-adaptive file needs ONNX Runtime; set measure.runtime=onnxruntime")
        file = CheckedFile(source, int(levels) if levels is not None else None)
        _try(file, runtime, info)
        checked.append(file)
    return tuple(checked)


def _try(file: CheckedFile, runtime: Runtime, info: DataInfo) -> None:
    """Once, on a black image: what cannot answer is refused before the images are read."""
    black = np.zeros((1, *info.input_shape), dtype=np.float32)
    try:
        with memory_limited():
            logits, *level = running(Path(file.source), runtime, threads=1)(black)
    except AutopruneError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise InputError(f"{file.source}: does not run on an image of {info.input_shape} ({error})") from None
    if not isinstance(logits, np.ndarray) or logits.shape != (1, info.num_classes) or logits.dtype.kind != "f":
        raise InputError(
            f"{file.source}: gives {getattr(logits, 'shape', '')} for an image, not (1, {info.num_classes})"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{file.source}: answers NaN or infinity to a black image")
    if file.levels is not None:
        _check_levels(file, np.asarray(level[0]))


def evaluate_files(
    files: Sequence[CheckedFile],
    images: ImageSplit,
    info: DataInfo,
    *,
    split: str,
    threads: int,
    runtime: Runtime = ONNX_RUNTIME,
) -> Evaluation:
    """Measure all `files`, as `check_files` gives them for `runtime`. Raises `InputError` for fewer than two images.

    The images run in an order by chance, always the same: in a folder all of a class lie together, and the blocks that
    an interval is made of would differ by their classes.
    """
    thread_count("measure.threads", threads)
    if len(images) < 2:
        raise InputError(f"{info.name}: its {split} split has {len(images)} images; two at least are needed")
    order = rng(0, "order of evaluation").permutation(len(images))
    images = images.select(torch.from_numpy(order))
    times = measure_by_image([Path(file.source) for file in files], images, info, threads=threads, runtime=runtime)
    for file, time in zip(files, times, strict=True):
        if file.levels is not None:
            _check_levels(file, time.levels)
    first = _right(times[0], images)
    figures = []
    for name, file, time in zip(unique_names([file.source for file in files]), files, times, strict=True):
        right, is_first = _right(time, images), time is times[0]
        change, change_ci95 = (None, None) if is_first else change_of_accuracy(first, right)
        ratio = None if is_first else mean_ratio(times[0].latency_ms, time.latency_ms)
        p50, p95 = np.percentile(time.latency_ms, [50, 95])
        figures.append(
            FileFigures(
                name=name,
                path=file.source,
                accuracy=float(right.mean()),
                accuracy_change=change,
                accuracy_change_ci95=change_ci95,
                latency_ms_mean=time.latency_ms_mean,
                latency_ms_p50=float(p50),
                latency_ms_p95=float(p95),
                latency_ms_max=float(time.latency_ms.max()),
                latency_ratio=ratio.ratio if ratio is not None else None,
                latency_ratio_ci95=ratio.ci95 if ratio is not None else None,
                level_share=shares(time.levels, levels=file.levels) if file.levels is not None else None,
                file_bytes=Path(file.source).stat().st_size,
            )
        )
    return Evaluation(
        data=info.name,
        split=split,
        images=len(images),
        device=this_device(runtime, threads=threads, batch_size=1),
        files=tuple(figures),
    )


def _right(times: ImageTimes, images: ImageSplit) -> Right:
    metric = main_metric(CLASSIFICATION, torch.from_numpy(times.logits), images.labels)[1]
    return np.asarray(metric.values.numpy(), dtype=np.bool_)


def _is_level_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_LEVELS


def _check_levels(file: CheckedFile, found: NDArray[np.int64]) -> None:
    assert file.levels is not None
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= file.levels:
        raise InputError(
            f"{file.source}: its metadata say it has {file.levels} levels, and one that answered is not of them "
            f"({found.min()} to {found.max()}); export it again"
        )


def _same(text: str, expected: Sequence[float]) -> bool:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return False
    return (
        len(found) == len(expected)
        and bool(np.isfinite(found).all())
        and bool(np.allclose(found, expected, rtol=0, atol=SAME_PIXELS))
    )

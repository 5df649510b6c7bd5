"""Pictures of the test images that an input-adaptive model finds easy and of those that it finds hard."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoprune.adaptive.figures.schema import Example
from autoprune.adaptive.file.measurement import ImageTimes
from autoprune.data import ImageSplit

MOST_EXAMPLES = 12
LARGEST_PIXELS = 128  # of a picture's longer side; larger images are made smaller


def write_examples(
    folder: Path, test: ImageSplit, times: ImageTimes, classes: Sequence[str]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(easy, hard): images that the smallest level answers, and that the largest one that answers any does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    largest = int(times.levels.max())
    easy = _examples("easy", 0, folder, test, times, classes)
    return easy, _examples("hard", largest, folder, test, times, classes) if largest else ()


def _examples(
    kind: str, level: int, folder: Path, test: ImageSplit, times: ImageTimes, classes: Sequence[str]
) -> tuple[Example, ...]:
    labels = test.labels.numpy()
    made = []
    for place in picked(labels, times.levels, level):
        picture = f"{kind}-{place}.png"
        _write_picture(folder / picture, test.images[place].numpy())
        made.append(
            Example(
                picture=picture,
                label=classes[labels[place]],
                answer=classes[times.answers[place]],
                level=level,
                latency_ms=float(times.latency_ms[place]),
            )
        )
    return tuple(made)


def picked(labels: NDArray[np.int64], levels: NDArray[np.int64], level: int) -> list[int]:
    """Images that `level` answers, at most `MOST_EXAMPLES`: the first of each class, then the second of each."""
    turns: dict[int, int] = {}  # images seen of each class
    order = []
    for place in np.flatnonzero(levels == level).tolist():
        label = int(labels[place])
        order.append((turns.get(label, 0), label, place))
        turns[label] = turns.get(label, 0) + 1
    return [place for _, _, place in sorted(order)[:MOST_EXAMPLES]]


def _write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """(C, H, W); grey for one channel, the first three as colours for more."""
    picture = Image.fromarray(pixels[0] if len(pixels) < 3 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    picture.thumbnail((LARGEST_PIXELS, LARGEST_PIXELS))
    picture.save(path, "PNG")

"""From what files did to every test image to the figures of `adaptive.json`."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.figures.schema import Agreement, ClassFigures, CurvePoint, RouteFigures
from autoprune.adaptive.file.measurement import ImageTimes
from autoprune.adaptive.routing.routing import RoutedFigures
from autoprune.measure.matched import Right, change_of_accuracy
from autoprune.results.run import StaticFigures
from autoprune.steps.final import Energy


def route_figures(times: ImageTimes, labels: NDArray[np.int64], energy: Energy) -> RouteFigures:
    """Accuracy, latencies over the images, and energy of an image."""
    p50, p95 = np.percentile(times.latency_ms, [50, 95])
    return RouteFigures(
        test_accuracy=times.accuracy(labels),
        latency_ms_mean=times.latency_ms_mean,
        latency_ms_p50=float(p50),
        latency_ms_p95=float(p95),
        latency_ms_max=float(times.latency_ms.max()),
        energy_mj=energy.mj,
        energy_source=energy.source,
        energy_sensor=energy.sensor,
    )


def class_figures(
    original: ImageTimes, adaptive: ImageTimes, labels: NDArray[np.int64], classes: Sequence[str], *, levels: int
) -> tuple[ClassFigures, ...]:
    """How each class fares, in the order of `classes`."""
    return tuple(
        ClassFigures(
            name=name,
            images=int(own.sum()),
            original_accuracy=float((original.answers[own] == label).mean()),
            adaptive_accuracy=float((adaptive.answers[own] == label).mean()),
            latency_ms_mean=float(adaptive.latency_ms[own].mean()),
            level_share=shares(adaptive.levels[own], levels=levels),
        )
        for label, name in enumerate(classes)
        if (own := labels == label).any()
    )


def shares(answered: NDArray[np.int64], *, levels: int) -> tuple[float, ...]:
    """The share of the images that each level answered."""
    return tuple((np.bincount(answered, minlength=levels) / len(answered)).tolist())


def static_at_equal_accuracy(figures: Mapping[str, RouteFigures], right: Mapping[str, Right]) -> StaticFigures:
    """The fastest file beside `adaptive` that is as accurate; the most accurate one, with its accuracy, if none is.

    One is as accurate if it is right as often, or the 95% interval of its change from the adaptive file, on the same
    test images (`right`), does not tell them apart.
    """
    static = {name: found for name, found in figures.items() if name != "adaptive"}
    equal = {
        name: found for name, found in static.items() if change_of_accuracy(right["adaptive"], right[name])[1][1] >= 0
    }
    name, found = (
        min(equal.items(), key=lambda item: item[1].latency_ms_mean)
        if equal
        else max(static.items(), key=lambda item: item[1].test_accuracy)
    )
    return StaticFigures(
        model=name,
        test_accuracy=found.test_accuracy,
        latency_ms_mean=found.latency_ms_mean,
        latency_ratio=figures["adaptive"].latency_ms_mean / found.latency_ms_mean,
    )


def agreement(adaptive: ImageTimes, expected: NDArray[np.float32]) -> Agreement:
    """Of a file with what the level that answered each image answers by itself, (N, classes) logits."""
    return Agreement(
        images=len(expected),
        different_answers=int((adaptive.answers != expected.argmax(1)).sum()),
        largest_logit_difference=float(np.abs(adaptive.logits - expected).max()),
    )


def curve_point(router: str, figures: RoutedFigures) -> CurvePoint:
    return CurvePoint(
        router=router,
        search_accuracy=figures.accuracy,
        estimated_latency_ms=figures.estimated_latency_ms,
        level_share=figures.level_share,
    )

"""Metrics with their intervals: of one model, and of two on the same images."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_975 = 1.959964

Interval = tuple[float, float]
Right = NDArray[np.bool_]
Values = NDArray[Any]  # of a metric, by image: right or wrong (bool), or a number


def interval_of(values: Values) -> Interval:
    """95% interval of the mean of `values` (N,)."""
    if values.dtype == np.bool_:
        return accuracy_interval(values)
    return _around(values)


def change_of(before: Values, after: Values) -> tuple[float, Interval]:
    """By how much the mean of `after` (N,) is above that of `before` (N,) of the same images, with a 95% interval."""
    if before.dtype == np.bool_:
        return change_of_accuracy(before, after)
    differences = after.astype(np.float64) - before
    return float(differences.mean()), _around(differences)


def _around(values: Values) -> Interval:
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - Z_975 * error, mean + Z_975 * error


def accuracy_interval(right: Right) -> Interval:
    """95% interval of the accuracy of answers (N,): Wilson's (1927), which stays within 0..1."""
    count, share = len(right), float(right.mean())
    middle = (share + Z_975**2 / (2 * count)) / (1 + Z_975**2 / count)
    half = Z_975 * math.sqrt(share * (1 - share) / count + Z_975**2 / (4 * count**2)) / (1 + Z_975**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def change_of_accuracy(before: Right, after: Right) -> tuple[float, Interval]:
    """By how much `after` (N,) is right more often than `before` (N,) of the same images, with a 95% interval.

    Only images that one of the two gets right and the other wrong tell them apart. The interval is Agresti and Min's
    (2005, "Simple improved confidence intervals for comparing matched proportions"), which adds half an image to each
    of the four cells and so has a width even if no answer differs.
    """
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    count = len(before) + 2
    middle = (gained - lost) / count
    half = Z_975 * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / count) / count
    return (gained - lost) / len(before), (middle - half, middle + half)

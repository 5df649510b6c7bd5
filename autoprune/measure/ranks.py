"""Whether two lists of figures agree on an order."""

from collections.abc import Sequence

import numpy as np

Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of the ranks; NaN where there is no order to agree on: one value, or all of them equal."""
    ours, theirs = np.array(first, dtype=float), np.array(second, dtype=float)
    if len(np.unique(ours)) < 2 or len(np.unique(theirs)) < 2:
        return float("nan")
    return float(np.corrcoef(_ranks(ours), _ranks(theirs))[0, 1])


def _ranks(values: Values) -> Values:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]

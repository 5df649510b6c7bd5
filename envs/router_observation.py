"""What a router sees of an input: the answer of the level that has just run, which level that is, the price of time.

All of it is a handful of operations in an ONNX graph too.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LARGEST = 3  # so many of the largest probabilities are seen in order: how sure an answer is, whatever its class
LEAST_LOG = -10.0  # nats; less likely classes are all alike


def answer_size(classes: int) -> int:
    """How many numbers describe an answer to one of so many classes."""
    return classes + min(LARGEST, classes)


def observation_size(classes: int, levels: int) -> int:
    return answer_size(classes) + levels + 1


def observe_answer(level: int, probabilities: Array, price_share: Array, *, levels: int) -> Array:
    """Observations `(n, observation_size)`, float32 in [0, 1], after `level` has run.

    The logarithms of the probabilities (n, classes), where 1 is certain and 0 is `LEAST_LOG`; the largest of them in
    falling order; which level ran (one-hot); the price of time (n,) as a share of its range.
    """
    count, classes = probabilities.shape
    certain = np.asarray(1.0 - np.log(np.maximum(probabilities, np.exp(LEAST_LOG))) / LEAST_LOG)
    largest = np.sort(certain, axis=1)[:, : -min(LARGEST, classes) - 1 : -1]
    ran = np.zeros((count, levels), dtype=np.float32)
    ran[:, level] = 1.0
    shares = np.reshape(price_share, (count, 1))
    seen = np.concatenate([certain, largest, ran, shares], axis=1)
    return np.asarray(seen.clip(0.0, 1.0), dtype=np.float32)


def price_of(share: Array, max_price: float) -> Array:
    """The price of time at each share of its range: finer where it is low, as few inputs are worth going on for."""
    return np.asarray(max_price * share**2)


def share_of(price: float, max_price: float) -> float:
    """The inverse of `price_of`."""
    return float(np.sqrt(min(max(price / max_price, 0.0), 1.0)))

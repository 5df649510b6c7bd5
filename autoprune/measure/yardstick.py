"""A fixed piece of arithmetic that no model or runtime takes part in: when it runs slower, the machine does."""

import numpy as np

from autoprune.measure.timing import Call

ELEMENTS = 16_384  # 64 KiB: fits into any core's own cache
PASSES = 20  # about 0.1 ms


def yardstick() -> Call:
    """One call takes the same time whenever the machine is in the same state."""
    numbers = np.linspace(0.5, 1.5, ELEMENTS, dtype=np.float32)
    result = np.empty_like(numbers)

    def run() -> object:
        for _ in range(PASSES):
            np.multiply(numbers, numbers, out=result)
            np.add(result, numbers, out=result)
        return result

    return run

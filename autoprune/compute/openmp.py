"""How PyTorch's threads wait for each other, set before PyTorch is imported.

GNU's OpenMP lets a thread that waits spin for milliseconds. With a neighbour on one of two cores the threads of one
operation then burn what the other needs: reading a ResNet-20 took 48 s instead of 2, and training is 1.4 times as fast
with short spins. Where nothing else runs they cost nothing (measured, both).
"""

import os

SPINS_NAME, SPINS = "GOMP_SPINCOUNT", "1000"
POLICY_NAME = "OMP_WAIT_POLICY"


def share_cores() -> None:
    """Let waiting threads give their core away, unless the user has said how they are to wait; processes that this one
    starts inherit it."""
    if POLICY_NAME not in os.environ:
        os.environ.setdefault(SPINS_NAME, SPINS)

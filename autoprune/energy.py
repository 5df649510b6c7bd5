"""Energy of one inference, estimated from operations and bytes; every figure from here is called estimated.

Constants: Horowitz 2014 (ISSCC, "Computing's energy problem", figure 1.1.9, 45 nm): a 32-bit floating multiply 3.7 pJ
and add 0.9 pJ; a 32-bit access to a 1 MB cache 100 pJ. Weights and activations are counted as moved once.
"""

import math
from collections.abc import Iterable

from autoprune.cost import LayerShape

PICOJOULE_PER_MAC = 3.7 + 0.9
PICOJOULE_PER_VALUE_MOVED = 100.0


def estimated_energy_mj(layers: Iterable[LayerShape]) -> float:
    """Estimated millijoules for one image."""
    picojoule = 0.0
    for layer in layers:
        moved = (
            layer.params + layer.in_channels * math.prod(layer.in_size) + layer.out_channels * math.prod(layer.out_size)
        )
        picojoule += layer.macs * PICOJOULE_PER_MAC + moved * PICOJOULE_PER_VALUE_MOVED
    return picojoule * 1e-9

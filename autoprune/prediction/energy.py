"""Energy of one inference, estimated from operations and bytes; every figure from here is called estimated.

Constants: Horowitz 2014 (ISSCC, "Computing's energy problem", figure 1.1.9, 45 nm): a 32-bit floating multiply 3.7 pJ
and add 0.9 pJ; a 32-bit access to a 1 MB cache 100 pJ. Weights and activations are counted as moved once. Where a
sensor measures whole models, constants are fitted to them instead (`fit_constants`).
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.pruning.cost import LayerShape
from autoprune.store.kept import Finite, closed

PJ, MJ = 1e-12, 1e-3  # in joules


@closed
@dataclass(frozen=True)
class EnergyConstants:
    """What a multiply-add, a moved 32-bit value and a call as such take."""

    pj_per_mac: Finite
    pj_per_value_moved: Finite
    mj_per_call: Finite = 0.0


HOROWITZ = EnergyConstants(3.7 + 0.9, 100.0)


Layers = Collection[LayerShape]  # of a model


def estimated_energy_mj(layers: Layers, constants: EnergyConstants = HOROWITZ) -> float:
    """Estimated millijoules for one image."""
    macs, values_moved = _work(layers)
    picojoule = macs * constants.pj_per_mac + values_moved * constants.pj_per_value_moved
    return picojoule * PJ / MJ + constants.mj_per_call


def fit_constants(models: Sequence[Layers], measured_mj: Sequence[float]) -> EnergyConstants:
    """The constants that come closest to measured energies: least squares on relative errors, none of them negative.

    Raises `ValueError` without at least one positive energy for each model.
    """
    measured = np.array(measured_mj, dtype=float)
    if len(models) != len(measured) or not len(measured) or measured.min() <= 0:
        raise ValueError("a positive measured energy is needed for each model")
    works = map(_work, models)
    columns = np.array([[macs * PJ / MJ, moved * PJ / MJ, 1.0] for macs, moved in works]) / measured[:, None]
    best, least = np.zeros(3), math.inf
    # The best solution without negative constants has some of them zero and is the plain one in the others.
    for used in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in (1, 2, 3)):
        solution, _, rank, _ = np.linalg.lstsq(columns[:, used], np.ones(len(measured)), rcond=None)
        error = float(np.square(columns[:, used] @ solution - 1.0).sum())
        if rank == len(used) and solution.min() >= 0 and error < least:
            best, least = np.zeros(3), error
            best[list(used)] = solution
    return EnergyConstants(*best.tolist())


def _work(layers: Layers) -> tuple[int, int]:
    """Multiply-adds, and values moved."""
    return sum(layer.macs for layer in layers), sum(layer.values_moved for layer in layers)

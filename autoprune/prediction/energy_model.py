"""The constants of the energy estimate, fitted to this machine's sensor by measuring a few whole models."""

from pydantic import TypeAdapter

from autoprune.config import RunConfig
from autoprune.data import DataInfo
from autoprune.foundation.progress import say
from autoprune.measure.energy_measurement import compare_energy
from autoprune.measure.energy_sensors import Sensor
from autoprune.prediction.energy import HOROWITZ, EnergyConstants, fit_constants
from autoprune.prediction.staircase import Ladders
from autoprune.prediction.whole_models import black_images_call, exported_cuts, whole_models
from autoprune.pruning.cost import CutShapes
from autoprune.store.kept import Kept
from autoprune.store.trials import TrialStore

ENERGY = Kept("energy", TypeAdapter(EnergyConstants))
MODELS = 6  # the original, the smallest and some random cuts: for three constants
SECONDS_A_MODEL, IDLE_SECONDS = 1.0, 3.0


def energy_constants(
    config: RunConfig,
    shapes: CutShapes,
    info: DataInfo,
    ladders: Ladders,
    *,
    sensor: Sensor | None,
    store: TrialStore | None = None,
) -> EnergyConstants:
    """Published constants, or, where a run works with energy and a `sensor` counts it, constants fitted to that.

    What was fitted is kept in `store`, so that a resumed run estimates as before. Raises `RunError` if the sensor
    stops counting.
    """
    if sensor is None or not config.uses_energy:
        return HOROWITZ
    saved = store.kept(ENERGY) if store is not None else None
    if saved is not None:
        return saved
    policies = whole_models(shapes, ladders)[:MODELS]
    with exported_cuts(shapes.elastic, policies, info) as files:
        calls = [black_images_call(file, info, config.measure) for file in files]
    readings = compare_energy(calls, sensor, seconds=SECONDS_A_MODEL, idle_seconds=IDLE_SECONDS)
    resolved = [
        (shapes.layers(policy).values(), reading.net_mj / config.measure.batch_size)
        for policy, reading in zip(policies, readings, strict=True)
        if reading.net_resolved
    ]
    if len(resolved) < len(policies) / 2:
        say(f"{sensor.name} hardly tells the models from idling: energies are estimated by published constants")
        return HOROWITZ
    models, measured_mj = zip(*resolved, strict=True)
    constants = fit_constants(models, measured_mj)
    if store is not None:
        store.keep(ENERGY, constants)
    return constants

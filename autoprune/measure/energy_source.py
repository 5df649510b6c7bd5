"""Where a run's energy figures come from: a sensor of this machine, or estimates where the user allows them."""

from autoprune.config import RunConfig
from autoprune.errors import ConfigError
from autoprune.measure.energy_sensors import NoSensorError, Sensor, open_sensor


def find_energy_source(config: RunConfig) -> Sensor | None:
    """The processor's sensor, or None: then energies are estimated.

    Raises `ConfigError`, with the reason, if the run's target or reward needs energy, nothing measures it here, and
    estimates are not allowed.
    """
    try:
        return open_sensor("cpu")
    except NoSensorError as error:
        if config.uses_energy and not config.measure.allow_estimated_energy:
            raise ConfigError(
                f"{' and '.join(config.energy_keys)}: energy cannot be measured here ({error}); set "
                "measure.allow_estimated_energy=true to work with estimates, or use metric: latency"
            ) from None
        return None

"""Sensors that count energy: RAPL of Intel and AMD processors (through Linux's powercap files) and NVML of NVIDIA GPUs.

A sensor gives joules since it was opened. How it comes by them (a counter that wraps around, power that is integrated)
is its own affair, as long as it is read at least every `sampling_s`.

RAPL: the zones `intel-rapl:N` named `package-…` are whole processors; AMD kernels use the same names. Zones inside a
package (`intel-rapl:0:0`: core, uncore) are part of it and not added, except `dram`, which lies outside its package's
count (Intel SDM, volume 3, "RAPL Interfaces"). `psys` is the whole platform, packages included: it is read only where
there are no packages.
"""

import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from autoprune.errors import RunError

Device = Literal["cpu", "cuda"]

POWERCAP = Path("/sys/class/powercap")
POWERCAP_VARIABLE = "AUTOPRUNE_POWERCAP"  # another folder, for tests and containers that mount it elsewhere
ZONE = re.compile(r"intel-rapl:\d+")
SUBZONE = re.compile(r"intel-rapl:\d+:\d+")
PLAUSIBLE_POWER_W = 1000.0  # of one package: no counter wraps around faster than this makes it
READS_A_WRAP = 4
# RAPL counts every millisecond, NVML every tenth of a second at the latest; a busy machine may keep us from looking.
MOVES_WITHIN_S = 2.0
POLL_S = 0.002
NVML_POWER_SAMPLING_S = 0.02
NVML_AVERAGED_S = 1.0  # newer GPUs give the mean power of the last second (nvmlDeviceGetPowerUsage)


class Sensor(Protocol):
    """Something that counts the energy of a device."""

    name: str  # what counts, and what is counted: `RAPL package-0`
    sampling_s: float  # `read_j` must be called at least this often while energy is counted
    settle_s: float  # how long a change of power takes until the sensor shows it in full

    def read_j(self) -> float:
        """Joules since the sensor was opened. Safe to call from two threads. Raises `RunError` if it is gone."""
        ...


class NoSensorError(Exception):
    """There is no such sensor, or it cannot be read; the message says why and what to do."""


class PowerIntegral:
    """Energy from samples of power, by the trapezoidal rule."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, time_s: float, power_w: float) -> None:
        if self._last is not None:
            self.joules += (time_s - self._last[0]) * (power_w + self._last[1]) / 2
        self._last = (time_s, power_w)


@dataclass(frozen=True)
class RaplZone:
    """One counter: the folder of a zone, and the value (in microjoules) after which it starts again at zero."""

    name: str
    folder: Path
    max_energy_range_uj: int

    def read_uj(self) -> int:
        return int((self.folder / "energy_uj").read_text(encoding="ascii"))

    @property
    def shortest_wrap_s(self) -> float:
        return self.max_energy_range_uj * 1e-6 / PLAUSIBLE_POWER_W


class RaplSensor:
    """All packages of the machine, with their memory where it is counted."""

    settle_s = 0.05

    def __init__(self, zones: Sequence[RaplZone]) -> None:
        self.zones = tuple(zones)
        self.name = "RAPL " + " + ".join(zone.name for zone in zones)
        self.sampling_s = min(zone.shortest_wrap_s for zone in zones) / READS_A_WRAP
        self._lock = threading.Lock()
        self._last_uj = [zone.read_uj() for zone in zones]
        self._total_uj = 0

    def read_j(self) -> float:
        with self._lock:
            for index, zone in enumerate(self.zones):
                try:
                    now_uj = zone.read_uj()
                except (OSError, ValueError) as error:
                    raise RunError(f"{zone.folder}/energy_uj: cannot be read any more ({error})") from None
                # At most one wrap-around between two readings: `sampling_s` sees to that.
                self._total_uj += (now_uj - self._last_uj[index]) % zone.max_energy_range_uj
                self._last_uj[index] = now_uj
            return self._total_uj * 1e-6


def rapl_sensor(root: Path | None = None) -> RaplSensor:
    """The processors' sensor. `root`: the powercap folder. Raises `NoSensorError`."""
    root = root or Path(os.environ.get(POWERCAP_VARIABLE, POWERCAP))
    if not root.is_dir():
        raise NoSensorError(
            f"{root}: no such folder; RAPL needs Linux on a real Intel or AMD processor with the module "
            "intel_rapl_msr (virtual machines and containers mostly hide it)"
        )
    top = [zone for zone in map(_zone, _matching(root, ZONE)) if zone is not None]
    packages = [zone for zone in top if zone.name.startswith("package")]
    if not packages:
        packages = [zone for zone in top if zone.name == "psys"]
    if not packages:
        raise NoSensorError(f"{root}: no zone intel-rapl:N of a package in it; try `modprobe intel_rapl_msr`")
    zones: list[RaplZone] = []
    for package in packages:
        zones.append(package)
        inside = [_zone(folder, within=package.name) for folder in _matching(package.folder, SUBZONE)]
        zones += [zone for zone in inside if zone is not None and zone.name.endswith("/dram")]
    for zone in zones:
        try:
            zone.read_uj()
        except PermissionError:
            raise NoSensorError(
                f"{zone.folder}/energy_uj: only root may read it; run as root, or once "
                f"`sudo chmod a+r {root}/intel-rapl:*/energy_uj {root}/intel-rapl:*/intel-rapl:*/energy_uj`"
            ) from None
        except (OSError, ValueError) as error:
            raise NoSensorError(f"{zone.folder}/energy_uj: cannot be read ({error})") from None
    return RaplSensor(zones)


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])


def _zone(folder: Path, within: str = "") -> RaplZone | None:
    try:
        name = (folder / "name").read_text(encoding="utf-8").strip()
        largest = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return RaplZone(f"{within}/{name}" if within else name, folder, largest) if largest > 0 else None


@dataclass(frozen=True)
class NvmlDevice:
    """One GPU as NVML shows it; a thin layer over nvidia-ml-py, which raises `pynvml.NVMLError`."""

    nvml: Any  # the module pynvml
    handle: Any
    label: str

    @classmethod
    def open(cls) -> "NvmlDevice":
        """The first GPU in PCI order. Raises `NoSensorError`."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            raise NoSensorError("NVML needs nvidia-ml-py; install it with `pip install autoprune[energy]`") from None
        try:
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByIndex(0)
            name = nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError as error:
            raise NoSensorError(f"NVML finds no GPU 0 ({error}); is NVIDIA's driver installed?") from None
        return cls(nvml, handle, f"GPU 0 {name if isinstance(name, str) else name.decode()}")

    def total_energy_mj(self) -> int:
        """Millijoules since the driver was loaded; Volta and newer."""
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def power_w(self) -> float:
        return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) * 1e-3


class NvmlCounterSensor:
    """A GPU's own energy counter."""

    sampling_s = 60.0  # it has 64 bits and never wraps around
    settle_s = 0.2

    def __init__(self, device: NvmlDevice) -> None:
        self.device = device
        self.name = f"NVML energy counter, {device.label}"
        self._first_mj = self._last_mj = device.total_energy_mj()

    def read_j(self) -> float:
        try:
            now_mj = self.device.total_energy_mj()
        except self.device.nvml.NVMLError as error:
            raise RunError(f"{self.name}: cannot be read any more ({error})") from None
        if now_mj < self._last_mj:
            raise RunError(f"{self.name}: started again at zero; was the driver loaded anew?")
        self._last_mj = now_mj
        return (now_mj - self._first_mj) * 1e-3


class NvmlPowerSensor:
    """A GPU without a counter: its power, sampled and integrated."""

    sampling_s = NVML_POWER_SAMPLING_S
    settle_s = 1.5 * NVML_AVERAGED_S

    def __init__(self, device: NvmlDevice) -> None:
        self.device = device
        self.name = f"NVML power sampled every {self.sampling_s * 1e3:.0f} ms, {device.label}"
        self._lock = threading.Lock()
        self._integral = PowerIntegral()
        self.read_j()

    def read_j(self) -> float:
        with self._lock:
            try:
                power_w = self.device.power_w()
            except self.device.nvml.NVMLError as error:
                raise RunError(f"{self.name}: cannot be read any more ({error})") from None
            self._integral.add(time.perf_counter(), power_w)
            return self._integral.joules


def nvml_sensor() -> NvmlCounterSensor | NvmlPowerSensor:
    """The sensor of the first GPU: its counter, or else its power. Raises `NoSensorError`."""
    device = NvmlDevice.open()
    try:
        return NvmlCounterSensor(device)
    except device.nvml.NVMLError:  # older than Volta
        pass
    try:
        device.power_w()
    except device.nvml.NVMLError as error:
        raise NoSensorError(f"{device.label}: tells neither its energy nor its power ({error})") from None
    return NvmlPowerSensor(device)


SENSORS: dict[Device, Callable[[], Sensor]] = {"cpu": rapl_sensor, "cuda": nvml_sensor}


def open_sensor(device: Device = "cpu") -> Sensor:
    """The sensor of what the model runs on: a GPU's says nothing of a processor's work. Raises `NoSensorError`."""
    sensor = SENSORS[device]()
    if not moves(sensor):
        raise NoSensorError(
            f"{sensor.name}: the counter does not move, as in virtual machines that only show the files"
        )
    return sensor


def moves(sensor: Sensor) -> bool:
    """Whether the sensor counts anything within half a second: an idle machine takes energy too."""
    first = sensor.read_j()
    deadline = time.perf_counter() + MOVES_WITHIN_S
    while time.perf_counter() < deadline:
        time.sleep(POLL_S)
        if sensor.read_j() > first:
            return True
    return False

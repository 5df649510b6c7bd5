"""RAPL on a made-up powercap tree, wrap-around and integration by hand, and a real GPU's sensor where there is one."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import RunError
from autoprune.measure.energy_sensors import (
    POWERCAP_VARIABLE,
    NoSensorError,
    PowerIntegral,
    RaplSensor,
    RaplZone,
    moves,
    nvml_sensor,
    open_sensor,
    rapl_sensor,
)

RANGE_UJ = 262_143_328_850  # of a real package


def zone(folder: Path, name: str, energy_uj: int, *, range_uj: int = RANGE_UJ) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    count(folder, energy_uj)
    return folder


def count(folder: Path, energy_uj: int) -> None:
    """Written beside and moved there: a reader in another thread never sees half a number."""
    (folder / "new").write_text(f"{energy_uj}\n")
    (folder / "new").replace(folder / "energy_uj")


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[Path]:
    """A tree whose counter moves every millisecond."""
    package = zone(tmp_path / "alive" / "intel-rapl:0", "package-0", 0)
    stop = threading.Event()

    def advance() -> None:
        energy_uj = 0
        while not stop.wait(0.001):
            energy_uj += 1000
            count(package, energy_uj)

    thread = threading.Thread(target=advance)
    thread.start()
    yield package.parent
    stop.set()
    thread.join()


def test_joules_since_it_was_opened(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 5_000_000)
    sensor = rapl_sensor(tmp_path)
    assert sensor.name == "RAPL package-0"
    assert sensor.read_j() == 0
    count(package, 7_500_000)
    assert sensor.read_j() == pytest.approx(2.5)


def test_the_counter_wraps_around(tmp_path: Path) -> None:
    """0.3 J before the end of a range of 100 J, then 0.7 J after it; and the same a second time."""
    package = zone(tmp_path / "intel-rapl:0", "package-0", 99_700_000, range_uj=100_000_000)
    sensor = rapl_sensor(tmp_path)
    count(package, 700_000)
    assert sensor.read_j() == pytest.approx(1.0)
    count(package, 60_000_000)
    sensor.read_j()
    count(package, 200_000)
    assert sensor.read_j() == pytest.approx(1.0 + 59.3 + 40.2)


def test_it_asks_to_be_read_before_it_can_wrap_around(tmp_path: Path) -> None:
    """At 1,000 W a range of 100 J lasts 0.1 s; it is read four times in that."""
    zone(tmp_path / "intel-rapl:0", "package-0", 0)
    zone(tmp_path / "intel-rapl:1", "package-1", 0, range_uj=100_000_000)
    assert rapl_sensor(tmp_path).sampling_s == pytest.approx(0.025)


def test_packages_are_added_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    """Core and uncore are part of their package, psys holds the packages; memory lies outside its package."""
    first = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    core = zone(first / "intel-rapl:0:0", "core", 0)
    dram = zone(first / "intel-rapl:0:1", "dram", 0)
    second = zone(tmp_path / "intel-rapl:1", "package-1", 0)
    psys = zone(tmp_path / "intel-rapl:2", "psys", 0)
    other = zone(tmp_path / "intel-rapl-mmio:0", "package-0", 0)  # the same package by another way
    sensor = rapl_sensor(tmp_path)
    assert sensor.name == "RAPL package-0 + package-0/dram + package-1"
    for folder, joules in ((first, 10), (core, 7), (dram, 2), (second, 20), (psys, 50), (other, 10)):
        count(folder, joules * 10**6)
    assert sensor.read_j() == pytest.approx(32.0)


def test_links_to_subzones_beside_the_packages_are_not_packages(tmp_path: Path) -> None:
    """The real tree links every zone, at any depth, into its top folder."""
    package = zone(tmp_path / "devices" / "intel-rapl:0", "package-0", 0)
    zone(package / "intel-rapl:0:0", "core", 0)
    root = tmp_path / "powercap"
    root.mkdir()
    (root / "intel-rapl:0").symlink_to(package)
    (root / "intel-rapl:0:0").symlink_to(package / "intel-rapl:0:0")
    (root / "intel-rapl").mkdir()
    assert rapl_sensor(root).name == "RAPL package-0"


def test_psys_alone_is_better_than_nothing(tmp_path: Path) -> None:
    zone(tmp_path / "intel-rapl:0", "psys", 0)
    assert rapl_sensor(tmp_path).name == "RAPL psys"


def test_zones_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    for index in (10, 2, 0):
        zone(tmp_path / f"intel-rapl:{index}", f"package-{index}", 0)
    assert rapl_sensor(tmp_path).name == "RAPL package-0 + package-2 + package-10"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError, match=r"nowhere: no such folder; RAPL needs Linux"):
        rapl_sensor(tmp_path / "nowhere")
    with pytest.raises(NoSensorError, match=r"no zone intel-rapl:N of a package in it; try `modprobe"):
        rapl_sensor(tmp_path)
    package = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    (package / "energy_uj").write_text("not a number")
    with pytest.raises(NoSensorError, match=r"energy_uj: cannot be read"):
        rapl_sensor(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_counter_for_root_only_is_explained(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    (package / "energy_uj").chmod(0)
    with pytest.raises(NoSensorError, match=r"energy_uj: only root may read it; .* `sudo chmod a\+r"):
        rapl_sensor(tmp_path)


def test_a_counter_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    """As root, too: a folder in the file's place cannot be read by anyone."""
    package = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()
    with pytest.raises(NoSensorError, match=r"energy_uj: cannot be read \(.*directory"):
        rapl_sensor(tmp_path)


def test_a_counter_that_goes_away_stops_the_measurement(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    sensor = rapl_sensor(tmp_path)
    (package / "energy_uj").unlink()
    with pytest.raises(RunError, match=r"energy_uj: cannot be read any more"):
        sensor.read_j()


def test_a_live_counter_is_found(alive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POWERCAP_VARIABLE, str(alive))
    assert moves(rapl_sensor())
    assert open_sensor().name == "RAPL package-0"


def test_a_dead_counter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0", 0)
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path))
    with pytest.raises(NoSensorError, match=r"^RAPL package-0: the counter does not move"):
        open_sensor()


def test_no_folder_is_no_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(NoSensorError, match="no such folder"):
        open_sensor()


@given(st.lists(st.integers(0, 999), max_size=50), st.integers(0, 999))
def test_a_wrapping_counter_counts_every_step(steps: list[int], first: int) -> None:
    value = first

    class Zone(RaplZone):
        def read_uj(self) -> int:
            return value

    sensor = RaplSensor([Zone("zone", Path(), 1000)])
    for step in steps:
        value = (value + step) % 1000
        sensor.read_j()
    assert sensor.read_j() == pytest.approx(sum(steps) * 1e-6)


def test_power_is_integrated_by_hand() -> None:
    """10 W to 20 W over 2 s: 30 J; 20 W for 0.5 s: 10 J."""
    integral = PowerIntegral()
    for time_s, power_w in ((100.0, 10.0), (102.0, 20.0), (102.5, 20.0)):
        integral.add(time_s, power_w)
    assert integral.joules == pytest.approx(40.0)


def test_without_a_gpu_the_reason_is_said() -> None:
    try:
        open_sensor("cuda")
    except NoSensorError as error:
        assert any(reason in str(error) for reason in ("nvidia-ml-py", "NVIDIA's driver", "tells neither"))
    else:
        pytest.skip("this machine has a GPU")


def test_a_real_gpu_takes_some_energy() -> None:
    try:
        sensor = nvml_sensor()
    except NoSensorError as error:
        pytest.skip(str(error))
    time.sleep(1.0)
    sensor.read_j()
    time.sleep(0.1)
    assert 1 < sensor.read_j() < 2000  # joules in a second: a GPU takes more than 1 W, idle too

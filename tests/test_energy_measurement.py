"""Energy of a call, worked out by hand, and measured on sensors that count what the calls say they take."""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.errors import RunError
from autoprune.measure import energy_measurement
from autoprune.measure.energy_measurement import ROUNDS, Grain, Spell, compare_energy, energy_reading
from autoprune.measure.energy_sensors import rapl_sensor

GRAIN = Grain(update_interval_s=0.001, step_j=0.002)
IDLE_W = 2.0


class Ledger:
    """A sensor that knows: the idle power all the time, and what each call adds."""

    name = "ledger"
    sampling_s = 0.01
    settle_s = 0.001

    def __init__(self) -> None:
        self.called_j = 0.0
        self._started = time.perf_counter()

    def read_j(self) -> float:
        return self.called_j + IDLE_W * (time.perf_counter() - self._started)

    def call(self, joules: float) -> None:
        self.called_j += joules
        time.sleep(0.0005)


def test_a_reading_by_hand() -> None:
    """Each round: 10 calls in 2 s, 9 J or 11 J at 1.5 W idle: gross 900 or 1,100 mJ, net 300 mJ less."""
    loads = [Spell(10, 2.0, 9.0 if index % 2 else 11.0) for index in range(ROUNDS)]
    reading = energy_reading("hand", loads, [1.5] * ROUNDS, GRAIN)
    assert reading.gross_mj == pytest.approx(1000)
    assert reading.net_mj == pytest.approx(700)
    # The sample's standard deviation is 100·√(8/7), the mean's 37.8; Student's t at 7 degrees of freedom 2.365.
    half = 2.365 * 100 / 7**0.5
    assert reading.net_ci95_mj == pytest.approx((700 - half, 700 + half))
    assert reading.gross_ci95_mj == pytest.approx((1000 - half, 1000 + half))
    assert (reading.load_power_w, reading.idle_power_w) == pytest.approx((5.0, 1.5))
    assert (reading.calls, reading.load_s, reading.rounds) == (80, pytest.approx(16.0), 8)
    assert (reading.update_interval_ms, reading.step_mj) == pytest.approx((1.0, 2.0))
    assert (reading.energy_source, reading.sensor) == ("measured", "hand")
    assert reading.net_resolved


def test_a_call_that_cannot_be_told_from_idling_says_so() -> None:
    loads = [Spell(10, 2.0, 3.0 + (0.1 if index % 2 else -0.1)) for index in range(ROUNDS)]
    reading = energy_reading("hand", loads, [1.5] * ROUNDS, GRAIN)
    assert reading.net_mj == pytest.approx(0, abs=1e-9)
    assert not reading.net_resolved
    assert json.loads(json.dumps(dataclasses.asdict(reading), allow_nan=False))["net_resolved"] is False


def test_idle_power_is_taken_off() -> None:
    ledger = Ledger()
    [reading] = compare_energy([lambda: ledger.call(0.005)], ledger, seconds=0.4, idle_seconds=0.1)
    assert reading.net_mj == pytest.approx(5.0, rel=0.05)
    assert reading.gross_mj > reading.net_mj
    assert reading.idle_power_w == pytest.approx(IDLE_W, rel=0.05)
    assert reading.calls > 0
    assert reading.load_s >= 0.4


def test_two_calls_are_told_apart() -> None:
    ledger = Ledger()
    calls = [lambda: ledger.call(0.004), lambda: ledger.call(0.002)]
    more, less = compare_energy(calls, ledger, seconds=0.2, idle_seconds=0.1)
    assert more.net_mj == pytest.approx(2 * less.net_mj, rel=0.1)


class Package:
    """A powercap tree whose counter moves every millisecond or so and starts near the end of its range of 2 J."""

    STEP_UJ, RANGE_UJ = 5_000, 2_000_000

    def __init__(self, root: Path) -> None:
        self.root, self.counted_uj = root, 0
        self._folder = root / "intel-rapl:0"
        self._folder.mkdir()
        (self._folder / "name").write_text("package-0\n")
        (self._folder / "max_energy_range_uj").write_text(f"{self.RANGE_UJ}\n")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._advance)
        self._write()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _advance(self) -> None:
        while not self._stop.wait(0.001):
            self.counted_uj += self.STEP_UJ
            self._write()

    def _write(self) -> None:
        (self._folder / "new").write_text(f"{(self.RANGE_UJ - self.STEP_UJ + self.counted_uj) % self.RANGE_UJ}\n")
        (self._folder / "new").replace(self._folder / "energy_uj")


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Package]:
    made = Package(tmp_path)
    yield made
    made.stop()


def test_rapl_through_wraps(package: Package) -> None:
    sensor = rapl_sensor(package.root)
    package.start()
    [reading] = compare_energy([lambda: time.sleep(0.001)], sensor, seconds=0.8, idle_seconds=0.4)
    package.stop()
    assert package.counted_uj > package.STEP_UJ  # it wrapped around at least once, at the start
    assert sensor.read_j() == pytest.approx(package.counted_uj * 1e-6)
    assert 0 < reading.gross_mj * reading.calls * 1e-3 < package.counted_uj * 1e-6
    assert reading.sensor == "RAPL package-0"
    assert reading.step_mj >= 5.0 - 1e-9
    assert reading.calls >= ROUNDS


def test_a_counter_that_does_not_move_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    for name, content in (("name", "package-0"), ("max_energy_range_uj", "1000000000"), ("energy_uj", "5")):
        (package / name).write_text(content)
    monkeypatch.setattr(energy_measurement, "DEAD_AFTER_S", 0.1)
    threads = threading.active_count()
    with pytest.raises(RunError, match=r"RAPL package-0: the counter has not moved .*; energy is not measured"):
        compare_energy([lambda: None], rapl_sensor(tmp_path), seconds=0.1, idle_seconds=0.1)
    assert threading.active_count() == threads


def test_a_call_that_fails_is_heard_and_the_sampling_ends() -> None:
    def fail() -> None:
        raise ValueError("broken call")

    threads = threading.active_count()
    with pytest.raises(ValueError, match="broken call"):
        compare_energy([fail], Ledger(), seconds=0.1, idle_seconds=0.1)
    assert threading.active_count() == threads

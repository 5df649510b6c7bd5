"""Measured energy of a call: run over and over while a sensor counts, gross and above what the idle device takes.

Loads and idle spells take turns, so that a device that warms up or a neighbour that comes and goes falls on all calls
alike. Every spell begins and ends at an update of the counter, and is many updates long: half-seen updates then add
little. The sensor sees the whole device: what else runs on it counts as well, and makes the interval wider.
"""

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from autoprune.errors import RunError
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.timing import Call

ROUNDS = 8
T_95 = 2.365  # Student's t for 8 rounds: 7 degrees of freedom, two-sided 95%
UPDATES_A_SPELL = 20  # the counter must move at least so often in each spell
GRAIN_S = 0.3
DEAD_AFTER_S = 5.0  # a counter that has not moved for so long never will
LONGEST_STRETCH = 10.0  # a spell takes at most so many times the length it was meant to have
IDLE_POLL_S = 0.0005


@dataclass(frozen=True)
class Grain:
    """How finely a sensor counts: time and energy between two updates, as seen while the call ran."""

    update_interval_s: float
    step_j: float


@dataclass(frozen=True)
class Spell:
    """What the sensor counted while a call ran `calls` times (0: idle)."""

    calls: int
    seconds: float
    joules: float

    @property
    def power_w(self) -> float:
        return self.joules / self.seconds


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one call in millijoules; intervals are of the mean over the rounds (Student's t)."""

    sensor: str
    energy_source: Literal["measured"]
    gross_mj: float  # all that the device took while the call ran
    gross_ci95_mj: tuple[float, float]
    net_mj: float  # above the idle power before and after
    net_ci95_mj: tuple[float, float]
    load_power_w: float
    idle_power_w: float
    calls: int
    load_s: float
    rounds: int
    update_interval_ms: float  # of the sensor
    step_mj: float  # least amount that the sensor was seen to count while the call ran
    net_resolved: bool  # whether the call can be told from idling at all: if not, `net_mj` means nothing yet


def compare_energy(
    calls: Sequence[Call], sensor: Sensor, *, seconds: float, idle_seconds: float
) -> list[EnergyReading]:
    """Run each of `calls` for `seconds` in all, in turn and in alternating order, between idle spells of `idle_seconds`
    in all; longer if the sensor needs it.

    Raises `RunError` if the sensor's counter does not move, and whatever a call raises.
    """
    spells_under_load: list[list[Spell]] = [[] for _ in calls]
    idle_power_w: list[list[float]] = [[] for _ in calls]
    with _sampled(sensor):
        grains = [_grain(call, sensor) for call in calls]
        least_s = UPDATES_A_SPELL * max(grain.update_interval_s for grain in grains)
        load_s = max(seconds / ROUNDS, least_s)
        idle_s = max(idle_seconds / (ROUNDS * len(calls) + 1), least_s)
        before = _spell(None, sensor, least_s=idle_s)
        for round_index in range(ROUNDS):
            order = range(len(calls)) if round_index % 2 == 0 else reversed(range(len(calls)))
            for index in order:
                spell = _spell(calls[index], sensor, least_s=load_s, least_j=UPDATES_A_SPELL * grains[index].step_j)
                after = _spell(None, sensor, least_s=idle_s)
                spells_under_load[index].append(spell)
                idle_power_w[index].append((before.power_w + after.power_w) / 2)
                before = after
    return [
        energy_reading(sensor.name, spells, idle_w, grain)
        for spells, idle_w, grain in zip(spells_under_load, idle_power_w, grains, strict=True)
    ]


def energy_reading(
    sensor: str, spells_under_load: Sequence[Spell], idle_power_w: Sequence[float], grain: Grain
) -> EnergyReading:
    """One spell of load for each round, and the idle power around it."""
    gross_mj = [spell.joules / spell.calls * 1e3 for spell in spells_under_load]
    net_mj = [
        (spell.joules - idle_w * spell.seconds) / spell.calls * 1e3
        for spell, idle_w in zip(spells_under_load, idle_power_w, strict=True)
    ]
    load_s = sum(spell.seconds for spell in spells_under_load)
    net_ci95_mj = _ci95(net_mj)
    return EnergyReading(
        sensor=sensor,
        energy_source="measured",
        gross_mj=statistics.fmean(gross_mj),
        gross_ci95_mj=_ci95(gross_mj),
        net_mj=statistics.fmean(net_mj),
        net_ci95_mj=net_ci95_mj,
        load_power_w=sum(spell.joules for spell in spells_under_load) / load_s,
        idle_power_w=statistics.fmean(idle_power_w),
        calls=sum(spell.calls for spell in spells_under_load),
        load_s=load_s,
        rounds=len(spells_under_load),
        update_interval_ms=grain.update_interval_s * 1e3,
        step_mj=grain.step_j * 1e3,
        net_resolved=net_ci95_mj[0] > 0,
    )


def _ci95(values: Sequence[float]) -> tuple[float, float]:
    assert len(values) == ROUNDS  # T_95 is for so many
    half = T_95 * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return (mean - half, mean + half)


def _grain(call: Call, sensor: Sensor) -> Grain:
    """Watch the counter while `call` runs, which warms the call up as well."""
    updates = [_next_update(call, sensor)]
    deadline = updates[0].at_s + GRAIN_S
    while len(updates) < 3 or updates[-1].at_s < deadline:
        updates.append(_next_update(call, sensor))
    # The first step may have begun before the call did.
    steps = list(pairwise(updates[1:]))
    return Grain(
        statistics.median(after.at_s - before.at_s for before, after in steps),
        min(after.joules - before.joules for before, after in steps),
    )


@dataclass(frozen=True)
class _Update:
    """The moment at which the counter was first seen to have moved, after `calls` calls."""

    at_s: float
    joules: float
    calls: int


def _next_update(call: Call | None, sensor: Sensor) -> _Update:
    """Run `call` (None: idle) until the counter moves."""
    first_j = sensor.read_j()
    started_s = time.perf_counter()
    calls = 0
    while True:
        if call is None:
            time.sleep(IDLE_POLL_S)
        else:
            call()
            calls += 1
        joules, now_s = sensor.read_j(), time.perf_counter()
        if joules > first_j:
            return _Update(now_s, joules, calls)
        if now_s - started_s > DEAD_AFTER_S:
            raise RunError(f"{sensor.name}: the counter has not moved for {DEAD_AFTER_S:.0f} s; energy is not measured")


def _spell(call: Call | None, sensor: Sensor, *, least_s: float, least_j: float = 0.0) -> Spell:
    """From one update of the counter to another, at least `least_s` and `least_j` later."""
    _run_until(call, time.perf_counter() + sensor.settle_s)
    start = _next_update(call, sensor)
    calls = _run_until(call, start.at_s + least_s)
    while True:
        end = _next_update(call, sensor)
        calls += end.calls
        if end.joules - start.joules >= least_j:
            return Spell(calls, end.at_s - start.at_s, end.joules - start.joules)
        if end.at_s - start.at_s > LONGEST_STRETCH * least_s + DEAD_AFTER_S:
            raise RunError(f"{sensor.name}: the counter hardly moves while the model runs; energy is not measured")


def _run_until(call: Call | None, deadline_s: float) -> int:
    if call is None:
        time.sleep(max(0.0, deadline_s - time.perf_counter()))
        return 0
    calls = 0
    while time.perf_counter() < deadline_s:
        call()
        calls += 1
    return calls


@contextlib.contextmanager
def _sampled(sensor: Sensor) -> Iterator[None]:
    """Read the sensor in the background as often as it needs, however long a call takes."""
    stop = threading.Event()

    def sample() -> None:
        # A sensor that is gone is reported by the measurement's own next reading.
        with contextlib.suppress(RunError):
            while not stop.wait(sensor.sampling_s):
                sensor.read_j()

    thread = threading.Thread(target=sample, daemon=True, name="energy-sensor")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

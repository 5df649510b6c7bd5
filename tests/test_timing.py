"""Telling undisturbed calls from others; no test holds a machine to a time."""

import gc
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from autoprune.measure import timing
from autoprune.measure.timing import (
    LONG_BURSTS,
    LONG_CALLS,
    LONG_WARM_CALLS,
    MOST_CALLS_A_BURST,
    QUIET_BURSTS,
    QUIET_CALLS,
    Reference,
    _Seen,
    no_garbage_collection,
    quiet_time,
    time_cold,
    time_rounds,
    time_until_quiet,
)

ROUNDS = max(QUIET_BURSTS, math.ceil(QUIET_CALLS / MOST_CALLS_A_BURST))  # that settle a call in full bursts


def busy(seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass


def test_the_quiet_time_of_samples_is_that_of_the_fastest() -> None:
    """Nine calls at 1 ms among ninety at 1.5."""
    samples = np.full((9, 11), 1.5)
    samples[:, 3] = 1.0
    found = quiet_time(samples)
    assert found.quiet_ms == 1.0
    assert found.disturbed_share == pytest.approx(10 / 11)
    assert (found.calls, found.settled) == (99, False)


def test_each_call_comes_as_often_first_as_last() -> None:
    order: list[int] = []
    calls = [lambda index=index: order.append(index) for index in range(3)]
    samples_ms = time_rounds(calls, rounds=40, runs=2, rng=np.random.default_rng(0))
    assert samples_ms.shape == (3, 40, 2)
    assert (samples_ms > 0).all()
    bursts = np.array(order).reshape(40, 3, 3)  # rounds, bursts, one call that is not timed and two that are
    assert (bursts == bursts[:, :, :1]).all()
    orders = bursts[:, :, 0]
    assert (np.sort(orders) == np.arange(3)).all()
    np.testing.assert_array_equal(orders[1::2], orders[::2, ::-1])
    assert len({tuple(row) for row in orders}) == 6  # all orders occur


def test_timing_stops_when_time_is_over() -> None:
    samples_ms = time_rounds([int], rounds=50, runs=1, rng=np.random.default_rng(0), limit_s=0, least_rounds=7)
    assert samples_ms.shape == (1, 7, 1)


def test_longer_calls_come_out_longer() -> None:
    settled: list[int] = []
    short, long = time_until_quiet([lambda: busy(0.0002), lambda: busy(0.002)], limit_s=20, on_settled=settled.extend)
    assert 0.02 < short.quiet_ms < long.quiet_ms  # half and less: the reference's best may change meanwhile
    assert long.quiet_ms > 0.2
    assert sorted(settled) == [index for index, found in enumerate((short, long)) if found.settled]


def test_time_runs_out_on_a_machine_that_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No computation takes a picosecond: every burst counts as disturbed, and the fastest calls stand in."""
    monkeypatch.setattr(timing, "reference", Reference(best_ms=1e-9))
    started = time.perf_counter()
    [found] = time_until_quiet([lambda: busy(0.0005)], limit_s=0.2)
    assert time.perf_counter() - started < 10
    assert not found.settled
    assert found.quiet_ms >= 0.5


def test_a_machine_that_became_slower_is_quiet_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PATIENCE_S", 0.02)
    reference = Reference(best_ms=1e-9)
    assert reference.wait(time.perf_counter() + 30) is not None
    assert reference.best_ms > 1e-9


def test_a_failing_call_leaves_the_garbage_collector_on() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time_until_quiet([fail], limit_s=1)
    assert gc.isenabled()


class AlwaysQuiet(Reference):
    """A machine on which nothing else runs."""

    def quiet_ms(self) -> float | None:
        self.best_ms = 1.0
        return 1.0


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "reference", AlwaysQuiet())


@pytest.fixture
def full_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: the number of calls follows from nothing else."""
    monkeypatch.setattr(timing, "BURST_S", 1000.0)


def planted(monkeypatch: pytest.MonkeyPatch, times_ms: Sequence[float]) -> Reference:
    """A reference that seems to take `times_ms` one after another."""
    left = iter(times_ms)
    monkeypatch.setattr(timing, "time_once_ms", lambda call: next(left))
    return Reference()


def logging_calls(count: int) -> tuple[list[int], list[Callable[[], object]]]:
    """Calls that note when they are called."""
    log: list[int] = []
    return log, [lambda index=index: log.append(index) for index in range(count)]


def test_the_fastest_eight_by_hand() -> None:
    """The median of 1 … 8 is 4.5; of the ten, 5, 6, 7, 8, 9 and 100 are more than a tenth slower."""
    found = quiet_time(np.array([9, 1, 2, 3, 4, 5, 6, 7, 8, 100], dtype=float).reshape(2, 5))
    assert (found.quiet_ms, found.disturbed_share, found.calls) == (4.5, 0.6, 10)


def test_quiet_calls_count_in_units_of_the_reference() -> None:
    """Both bursts took twice the reference's time, one of them at half the clock rate; 0.8 = 2 * 0.4."""
    seen = _Seen()
    seen.add_quiet([1.0, 1.0], reference_ms=0.5)
    seen.add_quiet([2.0, 2.0], reference_ms=1.0)
    assert seen.result(0.4).quiet_ms == pytest.approx(0.8)


def test_the_quiet_time_is_the_fifth_percentile_of_the_quiet_calls() -> None:
    seen = _Seen()
    seen.add_quiet([float(value) for value in range(1, 102)], reference_ms=1.0)
    assert seen.result(1.0).quiet_ms == pytest.approx(6.0)


def test_disturbed_calls_count_in_the_share_alone() -> None:
    seen = _Seen()
    for _ in range(QUIET_BURSTS):
        seen.add_quiet([1.0] * QUIET_CALLS, reference_ms=1.0)
    seen.add_disturbed([0.5] * 10 + [2.0] * 10)
    found = seen.result(1.0)
    calls = QUIET_BURSTS * QUIET_CALLS + 20
    assert (found.quiet_ms, found.disturbed_share, found.calls, found.settled) == (1.0, 10 / calls, calls, True)


@pytest.mark.parametrize(
    ("bursts", "calls_a_burst", "settled"),
    [(5, 10, False), (6, 6, False), (6, 7, True), (8, 5, False), (9, 5, True), (40, 1, False), (41, 1, True)],
)
def test_what_settles_a_figure(bursts: int, calls_a_burst: int, settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here 41 calls in at least 6 bursts."""
    for name, value in (("QUIET_CALLS", 41), ("QUIET_BURSTS", 6)):
        monkeypatch.setattr(timing, name, value)
    assert filled(_Seen(), bursts, calls_a_burst).settled is settled


@pytest.mark.parametrize(("bursts", "settled"), [(4, False), (5, True)])
def test_what_settles_the_figure_of_a_long_call(bursts: int, settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONG_BURSTS", 5)
    assert filled(long_seen(), bursts, LONG_CALLS).settled is settled


def filled(seen: _Seen, bursts: int, calls_a_burst: int) -> _Seen:
    for _ in range(bursts):
        assert not seen.settled
        seen.add_quiet([1.0] * calls_a_burst, reference_ms=1.0)
        seen.add_disturbed([1.0] * 100)
    return seen


def long_seen() -> _Seen:
    seen = _Seen()
    seen.plan(lambda: time.sleep(2 * timing.BURST_S))
    return seen


def test_a_burst_of_a_long_call_counts_by_its_median() -> None:
    """Medians 1 … 5, whatever single calls took: their 25th percentile is 2."""
    seen = long_seen()
    for median in (3.0, 1.0, 5.0, 2.0, 4.0):
        seen.add_quiet([median - 0.5, median, median + 9], reference_ms=1.0)
    assert seen.result(1.0).quiet_ms == pytest.approx(2.0)


def test_the_reference_is_quiet_within_five_percent_of_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = planted(monkeypatch, [1.0, 1.04, 1.06, 0.5, 1.0, 0.52])
    assert [reference.quiet_ms() for _ in range(6)] == [1.0, 1.04, None, 0.5, None, 0.52]
    assert reference.best_ms == 0.5


def test_after_a_long_time_without_quiet_the_best_of_late_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core has become slower for good: 2.0 is the new best, and 2.08 is quiet."""
    reference = planted(monkeypatch, [1.0, 2.1, 2.0, 2.2, 2.08, 2.2])
    assert [reference.quiet_ms() for _ in range(3)] == [1.0, None, None]
    assert reference.best_ms == 1.0
    reference._last_quiet -= timing.PATIENCE_S
    assert reference.quiet_ms() is None
    assert reference.best_ms == 2.0
    assert [reference.quiet_ms(), reference.quiet_ms()] == [2.08, None]
    assert reference.best_ms == 2.0


def test_time_without_timing_costs_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = planted(monkeypatch, [1.0, 3.0, 2.0])
    assert [reference.quiet_ms(), reference.quiet_ms()] == [1.0, None]
    reference._last_quiet -= timing.PATIENCE_S
    reference.restart_patience()
    assert reference.quiet_ms() is None
    assert reference.best_ms == 1.0


def test_waiting_ends_with_quiet_or_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = planted(monkeypatch, [1.0, 2.0, 2.0, 1.01, 2.0])
    reference.quiet_ms()
    assert reference.wait(deadline=time.perf_counter() + 1000) == 1.01
    assert reference.wait(deadline=time.perf_counter() - 1) is None


@pytest.mark.usefixtures("quiet_machine", "full_bursts")
def test_on_a_quiet_machine_the_least_number_of_bursts_settles_all() -> None:
    log, calls = logging_calls(3)
    settled: list[Sequence[int]] = []
    times = time_until_quiet(calls, limit_s=1000, on_settled=settled.append)
    assert [(found.calls, found.settled) for found in times] == [(ROUNDS * MOST_CALLS_A_BURST, True)] * 3
    assert all(0 < found.quiet_ms < 1000 and 0 <= found.disturbed_share <= 1 for found in times)
    assert settled == [[]] * (ROUNDS - 1) + [[0, 1, 2]]
    assert len(log) == 3 * (2 + ROUNDS * (1 + MOST_CALLS_A_BURST))  # two to size the bursts, and one before each


@pytest.mark.usefixtures("quiet_machine", "full_bursts")
def test_the_order_is_random_and_follows_from_the_seed() -> None:
    logs = []
    for seed in (0, 0, 1):
        log, calls = logging_calls(5)
        time_until_quiet(calls, limit_s=1000, seed=seed)
        logs.append(log)
    assert logs[0] == logs[1] != logs[2]
    burst = 1 + MOST_CALLS_A_BURST
    rounds = [tuple(logs[0][start : start + 5 * burst : burst]) for start in range(10, len(logs[0]), 5 * burst)]
    assert len(rounds) == ROUNDS
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
    assert len(set(rounds)) > 1


@pytest.mark.usefixtures("quiet_machine")
def test_a_long_call_is_warmed_up_for_longer() -> None:
    """Its weights come back into the cache only after some calls; it is settled by fewer bursts."""
    log: list[int] = []

    def long() -> None:
        log.append(1)
        time.sleep(0.002)

    [found] = time_until_quiet([long], limit_s=1000)
    assert (found.calls, found.settled) == (LONG_BURSTS * LONG_CALLS, True)
    assert len(log) == 2 + LONG_BURSTS * (LONG_WARM_CALLS + LONG_CALLS)
    assert found.quiet_ms >= 2.0


@pytest.mark.usefixtures("quiet_machine")
def test_what_reads_much_memory_is_warmed_up_like_a_long_call() -> None:
    log: list[int] = []
    calls = [lambda: log.append(0), lambda: log.append(1)]
    plain, slow = time_until_quiet(calls, limit_s=1000, slow_to_warm=[False, True])
    assert slow.calls == LONG_BURSTS * LONG_CALLS
    assert log.count(1) == 2 + LONG_BURSTS * (LONG_WARM_CALLS + LONG_CALLS)
    assert plain.calls == log.count(0) - 2 - plain.calls // MOST_CALLS_A_BURST


def test_cold_calls_come_after_something_else_has_filled_the_caches() -> None:
    """A matrix of 1 MB is read from the cache over and over, or from memory: the times differ, by how much is open."""
    matrix, log = np.ones((512, 512), dtype=np.float32), list[str]()
    vector = np.ones(512, dtype=np.float32)

    def product() -> object:
        log.append("product")
        return matrix @ vector

    times_ms = time_cold([product, lambda: log.append("other")], cache_bytes=2**22, repeats=5)
    assert len(times_ms) == 2
    assert all(ms > 0 for ms in times_ms)
    assert log.count("product") == log.count("other") == 1 + 5
    assert time_cold([], cache_bytes=2**20) == []


def test_every_call_is_timed_even_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "reference", Reference(best_ms=1e-9))
    times = time_until_quiet([lambda: None, lambda: time.sleep(0.001)], limit_s=0.0)
    assert all(found.calls >= 1 and not found.settled for found in times)
    assert times[1].quiet_ms >= 1.0
    assert time_until_quiet([], limit_s=0.0) == []


@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    """It is off while calls are timed, and what it was before when they end, well or not."""
    seen = []

    def failing() -> None:
        seen.append(gc.isenabled())
        if len(seen) > 20:
            raise ZeroDivisionError

    try:
        (gc.enable if enabled else gc.disable)()
        time_rounds([lambda: seen.append(gc.isenabled())], rounds=1, runs=3, rng=np.random.default_rng(0))
        assert gc.isenabled() is enabled
        for timed in (
            lambda: time_until_quiet([lambda: None, failing], limit_s=1000),
            lambda: time_rounds([failing], rounds=1, runs=1, rng=np.random.default_rng(0)),
        ):
            with pytest.raises(ZeroDivisionError):
                timed()
            assert gc.isenabled() is enabled
        with pytest.raises(KeyError), no_garbage_collection():
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert len(seen) > 20
    assert not any(seen)

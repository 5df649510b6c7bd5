"""The statistics on made-up samples with known truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.measure.stats import (
    DRIFT,
    PairedRatio,
    median_interval,
    paired_ratio,
    quiet_interval,
    spearman,
    student_t_995,
)


def neighbours(
    rng: np.random.Generator, *, rounds: int, spell_rounds: float, runs: int = 6, slow: float = 1.5, share: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Two equal things timed as `time_rounds` does, (rounds, runs) each, next to a neighbour that comes and goes.

    It makes calls `slow` times slower in spells of random length, `spell_rounds` rounds on average, for `share` of the
    time; besides, every call has heavy-tailed jitter, and one in 50 is interrupted for several times its length.
    """
    calls = rounds * 2 * runs
    leave = min(1.0, 1 / (spell_rounds * 2 * runs))
    enter = leave * share / (1 - share)
    slowed = np.empty(calls, dtype=bool)
    now, done = bool(rng.random() < share), 0
    while done < calls:
        length = int(rng.geometric(leave if now else enter))
        slowed[done : done + length] = now
        now, done = not now, done + length
    jitter = np.exp(0.02 * rng.standard_t(3, calls)) * (1 + (rng.random(calls) < 0.02) * rng.pareto(2, calls))
    times_ms = np.where(slowed, slow, 1.0) * jitter
    by_place = times_ms.reshape(rounds, 2, runs)
    first = np.where(rng.random(-(-rounds // 2)) < 0.5, 0, 1).repeat(2)[:rounds] ^ (np.arange(rounds) % 2)
    rows = np.arange(rounds)
    return by_place[rows, first], by_place[rows, 1 - first]


@pytest.mark.parametrize("spell_rounds", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("rounds", [40, 300])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(rounds: int, spell_rounds: float) -> None:
    """Neighbours whose spells are shorter than a burst, as long as a round, as long as a block, or longer."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        first, second = neighbours(rng, rounds=rounds, spell_rounds=spell_rounds)
        found = paired_ratio(first, second)
        assert found.ci95[0] <= found.ratio <= found.ci95[1]
        covered += found.ci95[0] <= 1 <= found.ci95[1]
    assert covered >= 0.97 * 400


def test_the_luck_of_a_load_is_in_the_interval() -> None:
    """Each load of a file runs 1% faster or slower for as long as it lives: rounds alone would not show it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        first, second = neighbours(rng, rounds=120, spell_rounds=1)
        luck = np.exp(rng.normal(0, 0.01, (2, 12))).repeat(10, axis=1)
        low, high = paired_ratio(first * luck[0][:, None], second * luck[1][:, None], blocks=12).ci95
        covered += low <= 1 <= high
    assert covered >= 0.97 * 400


@pytest.mark.parametrize("spell_rounds", [0.1, 1.0, 10.0, 100.0])
def test_a_tenth_more_work_is_told_apart(spell_rounds: float) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        first, second = neighbours(rng, rounds=300, spell_rounds=spell_rounds)
        found.append(paired_ratio(1.1 * first, second))
    assert sum(one.ci95[0] > 1 for one in found) >= 98
    assert np.median([one.ratio for one in found]) == pytest.approx(1.1, rel=0.01)


def test_the_ratio_by_hand() -> None:
    """Blocks of two rounds: log ratios (ln 2, ln 2), (ln 8, ln 8); middle ln 4, standard deviation ln 4 / √2. This
    measurement's error and the other's: √(2 / 2) of that each; 0.01 for the drift."""
    reference = np.array([[2.0, 2, 9], [7, 6, 99], [8, 8, 8], [50, 16, 17]])
    candidate = np.array([[1.0, 1, 1], [3, 30, 3], [1, 1, 1], [2, 2, 7]])
    found = paired_ratio(reference, candidate, blocks=2)
    half = math.hypot(63.657 * math.log(4) / math.sqrt(2), 0.01)
    assert found.ratio == pytest.approx(4)
    assert np.log(found.ci95) == pytest.approx([math.log(4) - half, math.log(4) + half])
    assert found.blocks == 2


@given(st.integers(2, 60), st.integers(1, 5), st.floats(0.1, 10), st.integers(0, 2**32 - 1))
def test_the_ratio_turns_round_with_its_sides(rounds: int, runs: int, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.lognormal(size=(2, rounds, runs))
    found, turned = paired_ratio(factor * first, second), paired_ratio(second, factor * first)
    assert found.ci95[0] <= found.ratio <= found.ci95[1]
    assert found.ratio * turned.ratio == pytest.approx(1)
    assert found.ci95[0] * turned.ci95[1] == pytest.approx(1)


def test_without_noise_the_interval_is_the_drift_to_either_side() -> None:
    found = paired_ratio(np.full((8, 3), 6.0), np.full((8, 3), 2.0))
    assert (found.ratio, *found.ci95) == pytest.approx((3.0, 3.0 * math.exp(-DRIFT), 3.0 * math.exp(DRIFT)))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 2), (0, 0)])
def test_rounds_that_are_no_pairs(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="paired rounds are needed"):
        paired_ratio(np.ones((first, 2)), np.ones((second, 2)))


def test_students_quantile() -> None:
    """From tables: 63.657, 3.250 and 2.845 for 1, 9 and 20 degrees of freedom, 2.750 for 30, 2.617 for 120."""
    assert [student_t_995(n) for n in (1, 9, 20)] == [63.657, 3.250, 2.845]
    assert student_t_995(21) == pytest.approx(2.831, abs=2e-3)
    assert student_t_995(30) == pytest.approx(2.750, abs=1e-3)
    assert student_t_995(120) == pytest.approx(2.617, abs=1e-3)


def test_intervals_of_median_and_quiet_time() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        samples_ms = rng.normal(2.0, 0.1, (60, 6))
        low, high = median_interval(samples_ms)
        assert low <= np.median(samples_ms) <= high < 1.1 * low
        covered += low <= 2.0 <= high
    assert covered >= 50
    quiet_low, quiet_high = quiet_interval(samples_ms)
    assert samples_ms.min() <= quiet_low <= quiet_high < low
    assert quiet_interval(samples_ms) == (quiet_low, quiet_high)


def test_another_measurement_of_unlucky_loads_is_in_the_interval() -> None:
    """Of the loads of each measurement one in eight is a tenth slower, and between the two something drifts."""
    rng = np.random.default_rng(0)

    def found() -> PairedRatio:
        first, second = neighbours(rng, rounds=60, spell_rounds=1)
        luck = np.exp(np.where(rng.random(10) < 1 / 8, 0.1, 0.0) + rng.normal(0, 0.004, 10)).repeat(6)
        return paired_ratio(first, second * luck[:, None] * math.exp(rng.normal(0, 0.003)), blocks=10)

    pairs = [(found(), found()) for _ in range(400)]
    assert sum(one.ci95[0] <= other.ratio <= one.ci95[1] for one, other in pairs) >= 0.95 * 400
    assert np.median([one.ci95[1] / one.ci95[0] for one, _ in pairs]) < 1.2  # and it says something


def test_ranks() -> None:
    """Ranks 1, 2.5, 2.5, 4 of both; turned round -1; equal values have no order."""
    assert spearman([1, 5, 5, 9], [0, 2, 2, 3]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1], [1, 2]))

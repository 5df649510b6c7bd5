"""Ladders by hand, and what must hold of any: widths that are worth having, in order, the full one among them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.prediction.staircase import (
    NO_STEP,
    STEP_TOLERANCE,
    Step,
    alignment,
    candidate_widths,
    scanned_widths,
    settled_steps,
    staircase,
    thinned,
)


def test_a_staircase_by_hand() -> None:
    """Times as they were seen once: 24 is no faster than 32, and 48 is hardly faster than 49."""
    times = {8: 62, 16: 62.5, 17: 117, 24: 150, 31: 253, 32: 150, 48: 298, 49: 300, 63: 707, 64: 486}
    assert staircase(tuple(times), times.__getitem__) == (16, 17, 32, 49, 64)


def test_a_flat_or_rising_staircase_has_one_step() -> None:
    assert staircase((2, 4, 8), lambda width: 1.0) == (8,)
    assert staircase((2, 4, 8), lambda width: 1.0 / width) == (8,)
    assert staircase((4, 8, 2), float) == (2, 4, 8)


@given(st.dictionaries(st.integers(1, 100), st.floats(0.01, 10), min_size=1))
def test_every_rung_is_faster_than_all_wider_ones(times: dict[int, float]) -> None:
    ladder = staircase(tuple(times), times.__getitem__)
    assert ladder[-1] == max(times)
    for narrow, wide in itertools.combinations(ladder, 2):
        assert narrow < wide
        assert times[narrow] < times[wide]


@pytest.mark.parametrize("step", [4, 8, 16])
def test_steps_are_found_where_they_lie(step: int) -> None:
    widths = range(32, 65)
    assert alignment(widths, [-(-width // step) * step for width in widths]).width == step


def test_a_straight_line_has_no_steps() -> None:
    assert alignment(range(48, 65), [3.0 * width + 10 for width in range(48, 65)]) == NO_STEP
    assert alignment([1, 2], [1.0, 2.0]) == NO_STEP


@pytest.mark.parametrize(
    ("channels", "step", "min_keep", "expected"),
    [
        (64, 16, 0.125, (8, 16, 32, 48, 64)),
        (20, 8, 0.3, (6, 8, 16, 20)),
        (5, 8, 1.0, (5,)),
        (1, 8, 0.125, (1,)),
        (480, 8, 0.1, (48, *range(64, 480, 32), 480)),  # every fourth multiple: 54 would take for ever
    ],
)
def test_candidates_by_hand(channels: int, step: int, min_keep: float, expected: tuple[int, ...]) -> None:
    assert candidate_widths(channels, step=step, min_keep=min_keep) == expected


@given(st.integers(1, 3000), st.integers(1, 64), st.floats(0.001, 1))
def test_candidates_are_few_and_end_at_full(channels: int, step: int, min_keep: float) -> None:
    widths = candidate_widths(channels, step=step, min_keep=min_keep)
    assert list(widths) == sorted(set(widths))
    assert widths[-1] == channels
    assert widths[0] == max(1, round(min_keep * channels))
    assert len(widths) <= 27


def test_narrow_groups_are_scanned_whole() -> None:
    assert scanned_widths(6, min_keep=0.3) == (2, 3, 4, 5, 6)
    assert scanned_widths(64, min_keep=0.125) == tuple(range(48, 65))


@given(st.lists(st.integers(1, 500), min_size=2, max_size=40, unique=True), st.integers(2, 12))
def test_a_thinned_ladder_keeps_its_ends(widths: list[int], max_rungs: int) -> None:
    ladder = tuple(sorted(widths))
    kept = thinned(ladder, float, max_rungs=max_rungs)
    assert len(kept) == min(len(ladder), max_rungs)
    assert set(kept) <= set(ladder)
    assert (kept[0], kept[-1]) == (ladder[0], ladder[-1])


@given(st.dictionaries(st.integers(1, 300), st.floats(0, 100), min_size=1, max_size=40))
def test_what_is_no_rung_is_matched_by_a_wider_one(times: dict[int, float]) -> None:
    ladder = staircase(tuple(times), times.__getitem__)
    assert list(ladder) == sorted(set(ladder))
    for width in set(times) - set(ladder):
        assert any(times[rung] * (1 - STEP_TOLERANCE) <= times[width] for rung in ladder if rung > width)


def notched(widths: range, step: int, depth: float = 0.3) -> list[float]:
    """Time that grows with the width, and multiples of `step` faster by `depth`."""
    return [1 + 0.01 * width - (depth if width % step == 0 else 0) for width in widths]


@pytest.mark.parametrize("step", [2, 3, 4, 8])
def test_the_multiples_that_stand_out_are_found(step: int) -> None:
    """Every second of them is as fast, and no reason to leave out the others."""
    assert alignment(range(48, 65), notched(range(48, 65), step)).width == step


def test_multiples_of_eight_that_are_faster_still() -> None:
    times = [1 - (0.2 if width % 4 == 0 else 0) - (0.2 if width % 8 == 0 else 0) for width in range(48, 65)]
    assert alignment(range(48, 65), times).width == 8


@given(st.floats(0.001, 10), st.floats(0.0, 1.0))
def test_no_straight_line_has_steps(offset: float, slope: float) -> None:
    assert alignment(range(48, 65), [offset + slope * width for width in range(48, 65)]) == NO_STEP


def test_too_little_to_see_steps() -> None:
    assert alignment((8,), (1.0,)) == NO_STEP
    assert alignment(range(1, 9), notched(range(1, 9), 4, depth=0.001)) == NO_STEP
    assert alignment(range(48, 65), [0.0] * 17) == NO_STEP


@given(st.lists(st.floats(0, 10), max_size=17), st.integers(17, 300))
def test_steps_have_two_multiples_among_the_widths(times: list[float], top: int) -> None:
    widths = range(top - len(times) + 1, top + 1)
    found = alignment(widths, times).width
    assert found == 1 or (found > 1 and sum(width % found == 0 for width in widths) >= 2)


def test_a_step_that_hardly_shows_gives_way_to_the_commonest_clear_one() -> None:
    clear = {"a": Step(16, 0.2), "b": Step(16, 0.07), "c": Step(8, 0.3)}
    assert settled_steps({**clear, "d": Step(21, 0.03), "e": NO_STEP}) == {"a": 16, "b": 16, "c": 8, "d": 16, "e": 16}
    assert settled_steps({"d": Step(21, 0.03), "e": NO_STEP}) == {"d": 21, "e": 1}
    assert settled_steps({}) == {}


@given(st.integers(1, 3000), st.integers(1, 64), st.floats(0.001, 1))
def test_candidates_between_the_ends_are_multiples(channels: int, step: int, min_keep: float) -> None:
    inner = candidate_widths(channels, step=step, min_keep=min_keep)[1:-1]
    assert all(width % step == 0 for width in inner)
    assert len({after - before for before, after in itertools.pairwise(inner)}) <= 1


@given(st.integers(1, 3000), st.floats(0.001, 1))
def test_scanned_widths_are_a_row_that_ends_at_all_channels(channels: int, min_keep: float) -> None:
    widths = scanned_widths(channels, min_keep=min_keep)
    assert widths == tuple(range(widths[0], channels + 1))
    assert widths[0] >= max(1, round(min_keep * channels))
    assert len(widths) <= 17


def test_thinning_by_hand() -> None:
    """Of times 1 … 9, four rungs: the ends, and those nearest to 3.67 and 6.33; of squares, the nearest to 32."""
    assert thinned(range(1, 10), float, max_rungs=4) == (1, 4, 6, 9)
    assert thinned(range(1, 10), float, max_rungs=2) == (1, 9)
    assert thinned((2, 4, 8), float, max_rungs=3) == (2, 4, 8)
    assert thinned(range(9), lambda width: float(width * width), max_rungs=3) == (0, 6, 8)

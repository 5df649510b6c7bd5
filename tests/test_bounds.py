"""Numbers from outside: what lies in the range comes back, everything else is refused by name."""

import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import InputError, shown
from autoprune.foundation.bounds import real_number, thread_count, whole_number

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.integers()),
    st.complex_numbers(),
)


@given(value=ANYTHING)
def test_a_real_number_is_finite_and_in_range_or_refused(value: object) -> None:
    is_right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 100
    if is_right:
        assert real_number("price", value, least=0, most=100, above_least=True) == value
    else:
        with pytest.raises(InputError, match=r"^price: must be a finite number above 0 to 100, got "):
            real_number("price", value, least=0, most=100, above_least=True)


@given(value=ANYTHING)
def test_a_whole_number_is_in_range_or_refused(value: object) -> None:
    is_right = isinstance(value, int) and not isinstance(value, bool) and -3 <= value <= 5
    if is_right:
        assert whole_number("look", value, least=-3, most=5) == value
    else:
        with pytest.raises(InputError, match=r"^look: must be a whole number from -3 to 5, got "):
            whole_number("look", value, least=-3, most=5)


def test_numpys_numbers_are_numbers() -> None:
    assert real_number("price", np.float32(0.5), least=0, most=math.inf) == 0.5
    assert type(whole_number("count", np.int64(3), least=0)) is int
    for value in (np.bool_(True), np.array(1.0), np.float64("nan"), np.float64("inf")):
        with pytest.raises(InputError):
            real_number("price", value, least=0, most=math.inf)
    with pytest.raises(InputError):  # more than a float holds
        real_number("price", 10**400, least=0, most=math.inf)


@pytest.mark.parametrize("threads", [0, -1, 10**6, 1.5, "2", None, True])
def test_threads_are_those_of_this_machine(threads: object) -> None:
    with pytest.raises(InputError, match=f"^threads: must be a whole number from 1 to {os.cpu_count()}, got "):
        thread_count("threads", threads)


def test_long_values_are_cut() -> None:
    assert shown("a") == "'a'"
    assert shown("a" * 5000) == "'" + "a" * 78 + " … " + "a" * 78 + "' (5,002 characters)"
    assert shown(10**5000) == "a int that cannot be shown"

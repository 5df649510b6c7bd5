"""Work done in forked processes comes out as if it had been done here."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from autoprune.compute.processes import in_forks


def test_results_come_in_the_order_of_the_items() -> None:
    kept = os.getpid()  # a closure needs not be pickled
    found = in_forks(lambda number: (number**2, os.getpid() == kept), range(200), workers=2)
    assert found == [(number**2, False) for number in range(200)]
    assert in_forks(str, [], workers=2) == []


def test_what_the_first_item_raises_is_raised() -> None:
    def refuse(number: int) -> None:
        if number in (37, 150):
            raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 37"):
        in_forks(refuse, range(200), workers=2)


def test_a_killed_process_is_told() -> None:
    with pytest.raises(BrokenProcessPool):
        in_forks(lambda _: os.kill(os.getpid(), signal.SIGKILL), range(4), workers=2)

"""Searches are what they were: the same policies in the same order, the same rewards."""

import pytest
from golden_runs import DEMO_SEARCHERS, TOY_SEEDS, Course, demo_course, demo_problem, golden, toy_course
from test_searchers import installed

from autoprune.policies.table import KINDS


def _same(found: Course, written: Course) -> None:
    assert [rungs for rungs, _ in found] == [rungs for rungs, _ in written]
    assert [reward for _, reward in found] == pytest.approx([reward for _, reward in written], rel=1e-9)


@pytest.mark.parametrize("seed", TOY_SEEDS)
@pytest.mark.parametrize("searcher", installed(sorted(KINDS)))
def test_each_searcher_goes_the_way_that_it_went_on_the_toy(searcher: str, seed: int) -> None:
    _same(toy_course(searcher, seed), golden(f"toy_{searcher}")[str(seed)])


@pytest.mark.parametrize("searcher", DEMO_SEARCHERS)
def test_searches_of_the_demo_go_the_way_that_they_went(searcher: str) -> None:
    _same(demo_course(searcher, demo_problem()), golden(f"demo_{searcher}"))

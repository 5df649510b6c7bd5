"""Evolution's parts: mixtures of two parents, and how a child is brought under the limits."""

from functools import partial

import numpy as np
import pytest

from autoprune.policies.evolution import EvolutionSearcher, EvolutionSettings, mixed
from autoprune.policies.exploration import Exploration, lone_savings, settle
from autoprune.search.loop import run_search
from autoprune.search.toy import toy_optimum, toy_problem


def test_a_mixture_takes_each_rung_from_either_parent() -> None:
    rng = np.random.default_rng(0)
    first, second = [0] * 40, [1] * 40
    child = mixed(first, second, rng)
    assert set(child) == {0, 1}
    assert mixed(first, first, rng) == first


@pytest.mark.parametrize("seed", range(20))
def test_others_than_the_kept_groups_pay_first(seed: int) -> None:
    """The first group alone at full width leaves room, so it need not pay; it is never widened beyond what it is."""
    problem = toy_problem()
    rng = np.random.default_rng(seed)
    for rungs in ([4, 4, 4, 4], [4, 0, 0, 0], [1, 2, 3, 4]):
        settled = settle(problem, rungs, Exploration(), lone_savings(problem), keep=frozenset({0}), rng=rng)
        assert problem.is_feasible(tuple(settled))
        assert settled[0] == rungs[0]


def test_the_oldest_leave_and_the_optimum_is_found_all_the_same() -> None:
    """A population of four: most of what did well is forgotten on the way, but not by the result."""
    small = EvolutionSettings(population=4, drawn=2)
    result = run_search(partial(EvolutionSearcher, settings=small), toy_problem(), max_evaluations=150, seed=0)
    assert result.best == toy_optimum()


@pytest.mark.parametrize("seed", range(2, 12))
def test_most_seeds_find_the_toys_optimum_quickly(seed: int) -> None:
    result = run_search(
        partial(EvolutionSearcher, settings=EvolutionSettings()), toy_problem(), max_evaluations=100, seed=seed
    )
    assert result.best == toy_optimum()

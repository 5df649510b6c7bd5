"""How agents look around: noise on a few groups, and branches that go or come back as a whole."""

from collections import Counter
from dataclasses import replace

import numpy as np
from problems_for_tests import group

from autoprune.policies.exploration import Exploration, vary

GROUPS = (group("trunk", 2, 4, 8), group("gone", 0, 2, 4, 8), group("there", 0, 2, 4, 8), group("tail", 2, 6))
BASE = (1, 0, 3, 1)


def test_a_branch_goes_or_comes_back_and_nothing_else_changes() -> None:
    always = Exploration(toggle=1.0)
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(200):
        rungs, changed = vary(GROUPS, BASE, always, noise=0.3, rng=rng)
        seen[tuple(rungs), changed] += 1
    # The branch that is gone comes back at its middle rung; the one that is there goes.
    back, away = ((1, 1, 3, 1), frozenset({1})), ((1, 0, 0, 1), frozenset({2}))
    assert seen.keys() == {back, away}
    assert 70 < seen[back] < 130


def test_a_branch_of_two_rungs_comes_back_whole() -> None:
    rungs, _ = vary((group("a", 0, 8),), (0,), Exploration(toggle=1.0), noise=0.3, rng=np.random.default_rng(0))
    assert rungs == [1]


def test_without_branches_there_is_only_noise() -> None:
    whole = (GROUPS[0], GROUPS[3])
    settings = Exploration(changed_groups=1.0)
    for seed in range(20):
        drawn = [
            vary(whole, (1, 1), replace(settings, toggle=toggle), noise=0.3, rng=np.random.default_rng(seed))
            for toggle in (0.0, 1.0)
        ]
        assert drawn[0] == drawn[1]
        assert len(drawn[0][1]) == 1

"""Mixtures of levels: which levels work best together, worked out by hand."""

import numpy as np
import pytest
from routing_for_tests import answers_by_chance, judged_by_labels

from autoprune.adaptive.routing.mixture import Mixture, mixtures
from autoprune.adaptive.routing.routing import LevelAnswers

SURE, UNSURE, RIGHT = [0.9, 0.1], [0.4, 0.6], [0.8, 0.2]


def _answers(latency_ms: tuple[float, float, float]) -> LevelAnswers:
    """Ten images of class 0: the first level is sure and right of eight, unsure and wrong of two; both others are right
    of all."""
    small = [SURE] * 8 + [UNSURE] * 2
    large = [RIGHT] * 10
    return judged_by_labels(
        np.array([small, large, large], dtype=np.float32), np.zeros(10, dtype=np.int64), latency_ms=latency_ms
    )


def test_the_level_that_adds_nothing_is_left_out() -> None:
    """Levels of 1, 2 and 4 ms: two of ten images go on to the second, for 1 + 0.2 * 2 ms."""
    found = mixtures(_answers((1.0, 2.0, 4.0)), most_levels=3, max_drop=0.0)
    assert [mixture.levels for mixture in found] == [(0, 1), (0, 1, 2), (0, 2), (1, 2)]
    assert [mixture.estimated_latency_ms for mixture in found] == pytest.approx([1.4, 1.4, 1.8, 2.0])
    assert all(mixture.holds and mixture.worth == 1.0 for mixture in found)


def test_a_small_level_that_costs_too_much_loses_to_a_pair_without_it() -> None:
    """At 1.9 ms for the smallest level, 1.9 + 0.2 * 2 ms is more than the second level alone, which runs first in
    the pair of the larger two."""
    found = mixtures(_answers((1.9, 2.0, 4.0)), most_levels=2, max_drop=0.0)
    assert found[0] == Mixture((1, 2), holds=True, worth=1.0, estimated_latency_ms=2.0)


def test_what_may_be_lost_makes_a_mixture_cheaper() -> None:
    """With a fifth of the images to lose the smallest level is enough."""
    found = mixtures(_answers((1.0, 2.0, 4.0)), most_levels=2, max_drop=0.2)
    assert (found[0].worth, found[0].estimated_latency_ms) == pytest.approx((0.8, 1.0))


def test_mixtures_that_do_not_hold_come_last() -> None:
    """Without the third level, which alone is right of all, nothing holds."""
    answers = _answers((1.0, 2.0, 4.0))
    worse = np.array([[SURE] * 8 + [UNSURE] * 2, [SURE] * 9 + [UNSURE], [RIGHT] * 10], dtype=np.float32)
    found = mixtures(judged_by_labels(worse, answers.labels, (1.0, 2.0, 4.0)), most_levels=2, max_drop=0.0)
    assert [mixture.levels for mixture in found][-1] == (0, 1)
    assert [mixture.holds for mixture in found] == [True, True, False]
    assert found[-1].worth == pytest.approx(0.9)


def test_every_choice_of_levels_is_tried_once() -> None:
    answers = answers_by_chance(300, seed=3, levels=4)
    found = mixtures(answers, most_levels=3, max_drop=0.0)
    assert len({mixture.levels for mixture in found}) == len(found) == 6 + 4
    assert len(mixtures(answers, most_levels=5, max_drop=0.0)) == 6 + 4 + 1

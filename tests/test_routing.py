"""Routes and what they come to, worked out by hand; the fronts of cascades."""

import numpy as np
import pytest
from routing_for_tests import LATENCY_MS, always, answers_by_chance, answers_by_hand, at_random

from autoprune.adaptive.routing.operating_point import cascade_points
from autoprune.adaptive.routing.routers import ALWAYS, Cascade, priced
from autoprune.adaptive.routing.routing import (
    LevelAnswers,
    figures_of,
    follow,
    joined,
    oracle,
)


def test_a_cascade_by_hand() -> None:
    """Below 0.7 an image goes on: 2 and 3 from the first level, 3 (at 0.6) from the second too."""
    answers = answers_by_hand(router_ms=0.5)
    route = follow(Cascade((0.7, 0.7)), answers)
    assert route.final.tolist() == [0, 0, 1, 2]
    assert route.ran.tolist() == [[True] * 4, [False, False, True, True], [False, False, False, True]]
    found = figures_of(route, answers)
    assert found.accuracy == 0.75
    # 4 runs of 1 ms, 2 of 2 ms, 1 of 4 ms, and six decisions of half a millisecond: 15 ms for four images.
    assert found.estimated_latency_ms == 3.75
    assert found.level_share == (0.5, 0.25, 0.25)


def test_a_cascade_goes_on_with_fewer_images_the_dearer_time_is() -> None:
    """From all of them at no price to none at the highest; at the usual price as the thresholds say."""
    for threshold in (0.0, 0.3, 0.9, 1.01):
        assert [priced(threshold, price) for price in (0.0, 0.5, 1.0, 7.0)] == [ALWAYS, threshold, 0.0, 0.0]
        moved = [priced(threshold, price) for price in np.linspace(0, 1, 21)]
        assert moved == sorted(moved, reverse=True)
    assert priced(0.8, 0.75) == pytest.approx(0.4)
    assert priced(0.8, 0.25) == pytest.approx(0.91)
    answers = answers_by_hand()
    assert follow(Cascade((0.7, 0.7), price=0.0), answers).final.tolist() == [2] * 4
    assert follow(Cascade((0.7, 0.7), price=1.0), answers).final.tolist() == [0] * 4


def test_always_runs_the_smallest_level_and_then_the_one_named() -> None:
    answers = answers_by_hand()
    for level, (accuracy, latency_ms) in enumerate(((0.25, 1.0), (0.5, 3.0), (1.0, 5.0))):
        found = figures_of(follow(always(level), answers), answers)
        assert (found.accuracy, found.estimated_latency_ms) == (accuracy, latency_ms)


def test_a_router_cannot_go_down_nor_beyond_the_largest_level() -> None:
    answers = answers_by_hand()
    beyond = follow(lambda level, probabilities: np.full(len(probabilities), 9), answers)
    assert beyond.final.tolist() == [2] * 4
    assert beyond.ran.sum(1).tolist() == [4, 0, 4]
    down = follow(lambda level, probabilities: np.full(len(probabilities), -1), answers)
    assert down.final.tolist() == [0] * 4


def test_the_oracle_by_hand() -> None:
    """Image 0 stops, 1 and 3 need the third level, 2 the second."""
    answers = answers_by_hand()
    found = figures_of(oracle(answers), answers)
    assert found.accuracy == 1.0
    assert found.estimated_latency_ms == pytest.approx(1.0 + (4.0 + 2.0 + 4.0) / 4)
    # Where no level is right nothing is spent on it.
    hopeless = LevelAnswers(answers.probabilities, np.full(4, 9), answers.teacher, LATENCY_MS)
    assert figures_of(oracle(hopeless), hopeless).estimated_latency_ms == 1.0


def test_a_random_router_goes_on_as_often_as_it_is_told() -> None:
    answers = answers_by_chance(4000, seed=0)
    found = figures_of(follow(at_random((0.25, 0.0), seed=1), answers), answers)
    assert found.level_share[1] == pytest.approx(0.25, abs=0.03)
    assert found.level_share[2] == 0.0


def test_cascades_of_the_front_get_better_as_they_get_slower_and_beat_chance() -> None:
    answers = answers_by_chance(3000, seed=1)
    points = cascade_points(answers)
    assert len(points) > 5
    latencies = [point.figures.estimated_latency_ms for point in points]
    accuracies = [point.figures.accuracy for point in points]
    assert latencies == sorted(latencies)
    assert accuracies == sorted(accuracies)
    assert points[0].figures.level_share == (1.0, 0.0, 0.0)
    budget_ms = 2.0
    chosen = max(
        (one for one in points if one.figures.estimated_latency_ms <= budget_ms), key=lambda one: one.figures.worth
    )
    by_chance = figures_of(follow(at_random((0.5, 0.0), seed=0), answers), answers)  # 2 ms as well
    assert by_chance.estimated_latency_ms == pytest.approx(budget_ms, abs=0.1)
    assert chosen.figures.accuracy > by_chance.accuracy + 0.01


def test_worth_is_the_originals_probability_of_the_class_that_is_named() -> None:
    answers = answers_by_hand()
    assert answers.worth.tolist() == answers.right.astype(float).tolist()
    teacher = np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]], dtype=np.float32)
    taught = LevelAnswers(answers.probabilities, answers.labels, teacher, LATENCY_MS)
    # The first level names the classes 0, 1, 1, 1; the last one 0 for all.
    assert taught.worth[0].tolist() == pytest.approx([0.9, 0.3, 0.4, 0.5])
    assert taught.worth[2].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])


def test_answers_that_do_not_fit_are_refused() -> None:
    answers = answers_by_hand()
    with pytest.raises(ValueError, match="3 levels and 4 images do not fit 2 latencies"):
        LevelAnswers(answers.probabilities, answers.labels, answers.teacher, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"original's probabilities are \(1, 2\), not \(4, 2\)"):
        LevelAnswers(answers.probabilities, answers.labels, np.ones((1, 2), np.float32), LATENCY_MS)


def test_answers_joined_come_to_the_mean_of_their_parts() -> None:
    parts = [answers_by_chance(images, seed=images) for images in (40, 120)]
    whole = joined(parts)
    assert whole.probabilities.shape == (3, 160, 4)
    router = Cascade((0.7, 0.8))
    figures = [figures_of(follow(router, answers), answers) for answers in (*parts, whole)]
    for key in ("accuracy", "worth", "estimated_latency_ms"):
        small, large, both = (getattr(one, key) for one in figures)
        assert both == pytest.approx((small + 3 * large) / 4)

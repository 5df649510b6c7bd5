"""How far margins are trusted: by hand, where it is known, and what operating points gain by it."""

from dataclasses import replace

import numpy as np
import pytest

from autoprune.adaptive.routing.operating_point import cascades
from autoprune.adaptive.routing.routing import LevelAnswers, Trust, figures_of, follow, joined
from autoprune.adaptive.routing.trust import PRIOR, fitted_trust


def _answers(level: list[list[float]], original: list[list[float]], labels: list[int]) -> LevelAnswers:
    """Of a level, and of the original as the next one."""
    probabilities = np.array([level, original], dtype=np.float32)
    return LevelAnswers(probabilities, np.array(labels), probabilities[1], (1.0, 2.0))


def test_worth_by_hand() -> None:
    """The first image is answered alike. Of the second the original says class 0 by 0.6 to 0.3, the level class 1 by
    0.8 to 0.1: 0.6 - 0.5 * 0.3 + 0.2 * 0.7; with all trust in the original its probability of class 1."""
    answers = _answers([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1]], [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]], [0, 0])
    original, level = answers.margins
    assert original == pytest.approx(np.array([[0.0, 0.3], [0.0, 0.0]]))
    assert level == pytest.approx(np.array([[0.0, 0.7], [0.0, 0.0]]))
    assert answers.worth == pytest.approx(np.array([[0.7, 0.3], [0.7, 0.6]]))
    trusting = replace(answers, trust=Trust(original=0.5, level=0.2))
    assert trusting.worth == pytest.approx(np.array([[0.7, 0.59], [0.7, 0.6]]))


def test_fit_by_hand() -> None:
    """Of three images one is answered differently: the original by 0.5, the level by 0.4, and the level is right. With
    a prior of p the weights (o, l) solve (p + 0.25) o - 0.2 l = p - 0.5 and -0.2 o + (p + 0.16) l = 0.4."""
    answers = _answers([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]], [[0.8, 0.2], [0.9, 0.1], [0.75, 0.25]], [0, 1, 1])
    left = np.array([[PRIOR + 0.25, -0.2], [-0.2, PRIOR + 0.16]])
    expected = np.linalg.solve(left, np.array([PRIOR - 0.5, 0.4]))
    found = fitted_trust(answers)
    assert (found.original, found.level) == pytest.approx(tuple(expected), abs=1e-6)
    assert found.original < 1.0 and found.level > 0.0  # what it saw speaks for the level


@pytest.mark.parametrize("righter", ["level", "original"])
def test_no_margin_speaks_against_its_own_network(righter: str) -> None:
    """Half of the images are answered surely by one and hardly by the other, half the other way round, and one of them
    is right of all: least squares would take the other's sureness for a sign that it is wrong. Then the one is trusted
    as least squares of its margins alone have it: by hand, with margins of 0.8 and 0.2 and n images, 0.5 n to
    0.34 n, and the prior."""
    images = 3000
    level = [[0.1, 0.9], [0.4, 0.6]] * (images // 2)
    original = [[0.6, 0.4], [0.9, 0.1]] * (images // 2)
    found = fitted_trust(_answers(level, original, [int(righter == "level")] * images))
    told = (0.5 * images + PRIOR * (righter == "original")) / (0.34 * images + PRIOR)
    assert (found.original, found.level) == pytest.approx((0.0, told) if righter == "level" else (told, 0.0), abs=1e-5)


def test_nothing_that_differs_leaves_trust_as_it_is() -> None:
    same = [[0.9, 0.1], [0.2, 0.8]]
    assert fitted_trust(_answers(same, same, [1, 1])) == Trust()


def test_views_of_few_images_tell_no_more_than_the_images() -> None:
    answers = _answers([[0.3, 0.7]] * 4, [[0.75, 0.25]] * 4, [1, 1, 0, 1])
    ten = joined([answers] * 10)
    alone, viewed = fitted_trust(answers), fitted_trust(ten, views=10)
    assert (viewed.original, viewed.level) == pytest.approx((alone.original, alone.level), abs=1e-6)


def _many(seed: int, images: int, classes: int = 4) -> LevelAnswers:
    """A level that was taught by the original: it answers what the original does, less surely and with errors of its
    own. Both are too sure of themselves, as networks are."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=images)
    scores = generator.normal(0.0, 1.0, (images, classes))
    scores[np.arange(images), labels] += 5.0 * generator.uniform(0.0, 1.0, images)
    taught = 0.8 * scores + generator.normal(0.0, 0.4, (images, classes))
    exponentials = np.exp(2.0 * np.stack([taught, scores]))
    probabilities = (exponentials / exponentials.sum(2, keepdims=True)).astype(np.float32)
    return LevelAnswers(probabilities, labels, probabilities[1], (1.0, 4.0))


def test_the_fit_tells_what_a_level_loses() -> None:
    """On images that it was not fitted to, too: the loss in worth is the loss in accuracy, which margins taken as they
    are do not tell."""
    trust = fitted_trust(_many(0, 20_000))
    held_out = _many(1, 20_000)
    lost = float((held_out.right[1].astype(float) - held_out.right[0]).mean())
    fitted = replace(held_out, trust=trust).worth.mean(1)
    assert fitted[1] - fitted[0] == pytest.approx(lost, abs=0.006)


def test_a_point_chosen_by_worth_was_less_lucky() -> None:
    """The fastest cascade that loses half a point, chosen on 2,000 images and judged on 200,000 others, forty times:
    chosen by what it seems to lose it loses more than that by more, and how much is more of a chance."""
    judged = _many(1000, 200_000)
    lost = np.array([_lost(_many(seed, 2000), judged) for seed in range(40)])
    (by_counting, by_worth), (spread_counting, spread_worth) = lost.mean(0), lost.std(0)
    assert spread_worth < 0.8 * spread_counting
    assert abs(by_worth - 0.005) < abs(by_counting - 0.005)


def _lost(answers: LevelAnswers, judged: LevelAnswers) -> tuple[float, float]:
    """By how much accuracy falls on `judged`, at the point that counting chooses and the one that worth chooses."""
    answers = replace(answers, trust=fitted_trust(answers))
    points = cascades(answers)
    accuracy = float(answers.right[1].mean())
    worth = float(answers.worth[1].mean())
    counted = [point for point in points if point.figures.accuracy >= accuracy - 0.005]
    valued = [point for point in points if point.figures.worth >= worth - 0.005]
    found = []
    for allowed in (counted, valued):
        fastest = min(allowed, key=lambda point: point.figures.estimated_latency_ms)
        figures = figures_of(follow(fastest.router, judged), judged)
        found.append(float(judged.right[1].mean()) - figures.accuracy)
    return found[0], found[1]


def test_a_level_that_errs_where_it_is_surest_is_not_distrusted_for_being_sure() -> None:
    """Two hundred sure and wrong answers, whose errors are what is told of the original's margin alone."""
    answers = _answers([[0.05, 0.95]] * 200, [[0.6, 0.4]] * 200, [0] * 200)
    found = fitted_trust(answers)
    assert found.level == 0.0
    assert found.original == pytest.approx((200 * 0.2 + PRIOR) / (200 * 0.04 + PRIOR), rel=1e-5)


def test_an_image_that_several_levels_answer_differently_tells_no_more() -> None:
    answers = _answers([[0.3, 0.7]] * 4, [[0.75, 0.25]] * 4, [1, 1, 0, 1])
    thrice = answers.of_levels([0, 0, 0, 1])
    once, more = fitted_trust(answers), fitted_trust(thrice)
    assert (more.original, more.level) == pytest.approx((once.original, once.level), abs=1e-6)

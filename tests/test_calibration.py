"""Calibration of levels: by hand, and a level that drifts is found out."""

import numpy as np
import pytest
from routing_for_tests import answers_by_hand

from autoprune.calibration import (
    LARGEST_CHANGE,
    PRIOR,
    LevelCalibration,
    OnlineCalibration,
    as_text,
    calibrations,
    of_text,
)
from autoprune.routing import Route


def test_calibrations_by_hand() -> None:
    """The first level answers two images, one of them wrong; the second none; the third two."""
    answers = answers_by_hand()
    ran = np.array([[True] * 4, [False] * 4, [False, False, True, True]])
    final = np.array([0, 0, 2, 2])
    first, second, third = calibrations(Route(ran, final), answers)
    assert first is not None
    assert third is not None
    assert second is None
    assert first.error == pytest.approx(1.0 - answers.right[0, :2].mean())
    assert first.doubt == pytest.approx(1.0 - answers.probabilities[0, :2].max(1).mean())
    assert third.error == pytest.approx(1.0 - answers.right[2, 2:].mean())
    assert of_text(as_text((first, second, third))) == (first, second, third)


@pytest.mark.parametrize("text", ["{}", "[[1.0]]", '["a"]', "[[true, 0.5]]", "nothing"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        of_text(text)


def answered(count: int, *, error: float, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """`count` images of level 0, all as sure, of which a share is wrong."""
    probabilities = np.tile(np.array([confidence, 1.0 - confidence], dtype=np.float32), (count, 1))
    labels = (np.arange(count) < round(error * count)).astype(np.int64)
    return np.zeros(count, dtype=np.int64), probabilities, labels


def test_overconfidence_by_hand() -> None:
    """A tenth wrong where a tenth was doubted; then as many labels as the prior counts for, three tenths wrong."""
    found = OnlineCalibration([LevelCalibration(error=0.1, doubt=0.1), None])
    assert found.overconfidence.tolist() == [1.0, 1.0]
    found.learn(*answered(PRIOR, error=0.3, confidence=0.9))
    kept = np.exp(-PRIOR / 1000)
    assert found.overconfidence[0] == pytest.approx((0.1 * kept + 0.3) / (0.1 * kept + 0.1), rel=1e-2)
    for _ in range(50):
        found.learn(*answered(PRIOR, error=0.3, confidence=0.9))
    assert found.overconfidence[0] == pytest.approx(3.0, rel=1e-2)
    assert found.overconfidence[1] == 1.0  # a level that answered no image of the search split is left alone


def test_a_level_that_is_as_it_was_stays_at_one_and_nothing_goes_beyond_the_bounds() -> None:
    found = OnlineCalibration([LevelCalibration(error=0.02, doubt=0.04)])
    for _ in range(20):
        found.learn(*answered(500, error=0.02, confidence=0.96))
    assert found.overconfidence[0] == pytest.approx(1.0, rel=5e-3)
    for _ in range(20):
        found.learn(*answered(500, error=1.0, confidence=0.999))
    assert found.overconfidence[0] == LARGEST_CHANGE

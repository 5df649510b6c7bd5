"""What going on is worth: by hand, and drifts of either kind are found out."""

import numpy as np
import pytest
from routing_for_tests import answers_by_hand

from autoprune.adaptive.routing.calibration import (
    CALIBRATION,
    LARGEST_CHANGE,
    PRIOR,
    LevelCalibration,
    OnlineCalibration,
    calibrations,
)
from autoprune.adaptive.routing.routing import Route

# A tenth of what the first level answers is wrong, as it says; of what it hands on 4 of 10, of which 3 are set right.
EXPECTED = (LevelCalibration(0.1, 0.1, 0.4, 0.3), LevelCalibration(0.1, 0.1, 0.0, 0.0))


def test_calibrations_by_hand() -> None:
    """The first level answers two images and hands two on to the third; the second one never runs."""
    answers = answers_by_hand()
    ran = np.array([[True] * 4, [False] * 4, [False, False, True, True]])
    first, second, third = found = calibrations(Route(ran, np.array([0, 0, 2, 2])), answers)
    right, doubts = answers.right.astype(float), 1.0 - answers.probabilities.max(2)
    assert first.error == pytest.approx(1.0 - right[0, :2].mean())
    assert first.doubt == pytest.approx(doubts[0, :2].mean())
    assert first.handed_error == pytest.approx(1.0 - right[0, 2:].mean())
    assert first.handed_gain == pytest.approx((right[2, 2:] - right[0, 2:]).mean())
    assert second == LevelCalibration(0.0, 0.0, 0.0, 0.0)
    assert (third.error, third.handed_error) == (pytest.approx(1.0 - right[2, 2:].mean()), 0.0)
    assert CALIBRATION.read(CALIBRATION.text(found)) == found


@pytest.mark.parametrize("text", ["{}", "[[1.0]]", '["a"]', "[[true, 0.5, 0.5, 0.5]]", "[null]", "nothing"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        CALIBRATION.read(text)


def told(
    found: OnlineCalibration, count: int, *, error: float = 0.1, doubt: float = 0.1, set_right: float = 0.75
) -> None:
    """Labels of `count` images that the first of two levels answers, and of as many that it hands on.

    Of these it has 4 of 10 wrong, of which a share is set right; of all other answers the classes are 0 and right.
    """
    stopped = np.stack([np.zeros(count, dtype=np.int64), np.full(count, -1)])
    handed = np.zeros((2, count), dtype=np.int64)
    labels = np.zeros(2 * count, dtype=np.int64)
    labels[: round(error * count)] = 1  # answered wrong
    wrong = round(0.4 * count)
    labels[count : count + wrong] = 1
    handed[1, : round(set_right * wrong)] = 1
    probabilities = np.tile(np.array([1.0 - doubt, doubt], dtype=np.float32), (2 * count, 1))
    found.learn(np.concatenate([stopped, handed], axis=1), probabilities, labels)


def test_one_more_lot_of_labels_by_hand() -> None:
    """As many labels as the prior counts for, three tenths of the answers wrong where one tenth is doubted."""
    found = OnlineCalibration(EXPECTED)
    assert found.worth.tolist() == pytest.approx([1.0, 1.0])
    told(found, PRIOR, error=0.3)
    kept = np.exp(-PRIOR / 1000)
    assert found.worth[0] == pytest.approx((0.1 * kept + 0.3) / (0.1 * kept + 0.1), rel=1e-2)
    for _ in range(30):
        told(found, PRIOR, error=0.3)
    assert found.worth[0] == pytest.approx(3.0, rel=1e-2)


def test_larger_levels_that_set_fewer_errors_right_make_going_on_worth_less() -> None:
    found = OnlineCalibration(EXPECTED)
    for _ in range(30):
        told(found, PRIOR, set_right=0.375)
    assert found.worth[0] == pytest.approx(0.5, rel=2e-2)
    for _ in range(30):
        told(found, PRIOR, error=0.4, set_right=0.0)  # many errors, and nothing to be done about them
    assert found.worth[0] == 1.0 / LARGEST_CHANGE


def test_a_level_that_hands_nothing_on_any_more_tries_again() -> None:
    """Going on was worth nothing, so that nothing was handed on and no label could tell that it is worth something."""
    found = OnlineCalibration(EXPECTED)
    for _ in range(30):
        told(found, PRIOR, set_right=0.0)
    assert found.worth[0] == 1.0 / LARGEST_CHANGE
    answered = np.stack([np.zeros(100, dtype=np.int64), np.full(100, -1)])
    labels = (np.arange(100) < 10).astype(np.int64)
    probabilities = np.tile(np.array([0.9, 0.1], dtype=np.float32), (100, 1))
    for _ in range(10):
        found.learn(answered, probabilities, labels)
    assert found.worth[0] == 1.0 / LARGEST_CHANGE
    found.learn(answered, probabilities, labels)
    assert found.worth[0] == pytest.approx(1.0, rel=1e-2)


def test_levels_that_are_as_they_were_stay_at_one_and_nothing_goes_beyond_the_bounds() -> None:
    found = OnlineCalibration(EXPECTED)
    for _ in range(20):
        told(found, 500)
    assert found.worth.tolist() == pytest.approx([1.0, 1.0], rel=1e-2)
    for _ in range(20):
        told(found, 500, error=1.0, doubt=0.001)
    assert found.worth[0] == LARGEST_CHANGE

"""What an adaptive model is made of, worked out by hand: its levels, its operating point, what is compared with it."""

import numpy as np
import pytest
from routing_for_tests import answers_by_hand

from autoprune.adaptive.figures.examples import MOST_EXAMPLES, picked
from autoprune.adaptive.figures.figures import agreement, static_at_equal_accuracy
from autoprune.adaptive.figures.schema import RouteFigures
from autoprune.adaptive.file.measurement import ImageTimes
from autoprune.adaptive.levels.choice import Candidates
from autoprune.adaptive.routing.operating_point import OperatingPoint, at_budgets, chosen_point
from autoprune.adaptive.routing.routers import ALWAYS, Cascade
from autoprune.adaptive.routing.routing import LevelAnswers, RoutedFigures, figures_of, follow
from autoprune.errors import TargetError
from autoprune.policies.heuristics import nested
from autoprune.results.run import StaticFigures
from autoprune.search.toy import toy_optimum, toy_problem
from autoprune.space.policy import PruningPolicy


def test_budgets_by_hand() -> None:
    """Two cascades over three levels of 1, 2 and 4 ms: never on (1 ms, a quarter right) and always on (7 ms, all)."""
    answers = answers_by_hand()
    points = [
        OperatingPoint(router, figures_of(follow(router, answers), answers))
        for router in (Cascade((0.0, 0.0)), Cascade((ALWAYS, ALWAYS)))
    ]
    found = at_budgets(points, answers, {"cascade": 0.0, "learned": 0.0})
    assert [one.budget_ms for one in found] == pytest.approx([2.0, 3.0, 4.0, 5.0, 6.0])
    assert {(one.router, one.test_accuracy, one.estimated_latency_ms) for one in found} == {("cascade", 0.25, 1.0)}


def test_the_operating_point_by_hand() -> None:
    """The original is three quarters sure of each of four images, of the last one wrongly: that counts as much."""
    sure = np.array([0.75, 0.25])
    teacher = np.stack([sure, sure, sure, sure[::-1]]).astype(np.float32)
    answers = LevelAnswers(np.stack([teacher, teacher]), np.zeros(4, dtype=np.int64), teacher, (1.0, 2.0))
    points = [
        OperatingPoint(Cascade((0.5,)), RoutedFigures(0.8, worth, latency_ms, (1.0, 0.0), (1.0, 0.0)))
        for worth, latency_ms in ((0.5, 1.0), (0.7, 1.5), (0.75, 2.0), (0.8, 2.5))
    ]
    assert chosen_point(points, answers, max_drop=0.0, original_ms=9.0) is points[2]
    assert chosen_point(points, answers, max_drop=0.05, original_ms=9.0) is points[1]
    assert chosen_point(points[:2], answers, max_drop=0.0, original_ms=9.0) is points[1]
    # What is slower than the original is of no use unless it holds.
    assert chosen_point(points[:2], answers, max_drop=0.0, original_ms=1.2) is points[0]
    assert chosen_point(points[:2], answers, max_drop=0.0, original_ms=0.5) is points[1]


@pytest.mark.parametrize("seed", range(5))
def test_a_level_is_cut_back_to_be_nested_and_filled_up_elsewhere(seed: int) -> None:
    """What a group may not keep goes to others, as far as the limit and the larger level allow."""
    problem = toy_problem()
    rng = np.random.default_rng(seed)
    within = tuple(int(rng.integers(1, len(decision.ladder))) for decision in problem.decisions)
    best = toy_optimum().policy
    found = nested(problem, best, within)
    assert all(min(one, most) <= kept <= most for one, most, kept in zip(best, within, found, strict=True))
    assert problem.is_feasible(found)
    for place, option in enumerate(found):  # nothing that may be wider fits
        wider = (*found[:place], option + 1, *found[place + 1 :])
        assert option == within[place] or not problem.is_feasible(wider)


def test_agreement_by_hand() -> None:
    """Of three images the second is answered as its level does not."""
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    answered = np.array([[1.0, 0.25], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = agreement(ImageTimes(answered, np.array([0, 1, 1]), np.ones(3)), expected)
    assert (found.images, found.different_answers, found.largest_logit_difference) == (3, 1, 1.0)


def test_the_static_model_of_equal_accuracy_by_hand() -> None:
    def figures(accuracy: float, mean_ms: float) -> RouteFigures:
        return RouteFigures(
            test_accuracy=accuracy,
            latency_ms_mean=mean_ms,
            latency_ms_p50=mean_ms,
            latency_ms_p95=mean_ms,
            latency_ms_max=mean_ms,
            energy_mj=1.0,
            energy_source="estimated",
        )

    images = np.arange(1000)
    static = {"original": figures(0.93, 4.0), "pruned": figures(0.929, 2.0), "level 0": figures(0.90, 1.0)}
    right = {name: images < 1000 * one.test_accuracy for name, one in static.items()}

    def beside(accuracy: float, mean_ms: float) -> StaticFigures:
        measured = {**static, "adaptive": figures(accuracy, mean_ms)}
        return static_at_equal_accuracy(measured, {**right, "adaptive": images < 1000 * accuracy})

    found = beside(0.93, 1.5)
    assert (found.model, found.latency_ratio) == ("pruned", 0.75)  # one image of a thousand less tells nothing
    assert beside(0.9302, 1.5).model == "pruned"
    assert beside(0.936, 1.5).model == "original"  # seven less than it do tell; six do not
    assert beside(0.95, 1.5).model == "original"  # none is; it comes nearest
    assert beside(0.90, 0.9).model == "level 0"


def test_examples_are_of_all_classes_in_turn() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 0])
    levels = np.array([0, 0, 1, 0, 0, 0, 0])
    assert picked(labels, levels, 0) == [0, 3, 5, 1, 4, 6]
    assert picked(np.zeros(50, dtype=np.int64), np.zeros(50, dtype=np.int64), 0) == list(range(MOST_EXAMPLES))
    assert picked(labels, levels, 2) == []


def test_levels_that_are_one_policy_are_one_level() -> None:
    small, large = (PruningPolicy.of({"conv1": kept, "conv2": kept}) for kept in (4, 8))
    found = Candidates.of((0.2, 0.5, 1.0), (small, small, large), {})
    assert found.policies == (small, large)
    assert found.max_ratios == (0.2, 1.0)
    assert Candidates.of((0.2, 1.0), (small, large), {}).max_ratios == (0.2, 1.0)
    with pytest.raises(
        TargetError, match=r"adaptive\.max_ratios: the searches under 0\.4, 0\.5 of the latency found one"
    ):
        Candidates.of((0.4, 0.5), (small, small), {})

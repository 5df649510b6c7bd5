"""Closing in on the least cost that holds: worked by hand, then for any accuracies that the trials may come to."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.results.max_drop import NARROW, Drop, bracket, kept_trial, next_ratio, paired_drop
from autoprune.results.run import DropTrial

shares = st.floats(0.01, 0.99)


def trial(ratio: float, *, accepted: bool, reached: float | None = None, drop: float | None = None) -> DropTrial:
    return DropTrial(
        ratio=ratio,
        reached=ratio if reached is None else reached,
        search_accuracy=0.9,
        drop=(-0.001 if accepted else 0.001) if drop is None else drop,
        drop_se=0.001,
        accepted=accepted,
    )


def closed_in(holds: Callable[[float], bool], *, floor: float, max_trials: int) -> list[DropTrial]:
    """Trials until there is no next one, of policies that cost just what they may."""
    trials: list[DropTrial] = []
    while (ratio := next_ratio(trials, floor=floor, max_trials=max_trials)) is not None:
        trials.append(trial(ratio, accepted=holds(ratio)))
    return trials


def test_a_drop_by_hand() -> None:
    """Ten images: the original gets eight right; the candidate loses three of them and wins one."""
    original = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.bool)
    candidate = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 1, 0], dtype=torch.bool)
    drop = paired_drop(original[None], candidate[None])
    assert drop.share == pytest.approx(0.2)  # (3 - 1) / 10
    assert drop.se == pytest.approx(math.sqrt(3.6) / 10)  # 3 + 1 - 4 / 10
    assert paired_drop(candidate[None], original[None]) == Drop(-drop.share, drop.se)
    assert paired_drop(original[None], original[None]) == Drop(0.0, 0.0)


def test_views_of_an_image_count_as_one() -> None:
    """Four images in two views; the candidate loses both of the first, one of the second, and wins one of the third."""
    original = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    candidate = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    drop = paired_drop(original, candidate)
    assert drop.share == pytest.approx(0.25)  # (1 + 1/2 - 1/2 + 0) / 4
    # Squares of the images' differences from that: 9/16, 1/16, 9/16, 1/16, in the mean 5/16.
    assert drop.se == pytest.approx(math.sqrt(5 / 16 / 4))
    # The same views twice tell nothing new.
    assert paired_drop(original.repeat(2, 1), candidate.repeat(2, 1)) == drop


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_standard_error_is_that_of_the_differences(pairs: list[tuple[bool, bool]]) -> None:
    original, candidate = (torch.tensor(column) for column in zip(*pairs, strict=True))
    differences = original.double() - candidate.double()
    drop = paired_drop(original[None], candidate[None])
    assert drop.share == pytest.approx(differences.mean().item(), abs=1e-12)
    assert drop.se == pytest.approx(differences.std(correction=0).item() / math.sqrt(len(pairs)), abs=1e-9)


@pytest.mark.parametrize(
    ("lost", "max_drop", "within"),
    [(0, 0.0, True), (1, 0.0, False), (-1, 0.0, True), (25, 0.005, True), (26, 0.005, False), (3, 0.0006, True)],
)
def test_a_drop_is_judged_as_measured(lost: int, max_drop: float, within: bool) -> None:
    """Of 5,000 images; 0.0006 is three of them, which is no number that a computer can write down."""
    right = torch.ones(1, 5000, dtype=torch.bool)
    fewer = right.clone()
    fewer[0, : abs(lost)] = False
    drop = paired_drop(right, fewer) if lost >= 0 else paired_drop(fewer, right)
    assert drop.within(max_drop) == within


def test_trials_by_hand() -> None:
    """Half the cost of what held at most; the middle on a logarithmic scale once one has failed."""
    assert next_ratio([], floor=0.09, max_trials=9) == 0.5  # the middle of 0.09 and 1 is 0.3
    assert next_ratio([], floor=0.36, max_trials=9) == pytest.approx(0.6)
    held = trial(0.5, accepted=True)
    assert bracket([held], floor=0.09) == (0.09, 0.5)
    assert next_ratio([held], floor=0.09, max_trials=9) == 0.25
    failed = trial(0.25, accepted=False)
    assert bracket([held, failed], floor=0.09) == (0.25, 0.5)
    third = next_ratio([held, failed], floor=0.09, max_trials=9)
    assert third == pytest.approx(math.sqrt(0.125))
    # A policy that holds and costs less than it might has shown more.
    cheap = trial(0.36, reached=0.28, accepted=True)
    assert bracket([held, failed, cheap], floor=0.09) == (0.25, 0.28)
    assert next_ratio([held, failed, cheap], floor=0.09, max_trials=9) == pytest.approx(math.sqrt(0.25 * 0.28))
    assert next_ratio([held, failed, cheap], floor=0.09, max_trials=3) is None
    narrow = trial(0.27, reached=0.25 * NARROW, accepted=True)
    assert next_ratio([held, failed, cheap, narrow], floor=0.09, max_trials=9) is None
    # What holds below what failed leaves nothing to look for.
    odd = trial(0.3, reached=0.2, accepted=True)
    assert next_ratio([held, failed, odd], floor=0.09, max_trials=9) is None


def test_nothing_holds_or_everything_does() -> None:
    ratios = [tried.ratio for tried in closed_in(lambda _: False, floor=0.25, max_trials=5)]
    assert ratios == pytest.approx([2**-1, 2**-0.5, 2**-0.25, 2**-0.125, 2**-0.0625])
    down = [tried.ratio for tried in closed_in(lambda _: True, floor=0.25, max_trials=5)]
    assert down == pytest.approx([2**-1, 2**-1.5, 2**-1.75, 2**-1.875, 2**-1.9375])


def test_the_trial_that_is_kept_by_hand() -> None:
    fair, cheap = trial(0.5, accepted=True), trial(0.4, accepted=True)
    bad, worse = trial(0.3, accepted=False, drop=0.002), trial(0.35, accepted=False, drop=0.004)
    assert kept_trial([bad, fair, worse, cheap]) == 3
    assert kept_trial([fair, trial(0.6, reached=0.4, accepted=True, drop=-0.002), cheap]) == 1  # as cheap, and better
    assert kept_trial([worse, bad]) == 1
    assert kept_trial([bad, trial(0.31, reached=0.3, accepted=False, drop=0.002)]) == 0  # the same policy again


@given(shares, shares, st.integers(1, 12))
def test_with_an_accuracy_that_falls_with_the_cost_the_limit_is_closed_in_on(
    floor: float, limit: float, max_trials: int
) -> None:
    trials = closed_in(lambda ratio: ratio >= limit, floor=floor, max_trials=max_trials)
    low, high = bracket(trials, floor=floor)
    assert low <= max(limit, floor)
    assert limit <= high
    if len(trials) < max_trials:
        assert high <= low * NARROW
    accepted = [tried.ratio for tried in trials if tried.accepted]
    assert trials[kept_trial(trials)].ratio == (min(accepted) if accepted else trials[kept_trial(trials)].ratio)


@given(shares, st.integers(1, 12), st.data())
def test_whatever_the_trials_come_to(floor: float, max_trials: int, data: st.DataObject) -> None:
    """Few, each within the bracket, which only ever shrinks; what fails is no result if anything holds."""
    trials: list[DropTrial] = []
    low, high = bracket(trials, floor=floor)
    while (ratio := next_ratio(trials, floor=floor, max_trials=max_trials)) is not None:
        assert len(trials) < max_trials
        assert low < ratio < high
        reached = data.draw(st.floats(floor, max(floor, ratio)))
        drop = data.draw(st.floats(-0.1, 0.1))
        trials.append(trial(ratio, reached=reached, drop=drop, accepted=drop <= 0))
        narrower = bracket(trials, floor=floor)
        assert low <= narrower[0]
        assert narrower[1] <= high
        assert narrower != (low, high)
        low, high = narrower
    kept = trials[kept_trial(trials)]
    assert kept.accepted == any(tried.accepted for tried in trials)
    others = [tried for tried in trials if tried.accepted == kept.accepted]
    key = "reached" if kept.accepted else "drop"
    assert getattr(kept, key) == min(getattr(tried, key) for tried in others)

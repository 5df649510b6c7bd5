"""Times of a layer worked out from lines: exact where it was measured, and where all profiles are alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.prediction.layer_lines import ANCHORS, LayerLines, evenly_filled

WIDTHS = st.lists(st.integers(1, 300), min_size=1, max_size=9, unique=True).map(lambda widths: tuple(sorted(widths)))


def block(width: int, size: int = 16) -> int:
    return -(-width // size) * size


def product(inputs: int, outputs: int) -> float:
    """A staircase on both sides, and a constant."""
    return 0.003 + 1e-6 * block(inputs, 8) * block(outputs)


@given(WIDTHS, WIDTHS)
def test_a_few_times_tell_all_others_where_profiles_are_alike(
    inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    lines = LayerLines(inputs, outputs)
    asked: set[tuple[int, int]] = set()

    def time(*widths: int) -> float:
        asked.add(widths)  # type: ignore[arg-type]
        return product(*widths)

    for width in inputs:
        for other in outputs:
            assert lines.ms(width, other, time) == pytest.approx(product(width, other))
    assert asked <= set(lines.measured)
    assert len(lines.measured) <= len(inputs) + ANCHORS * len(outputs)


@given(WIDTHS, WIDTHS, st.data())
def test_what_lies_between_anchors_takes_a_time_between_theirs(
    inputs: tuple[int, ...], outputs: tuple[int, ...], data: st.DataObject
) -> None:
    """Whatever noise the times have."""
    lines = LayerLines(inputs, outputs)
    times = {widths: data.draw(st.floats(0, 10)) for widths in lines.measured}
    width = data.draw(st.integers(inputs[0], inputs[-1]))
    output = data.draw(st.sampled_from(outputs))
    ms = lines.ms(width, output, lambda *widths: times[widths])  # type: ignore[index]
    near = [anchor for anchor in lines.anchors if anchor <= width][-1:] + [a for a in lines.anchors if a >= width][:1]
    found = sorted(times[anchor, output] for anchor in near)
    assert found[0] - 1e-9 <= ms <= found[-1] + 1e-9
    assert lines.covers(width, output)
    assert not lines.covers(inputs[-1] + 1, output)
    assert not lines.covers(width, 301)


def test_the_profile_tells_where_a_step_lies() -> None:
    """By hand: with all outputs 8 inputs take as long as 12, so they do with fewer; 6 lie halfway between 4 and 8."""
    inputs = (4, 8, 12, 16, 20, 24, 28, 32, 36)
    profile = dict(zip(inputs, (2.0, 4.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0, 12.0), strict=True))
    lines = LayerLines(inputs, (2, 6))
    assert lines.anchors == (4, 12, 20, 28, 36)
    times = {(width, 6): ms for width, ms in profile.items()}
    times |= {(4, 2): 1.0, (12, 2): 3.0, (20, 2): 5.0, (28, 2): 6.0, (36, 2): 7.0}
    assert set(lines.measured) == times.keys()
    assert lines.ms(8, 2, lambda *widths: times[widths]) == 3.0  # type: ignore[index]
    assert lines.ms(6, 2, lambda *widths: times[widths]) == 2.0  # type: ignore[index]
    assert lines.ms(16, 2, lambda *widths: times[widths]) == 3.5  # type: ignore[index]


def test_groups_side_by_side_grow_together() -> None:
    assert evenly_filled([(1, 2, 4), (8, 16)]) == [(1, 8), (2, 8), (4, 16)]
    assert evenly_filled([(0, 5)]) == [(0,), (5,)]

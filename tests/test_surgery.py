"""`autoprune.inspect` and `autoprune.cut` on random programs: what is cut is right, whatever the program does."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_for_tests import assert_right, share_gone, with_distinct_values
from programs_for_tests import SIZE, Program, programs

import autoprune

UNTIMED = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check_program(program: Program, keep: float) -> float:
    model = with_distinct_values(program)
    inputs = (torch.randn(2, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)),)
    before = copy.deepcopy(model.state_dict())
    cut = autoprune.cut(model, inputs, keep)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert_right(cut, model, inputs)
    seen = autoprune.inspect(cut, inputs)
    assert seen.params == sum(parameter.numel() for parameter in cut.parameters())
    return share_gone(cut, model)


@settings(UNTIMED, max_examples=25)
@given(program=programs(), keep=st.sampled_from((0.25, 0.5, 0.8)))
def test_cuts_of_random_programs_are_right(program: Program, keep: float) -> None:
    check_program(program, keep)


@pytest.mark.slow
@settings(UNTIMED, max_examples=400)
@given(program=programs(), keep=st.sampled_from((0.2, 0.34, 0.5, 0.7, 0.9)))
def test_cuts_of_hundreds_of_random_programs_are_right(program: Program, keep: float) -> None:
    check_program(program, keep)

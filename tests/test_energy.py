"""Energy, worked out by hand; whoever reads a figure is told that it is estimated."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.prediction.energy import HOROWITZ, EnergyConstants, estimated_energy_mj, fit_constants
from autoprune.pruning.cost import LayerShape
from autoprune.search.problem import PredictedCost

CONV = LayerShape("conv", 3, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, (4, 4), (4, 4), bias=True)
LINEAR = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 1), (1, 1), bias=False)


def model(*, rows: int, pixels: int) -> list[LayerShape]:
    """One layer of `1000 * rows` multiply-adds, which moves `1000 + 1000 * pixels + rows` values."""
    return [LayerShape("linear", 1000, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1, (pixels, 1), (rows, 1), bias=False)]


MODELS = [
    model(rows=31_000, pixels=868),
    model(rows=4_000, pixels=295),
    model(rows=9_000, pixels=690),
    model(rows=20_000, pixels=379),
]


def test_energy_by_hand() -> None:
    """3,456 multiply-adds at 4.6 pJ; 224 weights, 48 inputs and 128 outputs at 100 pJ each."""
    conv_mj = (3_456 * 4.6 + (224 + 48 + 128) * 100) * 1e-9
    linear_mj = (60 * 4.6 + (60 + 12 + 5) * 100) * 1e-9
    assert (CONV.macs, CONV.values_moved) == (3_456, 400)
    assert estimated_energy_mj([CONV]) == pytest.approx(conv_mj)
    assert estimated_energy_mj([CONV, LINEAR]) == pytest.approx(conv_mj + linear_mj)
    assert estimated_energy_mj([]) == 0.0


def test_fewer_channels_take_less() -> None:
    whole, halved = (estimated_energy_mj([CONV.resized(in_channels=3, out_channels=n)]) for n in (8, 4))
    assert 0.5 * whole < halved < whole


@given(st.floats(0.1, 50), st.floats(1, 500), st.floats(0.001, 5))
def test_constants_that_made_the_figures_are_found_again(mac: float, moved: float, call: float) -> None:
    true = EnergyConstants(mac, moved, call)
    found = fit_constants(MODELS, [estimated_energy_mj(layers, true) for layers in MODELS])
    for layers in MODELS:
        assert estimated_energy_mj(layers, found) == pytest.approx(estimated_energy_mj(layers, true), rel=1e-4)


def test_no_constant_is_negative() -> None:
    """The call that does the most work takes least: nothing explains that, and the best guess is a constant."""
    found = fit_constants([[CONV], [CONV, CONV]], [2.0, 1.0])
    assert min(dataclasses.astuple(found)) >= 0
    # Least squares on relative errors: c / 2 - 1 and c - 1, so c = (0.5 + 1) / (0.25 + 1).
    assert found == EnergyConstants(0.0, 0.0, pytest.approx(1.2))


@pytest.mark.parametrize("measured_mj", [[], [1.0], [1.0, 0.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]])
def test_figures_that_fit_nothing(measured_mj: list[float]) -> None:
    with pytest.raises(ValueError, match="a positive measured energy is needed"):
        fit_constants(MODELS, measured_mj)


def test_names_say_estimated() -> None:
    fields = [field.name for field in dataclasses.fields(PredictedCost) if "energy" in field.name]
    assert fields == ["estimated_energy_mj"]
    assert dataclasses.astuple(HOROWITZ) == pytest.approx((4.6, 100.0, 0.0))

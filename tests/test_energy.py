"""Energy, worked out by hand; whoever reads a figure is told that it is estimated."""

import dataclasses

import pytest

from autoprune import energy
from autoprune.cost import LayerShape
from autoprune.energy import estimated_energy_mj
from autoprune.problem import PredictedCost

CONV = LayerShape("conv", 3, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, (4, 4), (4, 4), bias=True)
LINEAR = LayerShape("linear", 12, 5, (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 1), (1, 1), bias=False)


def test_energy_by_hand() -> None:
    """3,456 multiply-adds at 4.6 pJ; 224 weights, 48 inputs and 128 outputs at 100 pJ each."""
    conv_mj = (3_456 * 4.6 + (224 + 48 + 128) * 100) * 1e-9
    linear_mj = (60 * 4.6 + (60 + 12 + 5) * 100) * 1e-9
    assert estimated_energy_mj([CONV]) == pytest.approx(conv_mj)
    assert estimated_energy_mj(iter([CONV, LINEAR])) == pytest.approx(conv_mj + linear_mj)
    assert estimated_energy_mj([]) == 0.0


def test_fewer_channels_take_less() -> None:
    halved = CONV.resized(in_channels=3, out_channels=4)
    assert 0.5 * estimated_energy_mj([CONV]) < estimated_energy_mj([halved]) < estimated_energy_mj([CONV])


def test_names_say_estimated() -> None:
    functions = [
        name for name, value in vars(energy).items() if callable(value) and value.__module__ == energy.__name__
    ]
    assert functions == ["estimated_energy_mj"]
    fields = [field.name for field in dataclasses.fields(PredictedCost) if "energy" in field.name]
    assert fields == ["estimated_energy_mj"]

"""Fitting the energy estimate to a sensor, on one that knows what each call takes."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from models_for_tests import little_data

from autoprune.config import RunConfig, TargetConfig
from autoprune.measure import energy_measurement
from autoprune.models import ModelSpec, build_model
from autoprune.prediction import energy_model
from autoprune.prediction.energy import HOROWITZ, EnergyConstants, estimated_energy_mj
from autoprune.prediction.energy_model import ENERGY, MODELS, energy_constants
from autoprune.prediction.whole_models import whole_models
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.space.policy import PruningPolicy
from autoprune.store.trials import TrialStore

TRUE = EnergyConstants(pj_per_mac=500.0, pj_per_value_moved=9_000.0, mj_per_call=2.0)
CONFIG = RunConfig(target=(TargetConfig(metric="energy", max_ratio=0.5),))
INFO = little_data().info


class Ledger:
    """Two watts all the time, and what each call says that it adds."""

    name = "ledger"
    sampling_s = 0.01
    settle_s = 0.0005

    def __init__(self) -> None:
        self.called_j = 0.0
        self._started = time.perf_counter()

    def read_j(self) -> float:
        return self.called_j + 2.0 * (time.perf_counter() - self._started)

    def spend(self, millijoules: float) -> None:
        self.called_j += millijoules * 1e-3
        time.sleep(0.0002)


@pytest.fixture(scope="module")
def elastic() -> ElasticModel:
    model = build_model(ModelSpec("resnet20", 10, 1))
    groups = find_groups(model, INFO.input_shape).prunable
    return ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Each of the models takes what `TRUE` says of it."""
    made = Ledger()

    @contextlib.contextmanager
    def energies_mj(elastic: ElasticModel, policies: list[PruningPolicy], info: object) -> Iterator[list[float]]:
        """In the place of files."""
        shapes = CutShapes(elastic, INFO.input_shape)
        yield [estimated_energy_mj(shapes.layers(policy).values(), TRUE) for policy in policies]

    monkeypatch.setattr(energy_model, "exported_cuts", energies_mj)
    monkeypatch.setattr(energy_model, "black_images_call", lambda mj, info, measure: lambda: made.spend(mj))
    monkeypatch.setattr(energy_model, "SECONDS_A_MODEL", 0.2)
    monkeypatch.setattr(energy_model, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(energy_measurement, "GRAIN_S", 0.01)
    return made


def found(elastic: ElasticModel, config: RunConfig, sensor: Ledger | None, store: TrialStore | None = None):
    ladders = {group.name: (group.channels // 4, group.channels // 2, group.channels) for group in elastic.groups}
    shapes = CutShapes(elastic, INFO.input_shape)
    assert len(whole_models(shapes, ladders)) > MODELS
    return energy_constants(config, shapes, INFO, ladders, sensor=sensor, store=store)


def test_estimates_come_to_what_the_sensor_counts(elastic: ElasticModel, ledger: Ledger, tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    constants = found(elastic, CONFIG, ledger, store)
    shapes, full = CutShapes(elastic, INFO.input_shape), elastic.full_policy
    for policy in (full, PruningPolicy.of({name: width // 2 for name, width in full.channels})):
        layers = shapes.layers(policy).values()
        assert estimated_energy_mj(layers, constants) == pytest.approx(estimated_energy_mj(layers, TRUE), rel=0.1)
    spent_j = ledger.called_j
    assert found(elastic, CONFIG, ledger, store) == constants, "a resumed run estimates as before"
    assert ledger.called_j == spent_j, "and measures nothing again"


def test_published_constants_where_nothing_depends_on_energy_or_nothing_counts_it(
    elastic: ElasticModel, ledger: Ledger, tmp_path: Path
) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    assert found(elastic, RunConfig(), ledger, store) == HOROWITZ
    assert found(elastic, CONFIG, None, store) == HOROWITZ
    assert store.kept(ENERGY) is None
    assert ledger.called_j == 0.0


def test_models_that_cannot_be_told_from_idling_are_estimated(
    elastic: ElasticModel, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = energy_model.compare_energy
    monkeypatch.setattr(
        energy_model,
        "compare_energy",
        lambda calls, sensor, **times: [
            replace(reading, net_resolved=False) for reading in compare(calls, sensor, **times)
        ],
    )
    assert found(elastic, CONFIG, ledger) == HOROWITZ

"""Ladders and predictions from real measurements, and that a resumed run reads them back instead of measuring again."""

import itertools
import json
from pathlib import Path

import pytest
from models_for_tests import SMALL_NETS, elastic_net

from autoprune.config import MeasureConfig, SearchConfig
from autoprune.cost import CutShapes
from autoprune.data import DataInfo
from autoprune.latency_model import LADDERS_FACT, LatencyModel, build_latency_model
from autoprune.latency_table import candidate_widths
from autoprune.policy import PruningPolicy
from autoprune.trials import TrialStore

SEARCH = SearchConfig(min_keep=0.3, max_rungs=3)


def built(name: str, store: TrialStore | None) -> LatencyModel:
    elastic, shape = elastic_net(name), SMALL_NETS[name].input_shape
    info = DataInfo("test", ("a", "b"), *shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    shapes = CutShapes(elastic, shape)
    return build_latency_model(elastic, shapes, info, search=SEARCH, measure=MeasureConfig(), store=store)


def policies_on(ladders: dict[str, tuple[int, ...]]) -> list[PruningPolicy]:
    return [PruningPolicy(tuple(zip(ladders, widths, strict=True))) for widths in itertools.product(*ladders.values())]


@pytest.mark.parametrize("name", ["flatten", "concat"])
def test_ladders_ascend_to_all_channels(name: str) -> None:
    model = built(name, None)
    groups = elastic_net(name).groups
    assert list(model.ladders) == [group.name for group in groups]
    for group in groups:
        ladder = model.ladders[group.name]
        assert list(ladder) == sorted(set(ladder))
        assert ladder[-1] == group.channels
        assert set(ladder) <= set(candidate_widths(group.channels, min_keep=0.3, max_rungs=3))


def test_every_policy_on_the_ladders_is_known_beforehand() -> None:
    """No layer of this network belongs to more than two groups."""
    model = built("flatten", None)
    before = dict(model.predictor.table.entries)
    predicted = [model.predictor.predicted_latency_ms(policy) for policy in policies_on(dict(model.ladders))]
    assert model.predictor.table.entries == before
    assert all(0 < latency_ms < 100 for latency_ms in predicted)


def test_a_resumed_run_measures_nothing_again(tmp_path: Path) -> None:
    first = built("flatten", TrialStore(tmp_path / "trials.sqlite"))
    second = built("flatten", TrialStore(tmp_path / "trials.sqlite"))
    assert second.predictor.table.entries == first.predictor.table.entries
    assert second.predictor.fit == first.predictor.fit
    assert second.ladders == first.ladders
    assert (second.predictor.table.threads, second.predictor.table.batch_size) == (1, 1)
    for policy in policies_on(dict(first.ladders)):
        assert second.predictor.predicted_latency_ms(policy) == first.predictor.predicted_latency_ms(policy)


def test_the_report_finds_the_ladders(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    model = built("flatten", store)
    saved = store.fact(LADDERS_FACT)
    assert saved is not None
    assert {name: tuple(widths) for name, widths in json.loads(saved).items()} == model.ladders

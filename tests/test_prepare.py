"""The search problem of the shipped network on a little real data, prepared twice with one store."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from models_for_tests import elastic_net, little_data
from torch import nn

from autoprune.config import DataConfig, RunConfig, SearchConfig, TargetConfig
from autoprune.data import ImageSplit, SearchData
from autoprune.errors import InputError, ModelError, TargetError
from autoprune.models import ModelSpec, build_model, load_weights
from autoprune.prediction.latency_model import with_branch_rung
from autoprune.pruning.cost import count_cost
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.search.evaluate import Evaluator
from autoprune.search.fingerprint import fingerprint, scored_as
from autoprune.search.prepare import LATENCY_HEADROOM, PREPARED, Prepared, prepare, search_limits
from autoprune.search.problem import Limit, PredictedCost
from autoprune.search.racing import FIRST_LOOK
from autoprune.space.decision import Decision
from autoprune.steps.choice import FINALISTS_TRIED
from autoprune.store.trials import TrialStore

CONFIG = RunConfig(
    target=(TargetConfig(metric="macs", max_ratio=1.0), TargetConfig(metric="latency", max_value=1e6, unit="us")),
    search=SearchConfig(min_keep=0.5, max_rungs=2, score_images=100, calibration_images=128),
)


@dataclass(frozen=True)
class Twice:
    """`again` was prepared with the store that `first` had filled."""

    first: Prepared
    again: Prepared
    store: TrialStore
    trials: int


def shipped_resnet() -> nn.Module:
    model = build_model(ModelSpec("resnet20", 10, 1))
    load_weights(model, "resnet20-fashion-mnist")
    return model


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    path = tmp_path_factory.mktemp("prepare") / "trials.sqlite"
    first = prepare(CONFIG, shipped_resnet(), little_data(), store=TrialStore(path))
    trials = TrialStore(path).count()
    again = prepare(CONFIG, shipped_resnet(), little_data(), store=TrialStore(path))
    return Twice(first, again, TrialStore(path), trials)


@pytest.fixture
def groups(twice: Twice) -> tuple[Decision, ...]:
    return twice.first.problem.decisions


def test_groups_are_those_of_the_model(twice: Twice, groups: tuple[Decision, ...]) -> None:
    prunable = twice.first.model_groups.prunable
    assert [(group.name, group.channels) for group in groups] == [(group.name, group.channels) for group in prunable]
    assert len(groups) == 12
    stem = groups[0]
    assert (stem.name, stem.kind, stem.channels_in, stem.stride, stem.kernel, stem.spatial) == (
        "conv1", "conv", 1, 1, 3, 28,
    )  # fmt: skip
    strided = next(group for group in groups if group.name == "layer3.0.conv1")
    assert (strided.channels_in, strided.stride, strided.spatial, strided.channels) == (32, 2, 7, 64)


def test_ladders_ascend_to_all_channels(groups: tuple[Decision, ...]) -> None:
    for group in groups:
        assert list(group.ladder) == sorted(set(group.ladder))
        assert group.ladder[int(group.may_go)] >= group.channels // 2
    assert any(len(group.ladder) == 2 + group.may_go for group in groups)


def test_the_branches_of_all_blocks_may_go_and_their_losses_are_measured(twice: Twice) -> None:
    groups, problem = twice.first.problem.decisions, twice.first.problem
    assert [group.name for group in groups if not group.may_go] == ["conv1", "layer2.0.conv2", "layer3.0.conv2"]
    full = problem.full_policy
    for place, group in enumerate(groups):
        if group.may_go:
            policy = (*full[:place], 0, *full[place + 1 :])
            assert problem.evaluate(policy, bars=FIRST_LOOK).score.kl == group.branch_loss > 0
            predicted = problem.predict(policy)
            assert predicted.predicted_latency_ms < problem.original_cost.predicted_latency_ms
            cut = twice.first.elastic.cut(problem.pruning_of(policy))
            cost = count_cost(cut, (1, 28, 28))
            assert (predicted.macs, predicted.params) == (cost.macs, cost.params)
    assert twice.store.count() == twice.trials, "all of them were known"


def test_branches_stay_where_the_configuration_says_so(twice: Twice) -> None:
    stem, block, *_ = twice.first.elastic.groups
    assert with_branch_rung((8, 16), block, CONFIG.search) == (0, 8, 16)
    assert with_branch_rung((8, 16), stem, CONFIG.search) == (8, 16)
    kept = CONFIG.search.model_copy(update={"drop_branches": False})
    assert with_branch_rung((8, 16), block, kept) == (8, 16)


def test_shares_are_of_the_whole_model(groups: tuple[Decision, ...]) -> None:
    """Only the classifier belongs to no group; a layer's output belongs to one."""
    assert all(0 < group.macs_share < 1 and 0 <= group.latency_share < 1 for group in groups)
    assert sum(group.macs_share for group in groups) == pytest.approx(1 - 640 / 31_021_952)
    assert 0.5 < sum(group.latency_share for group in groups) <= 1 + 1e-9


def test_sensitivities_are_measured(twice: Twice, groups: tuple[Decision, ...]) -> None:
    """One trial for each group that has a choice, and one for each branch that may go; without a choice, the group's is
    that of the full model."""
    assert all(group.sensitivity > 0 for group in groups if len(group.ladder) > 1)
    middles = {(group.name, group.ladder[group.middle_option]) for group in groups if len(group.ladder) > 1}
    branches = {(group.name, 0) for group in groups if group.may_go}
    assert twice.trials == len(middles | branches) + any(len(group.ladder) == 1 for group in groups)
    place, chosen = max(enumerate(groups), key=lambda numbered: len(numbered[1].ladder))
    problem = twice.first.problem
    full = problem.full_policy
    outcome = problem.evaluate((*full[:place], chosen.middle_option, *full[place + 1 :]), bars=FIRST_LOOK)
    assert outcome.score.kl == chosen.sensitivity


def test_lost_importance_rises_the_deeper_the_cut(twice: Twice, groups: tuple[Decision, ...]) -> None:
    for group in groups:
        assert len(group.lost_importance) == len(group.ladder)
        assert list(group.lost_importance) == sorted(group.lost_importance, reverse=True)
        assert group.lost_importance[-1] == 0.0
        # What is removed are the least important channels: they hold less than their number would.
        for width, lost in zip(group.ladder[:-1], group.lost_importance, strict=False):
            assert 0.0 < lost < 1.0 - width / group.channels or (width == 0 and lost == 1.0)


def test_costs_are_those_of_the_cut(twice: Twice) -> None:
    prepared = twice.first
    floor = prepared.problem.floor_policy
    predicted = prepared.problem.predict(floor)
    counted = count_cost(prepared.elastic.cut(prepared.problem.pruning_of(floor)), (1, 28, 28))
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    original = prepared.problem.original_cost
    assert (original.macs, original.params) == (31_021_952, 272_186)
    assert 0 < predicted.estimated_energy_mj < original.estimated_energy_mj
    assert 0 < predicted.predicted_latency_ms < original.predicted_latency_ms
    assert [(limit.metric, limit.max_value) for limit in prepared.problem.limits] == [
        ("macs", 31_021_952),
        ("latency", pytest.approx(1000.0 * (1 - LATENCY_HEADROOM))),
    ]


def test_preparing_again_measures_nothing_again(twice: Twice) -> None:
    assert twice.store.count() == twice.trials
    before, after = twice.first.latency, twice.again.latency
    assert after.table.entries
    # The table that all runs share may know more layers than this run asked for.
    assert after.table.entries.items() <= before.table.entries.items()
    assert after.fit == before.fit
    assert twice.again.problem.decisions == twice.first.problem.decisions
    assert twice.again.problem.fingerprint == twice.first.problem.fingerprint
    assert twice.again.elastic.ranking == twice.first.elastic.ranking


def test_a_target_below_the_floor_says_the_floor(twice: Twice) -> None:
    config = CONFIG.model_copy(update={"target": (TargetConfig(metric="params", max_ratio=0.001),)})
    floor = twice.first.problem.predict(twice.first.problem.floor_policy).params
    with pytest.raises(TargetError) as caught:
        prepare(config, shipped_resnet(), little_data(), store=twice.store)
    assert f"is below the floor {floor:.4g} ({floor / 272_186:.3f})" in str(caught.value)
    assert twice.store.count() == twice.trials, "no sensitivity may be measured for a search that cannot be"


def test_a_model_that_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(ModelError, match="no prunable group"):
        prepare(CONFIG, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), little_data())


def test_the_fingerprint_is_of_all_that_a_score_depends_on() -> None:
    elastic = elastic_net("flatten")
    tuned = copy.deepcopy(elastic.original)
    with torch.no_grad():
        tuned.get_parameter("head.bias")[0] += 1e-6
    reranked = ElasticModel(elastic.original, elastic.groups, {**elastic.ranking, "hidden": tuple(range(7))})
    fewer = CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"score_images": 99})})
    calibrated = CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"calibration_images": 99})})
    resplit = CONFIG.model_copy(update={"data": DataConfig(split_seed=1)})
    different = {
        fingerprint(CONFIG, elastic, b""),
        fingerprint(CONFIG, elastic.with_weights_of(tuned), b""),
        fingerprint(CONFIG, reranked, b""),
        fingerprint(fewer, elastic, b""),
        fingerprint(calibrated, elastic, b""),
        fingerprint(resplit, elastic, b""),
        fingerprint(CONFIG, elastic, b"other images"),
    }
    assert len(different) == 7


def test_what_is_seen_of_data_and_network_is_what_tells_scores() -> None:
    """A comment, or the order of the classes' names, changes nothing."""

    class Net(nn.Module):
        def __init__(self, slope: float, *, twice: bool = False) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)
            self.slope, self.twice = slope, twice

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = nn.functional.leaky_relu(self.first(images), self.slope)
            answers: torch.Tensor = self.last(x.mean((2, 3)))
            return answers * 2 if self.twice else answers

    def seen(model: nn.Module, data: SearchData) -> bytes:
        groups = find_groups(model, data.info.input_shape).prunable
        elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
        return Evaluator(elastic, data, score_images=50, calibration_images=50, repairs=False).seen()

    data = little_data()
    relabelled = replace(data, search=ImageSplit(data.search.images, data.search.labels.flip(0)))
    repainted = replace(data, train=ImageSplit(255 - data.train.images, data.train.labels))
    found = [
        seen(Net(0.1), data), seen(Net(0.2), data), seen(Net(0.1, twice=True), data), seen(Net(0.1), relabelled),
        seen(Net(0.1), repainted),
    ]  # fmt: skip
    assert len(set(found)) == 5
    assert seen(Net(0.1), little_data()) == found[0]


@pytest.mark.parametrize("key", ["task", "search"])
def test_what_an_edited_file_of_the_user_s_was_scored_by_is_not_reused(key: str, tmp_path: Path) -> None:
    elastic, mine = elastic_net("flatten"), tmp_path / "mine.py"
    sections = {"search": SearchConfig(options=(f"{mine}:own",))}
    config = CONFIG.model_copy(update={key: sections.get(key, f"{mine}:own")})
    found = {fingerprint(CONFIG, elastic, b"")}
    for text in ("a = 1", "a = 2", "a = 1"):
        mine.write_text(text)
        found.add(fingerprint(config, elastic, b""))
    assert len(found) == 3


def test_built_in_names_give_the_fingerprint_that_they_always_gave() -> None:
    """Else what earlier runs have scored would be scored again."""
    bare = ElasticModel(nn.Sequential(nn.Identity()), (), {"hidden": (2, 0, 1)})
    assert fingerprint(CONFIG, bare, b"") == "eac117eb82b1e8dd"


def test_the_fingerprint_does_not_depend_on_target_agent_or_memory_format() -> None:
    elastic = elastic_net("flatten")
    other = CONFIG.model_copy(
        update={
            "target": (TargetConfig(metric="params", max_ratio=0.3),),
            "search": CONFIG.search.model_copy(update={"agent": "random", "max_evaluations": 3}),
            "seed": 7,
        }
    )
    relaid = copy.deepcopy(elastic.original).to(memory_format=torch.channels_last)
    assert fingerprint(other, elastic, b"") == fingerprint(CONFIG, elastic, b"")
    assert fingerprint(CONFIG, elastic.with_weights_of(relaid), b"") == fingerprint(CONFIG, elastic, b"")


@pytest.mark.parametrize(
    ("allowed_ms", "floor_ms", "limit_ms"),
    [(5.0, 2.0, 5.0 * (1 - LATENCY_HEADROOM)), (5.0, 4.99, 4.99), (5.0, 5.0, 5.0), (5.0, 6.0, 5.0)],
)
def test_latency_is_searched_a_little_below_its_target(allowed_ms: float, floor_ms: float, limit_ms: float) -> None:
    """But never below the floor if the target is not."""
    targets = (TargetConfig(metric="latency", max_ratio=allowed_ms / 10), TargetConfig(metric="params", max_ratio=0.5))
    original, floor = (PredictedCost(ms, 1.0, 100, 200) for ms in (10.0, floor_ms))
    latency, params = search_limits(targets, original, floor=floor)
    assert latency == Limit("latency", pytest.approx(limit_ms))
    assert params == Limit("params", 100)


def test_steps_that_were_made_of_scores_do_not_go_on_with_others(tmp_path: Path) -> None:
    """Until there are any, a file that was mended is scored anew."""
    store = TrialStore(tmp_path / "trials.sqlite")
    for found in ("one", "two", "one"):
        assert scored_as(found, store, made_before=PREPARED) == found
    store.part("trial 1").keep(FINALISTS_TRIED, 3)
    assert scored_as("one", TrialStore(store.path), made_before=PREPARED) == "one"
    with pytest.raises(InputError, match=r"put it back as it was, or start anew \(search.trials_from="):
        scored_as("two", TrialStore(store.path), made_before=PREPARED)
    assert scored_as("two", None, made_before=PREPARED) == "two"

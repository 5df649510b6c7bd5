"""Starting from an earlier run: its trials count, its best policies come first, and what does not fit is refused."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from judging_for_tests import scored
from models_for_tests import elastic_net, random_policy
from small_job import autoprune, done, write_config

from autoprune.errors import ConfigError, InputError
from autoprune.policies.heuristics import adapted, demonstrations
from autoprune.policies.table import searcher_maker
from autoprune.search.earlier_run import KNOWN_POLICIES, check_start, earlier_policies
from autoprune.search.loop import run_search
from autoprune.search.problem import Limit, SearchProblem
from autoprune.search.toy import toy_optimum, toy_problem
from autoprune.space.decision import Policy
from autoprune.space.policy import PruningPolicy
from autoprune.store.trials import Episode, TrialStore


def filled(folder: Path, policies: list[PruningPolicy]) -> TrialStore:
    """A run that searched `policies`, each better than the one before."""
    store = TrialStore(folder / "trials.sqlite")
    for episode, policy in enumerate(policies, 1):
        store.add_trial("print", policy.key, [scored(1 / episode, 0.5, 0.9, 500)], wall_s=0.5)
        store.add_episode("print", policy.key, Episode("ddpg", 0, episode, -1 / episode, 1.0, 1.0, 1, 1), look=0)
    return store


def test_the_best_policies_are_known_and_all_trials_taken_over(tmp_path: Path) -> None:
    elastic = elastic_net("resnet20")
    policies = [random_policy(elastic, seed) for seed in range(KNOWN_POLICIES + 2)]
    earlier = filled(tmp_path / "earlier", policies)
    store = TrialStore(tmp_path / "now" / "trials.sqlite")
    assert earlier_policies(str(tmp_path / "earlier"), elastic, store) == tuple(policies[: -KNOWN_POLICIES - 1 : -1])
    for policy in policies:
        assert store.scores("print", policy.key) == earlier.scores("print", policy.key) != ()
    assert store.episodes() == []
    assert earlier_policies(str(tmp_path / "earlier"), elastic, store) != ()  # as a resumed run does
    assert store.count() == len(policies)
    assert earlier_policies(None, elastic, store) == ()


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "earlier", [random_policy(elastic_net("vgg16_bn"), 0)])
    with pytest.raises(ConfigError, match="holds no search of a model with these groups"):
        earlier_policies(str(tmp_path / "earlier"), elastic_net("resnet20"), None)
    TrialStore(tmp_path / "empty" / "trials.sqlite")
    with pytest.raises(ConfigError, match="holds no search"):
        earlier_policies(str(tmp_path / "empty"), elastic_net("resnet20"), None)


def test_policies_wider_than_the_model_are_refused(tmp_path: Path) -> None:
    elastic = elastic_net("resnet20")
    wide = {group.name: group.channels for group in elastic.groups}
    wide[next(iter(wide))] = 10**9
    filled(tmp_path / "earlier", [PruningPolicy.of(wide)])
    with pytest.raises(ConfigError, match="holds no search of a model with these groups"):
        earlier_policies(str(tmp_path / "earlier"), elastic, None)


def test_broken_trials_are_refused_before_any_work(tmp_path: Path) -> None:
    store = filled(tmp_path / "earlier", [random_policy(elastic_net("resnet20"), 0)])
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE episodes SET reward = 'best'")
    with pytest.raises(
        InputError, match=r"trials\.sqlite: table episodes, row 1: reward: must be a finite number, got"
    ):
        check_start(str(tmp_path / "earlier"))


def knowing(problem: SearchProblem, *known: Policy, ratio: float) -> SearchProblem:
    limit = Limit("latency", ratio * problem.original_cost.predicted_latency_ms)
    return SearchProblem(
        problem.decisions,
        (limit,),
        predict=problem.cost_of,
        looks=lambda pruning: [problem.evaluate(problem.policy_of(pruning)).score],
        reward=problem._reward_of,
        fingerprint="knowing",
        known=tuple(problem.pruning_of(policy) for policy in known),
    )


@pytest.mark.parametrize("ratio", [0.25, 0.3, 0.45, 0.7, 1.0])
def test_a_known_policy_is_brought_just_under_other_limits(ratio: float) -> None:
    best = toy_optimum().policy
    problem = knowing(toy_problem(), best, ratio=ratio)
    found = adapted(problem, best)
    assert demonstrations(problem)[0] == found
    assert problem.is_feasible(found)
    for place, decision in enumerate(problem.decisions):  # no option can be wider
        for option in range(found[place] + 1, len(decision.ladder)):
            assert not problem.is_feasible((*found[:place], option, *found[place + 1 :])), (place, option)
    if ratio == 0.45:  # the limit that it was found under
        assert found == best


def test_a_search_that_knows_the_best_has_it_at_once() -> None:
    best = toy_optimum()
    problem = knowing(toy_problem(), best.policy, ratio=0.45)
    for name in ("ddpg", "evolution"):
        result = run_search(searcher_maker(name), problem, max_evaluations=1, seed=0)
        assert result.best.policy == best.policy


def test_a_second_target_starts_from_the_first_ones_run(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", search={"agent": "evolution", "max_evaluations": 6})
    weights, first, second = tmp_path / "net.safetensors", tmp_path / "first", tmp_path / "second"
    done("train", config, "--out", weights)
    command = ("search", config, "-o", f"model.checkpoint={weights}")
    done(*command, "--run-dir", first)
    done(*command, "--run-dir", second, "-o", "target.max_ratio=0.3", "-o", f"search.trials_from={first}")
    before, after = TrialStore(first / "trials.sqlite"), TrialStore(second / "trials.sqlite")
    # A quarter of the evaluations; the groups' sensitivities, too, were measured by the first.
    assert 0 < after.count() - before.count() <= 2
    assert len(after.episodes()) <= 4 * 2
    assert json.loads(after.best_policies(1)[0]) != json.loads(before.best_policies(1)[0])


def test_a_start_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml")
    for command in ("run", "search", "compare"):
        options = ("-o", f"search.trials_from={tmp_path / 'nowhere'}", "--run-dir", tmp_path / "run")
        finished = autoprune(command, config, *options)
        assert finished.returncode == 2
        assert "search.trials_from" in finished.stderr
        assert "trials.sqlite is missing" in finished.stderr
        assert not (tmp_path / "run").exists()

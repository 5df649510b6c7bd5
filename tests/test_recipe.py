"""A problem's recipe goes to a fresh process and makes the same problem there."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from problems_for_tests import check_finds_the_same

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.errors import RunError
from autoprune.prediction import latency_table
from autoprune.prediction.table_store import TABLE_VARIABLE
from autoprune.search.executors import forked
from autoprune.search.prepare import Prepared, prepare
from autoprune.search.problem import Limit, Looked, Outcome, SearchProblem
from autoprune.search.racing import Bars
from autoprune.space.decision import Decision, Policy
from autoprune.steps.recipe import Recipe
from autoprune.steps.subject import Subject, load_subject
from autoprune.store.trials import TrialStore

_problem: SearchProblem | None = None  # of a worker that made it itself

Made = tuple[tuple[Decision, ...], tuple[Limit, ...], str, list[Outcome]]


def made_of(recipe: Recipe, policies: Sequence[Policy]) -> Made:
    problem = recipe.make()
    return problem.decisions, problem.limits, problem.fingerprint, [problem.evaluate(policy) for policy in policies]


def made_elsewhere(recipe: Recipe, policies: Sequence[Policy]) -> Made:
    """In a process that shares nothing with this one, and may measure nothing."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_no_table) as pool:
        return pool.submit(made_of, recipe, policies).result()


def _no_table() -> None:
    """Nor anything that is measured: the shared table cannot be made, and no layer be timed."""
    os.environ[TABLE_VARIABLE] = os.devnull

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a layer is timed")

    latency_table.measure_layers = refuse


def check_same(config: RunConfig, subject: Subject, prepared: Prepared) -> None:
    problem = prepared.problem
    middle = tuple(decision.middle_option for decision in problem.decisions)
    policies = [problem.floor_policy, middle, problem.full_policy]
    here = (
        problem.decisions,
        problem.limits,
        problem.fingerprint,
        [problem.evaluate(policy) for policy in policies],
    )
    assert len({outcome.reward for outcome in here[3]}) == 3
    assert made_elsewhere(Recipe.of(config, subject, prepared), policies) == here


def test_a_configuration_makes_the_same_problem_in_another_process(small_config: Path, tmp_path: Path) -> None:
    config = load_config(small_config, ["target={metric: latency, max_ratio: 0.95}"])
    subject = load_subject(config)
    store = TrialStore(tmp_path / "trials.sqlite")
    check_same(config, subject, prepare(config, subject.model, subject.data, store=store))


def test_weights_that_no_file_has_are_in_the_recipe(small_config: Path) -> None:
    """As those of a baseline that the run has just trained."""
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    subject = load_subject(config)
    for weight in subject.model.parameters():
        weight.data.mul_(0.9)
    check_same(config, subject, prepare(config, subject.model, subject.data))


def test_the_checkpoint_need_not_be_there(small_config: Path, tmp_path: Path) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    assert config.model.checkpoint is not None
    copied = tmp_path / "copied.safetensors"
    shutil.copy(config.model.checkpoint, copied)
    elsewhere = config.model_copy(update={"model": config.model.model_copy(update={"checkpoint": str(copied)})})
    subject = load_subject(elsewhere)
    prepared = prepare(elsewhere, subject.model, subject.data)
    copied.unlink()
    check_same(elsewhere, subject, prepared)


def test_data_alone_came_as_objects(small_config: Path) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    given = load_subject(config)
    subject = load_subject(config, data=given.data, test=given.test)
    nowhere = config.model_copy(update={"data": config.data.model_copy(update={"name": "gone.py:data"})})
    check_same(nowhere, subject, prepare(nowhere, subject.model, subject.data))


def test_what_was_not_measured_here_is_not_measured_there(small_config: Path) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    subject = load_subject(config)
    recipe = Recipe.of(config, subject, prepare(config, subject.model, subject.data))
    measured = recipe.measured
    less = replace(measured.latency, layers=dict(list(measured.latency.layers.items())[1:]))
    with pytest.raises(RunError, match="a layer was not measured where the search runs"):
        replace(recipe, measured=replace(measured, latency=less)).make()


def test_objects_are_in_the_recipe(small_config: Path) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    given = load_subject(config)
    subject = load_subject(config, model=given.model, data=given.data, test=given.test)
    nowhere = config.model_copy(update={"data": config.data.model_copy(update={"name": "gone.py:data"})})
    check_same(nowhere, subject, prepare(nowhere, subject.model, subject.data))


@dataclass(frozen=True)
class FreshProcesses:
    """An executor whose workers make the problem from its recipe."""

    pool: ProcessPoolExecutor
    workers: int

    def look(self, asked: Mapping[Policy, int], bars: Bars) -> Iterator[Looked]:
        for done in as_completed([self.pool.submit(_look, policy, seen, bars) for policy, seen in asked.items()]):
            yield done.result()


def _begin(recipe: Recipe) -> None:
    global _problem
    _no_table()
    torch.set_num_threads(1)  # sums of several threads round otherwise
    _problem = recipe.make()


def _look(policy: Policy, seen: int, bars: Bars) -> Looked:
    assert _problem is not None
    return _problem.look(policy, seen, bars)


def test_the_same_seed_finds_the_same_whoever_looks(small_config: Path) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    recipe = Recipe.of(config, subject, prepared)

    @contextmanager
    def fresh(problem: SearchProblem) -> Iterator[SearchProblem]:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn, initializer=_begin, initargs=(recipe,)) as pool:
            yield problem.looked_at_by(FreshProcesses(pool, 2))

    check_finds_the_same(prepared.problem, forked(2), fresh)

"""Workers score in processes of their own what is scored here otherwise, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from judging_for_tests import scored
from problems_for_tests import ThreeLooks, policy, problem, pruning
from small_job import HERE

from autoprune.compute.processes import usual_workers
from autoprune.errors import RunError
from autoprune.policies.baselines import ListSearcher
from autoprune.policies.table import searcher_maker
from autoprune.search.executors import forked
from autoprune.search.loop import SearchResult, run_search
from autoprune.search.prepare import measure_sensitivities
from autoprune.search.racing import Bar
from autoprune.search.toy import toy_problem
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def process_of(policy: PruningPolicy) -> Iterator[Score]:
    """A score whose number of images is the process that found it."""
    time.sleep(0.3)  # long enough for the other worker to take the next one
    yield scored(kl=0.1, cross_entropy=0.2, top1=float(torch.get_num_threads() == 1), images=os.getpid())


def test_what_is_expected_is_scored_in_other_processes_and_stored(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials.sqlite")
    policies = [policy(a, b) for a in (1, 2, 4) for b in (2, 6)]
    alone = problem(process_of, store=store)
    with forked(2)(alone) as shared:
        shared.expect(policies)
        found = [shared.evaluate(each).score for each in policies]
    assert os.getpid() not in {score.images for score in found}
    assert len({score.images for score in found}) == 2
    assert all(score.top1 == 1.0 for score in found)  # each on one thread
    assert [store.scores("f", alone.pruning_of(each).key) for each in policies] == [(score,) for score in found]
    assert [alone.evaluate(each).score for each in policies] == found  # remembered here too
    assert not any(is_alive(score.images) for score in found)


def test_without_workers_nothing_is_scored_ahead() -> None:
    with forked(1)(problem(process_of)) as alone:
        alone.expect([policy(1, 2)])
        assert alone.evaluate(policy(1, 2)).score.images == os.getpid()
    assert usual_workers() == torch.get_num_threads()


def test_a_worker_looks_no_closer_than_the_bars_ask(tmp_path: Path) -> None:
    """At the first look a candidate of 3 channels has a KL of 0.65 with an error of 0.02, one of all 10 has -0.05."""
    store = TrialStore(tmp_path / "trials.sqlite")
    bars = {0: Bar(seen=-0.3, reward=-0.35)}
    with forked(2)(problem(ThreeLooks(), store=store)) as shared:
        shared.expect([policy(1, 2), policy(4, 6)], bars=bars)
        assert [score.look for score in store.scores("f", pruning(1, 2).key)] == [0]
        assert [score.look for score in store.scores("f", pruning(4, 6).key)] == [0, 1, 2]
        assert shared.evaluate(policy(1, 2), bars=bars) == problem(ThreeLooks()).evaluate(policy(1, 2), bars=bars)
        shared.expect([policy(1, 2)])  # without bars: what is left of the looks
    assert [score.look for score in store.scores("f", pruning(1, 2).key)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["ddpg", "evolution", "random", "uniform", "sensitivity", "knapsack"])
def test_a_search_takes_the_same_course_with_workers(name: str, tmp_path: Path) -> None:
    def search(workers: int, store: TrialStore | None = None) -> SearchResult:
        return run_search(searcher_maker(name), toy_problem(store), max_evaluations=20, seed=0, execute=forked(workers))

    store = TrialStore(tmp_path / "trials.sqlite")
    assert search(2, store).outcomes == search(1).outcomes
    assert store.count() == search(1).evaluations  # no more than what the budget allows was scored


def test_sensitivities_are_the_same() -> None:
    assert measure_sensitivities(toy_problem(), forked(3)) == measure_sensitivities(toy_problem())


def test_expecting_counts_nothing_and_keeps_to_the_budget() -> None:
    with forked(2)(problem(process_of)) as shared:
        asked = [policy(1, 2), policy(1, 2), policy(2, 2), policy(4, 2)]
        shared.expect(asked[:3])
        found = [shared.evaluate(each).score.images for each in asked]
        assert os.getpid() not in found[:3]
        assert found[3] == os.getpid()
    listed = partial(ListSearcher, name="test", policies=asked)
    result = run_search(listed, problem(process_of), max_evaluations=2, seed=0, execute=forked(2))
    assert [outcome.policy for outcome in result.outcomes] == asked[:3]  # what is left of the budget, and a repetition
    assert os.getpid() not in [outcome.score.images for outcome in result.outcomes]


def test_a_worker_that_is_killed_ends_the_search_with_the_way_on() -> None:
    parent = os.getpid()

    def dies(_: PruningPolicy) -> Iterator[Score]:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)
        yield scored(kl=0.1, cross_entropy=0.2, top1=0.9, images=1)

    with (
        pytest.raises(RunError, match=r"a process that scores candidates was killed.*--resume.*OMP_NUM_THREADS=1"),
        forked(2)(problem(dies)) as shared,
    ):
        shared.expect([policy(1, 2), policy(2, 2)])


def test_an_error_in_a_worker_is_the_searchs() -> None:
    def fails(_: PruningPolicy) -> Iterator[Score]:
        raise RunError("no score")
        yield

    with pytest.raises(RunError, match="no score"), forked(2)(problem(fails)) as shared:
        shared.expect([policy(1, 2)])


KILLED = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from problems_for_tests import policy, problem, pruning
from autoprune.search.executors import forked

def endless(_):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: the two share the pipe
    time.sleep(600)
    yield

with forked(2)(problem(endless)) as shared:
    shared.expect([policy(1, 2), policy(2, 2)])
"""


def test_workers_end_with_a_search_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, HERE.parent], stdout=subprocess.PIPE, text=True) as search:
        try:
            assert search.stdout is not None
            workers = [int(search.stdout.readline()) for _ in range(2)]
            assert all(is_alive(worker) for worker in workers)
        finally:
            search.kill()
    deadline = time.monotonic() + 30
    while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(worker) for worker in workers)


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False

"""Workers of Ray score what is scored here otherwise; they are out of others' reach, replaced, and leave nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pytest
import torch
from judging_for_tests import scored
from problems_for_tests import CountingScorer, check_finds_the_same, policy, problem
from small_job import HERE, autoprune

from autoprune.config import WorkersConfig
from autoprune.config.file import load_config
from autoprune.errors import ConfigError, InputError, RunError
from autoprune.foundation.guard import processes_below
from autoprune.foundation.scratch import scratch_for_all
from autoprune.search.executors import forked
from autoprune.search.prepare import prepare
from autoprune.search.problem import SearchProblem
from autoprune.search.ray_cluster import Cluster, check_cluster, connected
from autoprune.search.ray_workers import Make, RayWorkers
from autoprune.space.policy import PruningPolicy
from autoprune.steps.recipe import Recipe
from autoprune.steps.subject import load_subject
from autoprune.store.score import Score

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),  # and not imported yet
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::ResourceWarning"),
]

TWO = Cluster(WorkersConfig(count=2, cpus=1.0))
THREE = Cluster(WorkersConfig(count=3, cpus=0.6))  # which have room where two have
LISTENS = "0A"  # in /proc/net/tcp
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")


class Shared(Protocol):
    def __call__(self, make: Make, made: SearchProblem, cluster: Cluster = TWO) -> SearchProblem: ...


@pytest.fixture(scope="module")
def on_ours() -> Iterator[Shared]:
    """A problem whose policies are looked at by workers that make another, on one cluster for all tests."""
    with pytest.MonkeyPatch.context() as patch, scratch_for_all(), ExitStack() as stack:
        patch.setenv("PYTHONPATH", str(HERE.parent))  # workers find this file
        ray = stack.enter_context(connected(TWO))
        earlier: list[RayWorkers] = []

        def shared(make: Make, made: SearchProblem, cluster: Cluster = TWO) -> SearchProblem:
            while earlier:
                earlier.pop().end()  # there is room for two
            earlier.append(RayWorkers(ray, cluster, make, told=lambda policy: made.pruning_of(policy).key))
            return made.looked_at_by(earlier[0])

        yield shared
    assert not [process for process in processes_below(os.getpid()) if is_rays(process)]


def test_the_same_seed_finds_the_same_whoever_looks(small_config: Path, on_ours: Shared) -> None:
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    recipe = Recipe.of(config, subject, prepared)
    torch.set_flush_denormal(True)

    check_finds_the_same(prepared.problem, forked(2), lambda unknown: nullcontext(on_ours(recipe.make, unknown)))


def test_nobody_else_can_reach_a_cluster_of_our_own(on_ours: Shared) -> None:
    on_ours(partial(problem, CountingScorer()), problem(CountingScorer())).expect([policy(1, 2)])
    heard = {address for process in {os.getpid(), *processes_below(os.getpid())} for address in listening(process)}
    assert len(heard) >= 4  # of this process, the two services, and a worker at least
    assert {address.rpartition(":")[0] for address in heard} <= set(LOOPBACK)


def dies(kept: PruningPolicy, folder: Path, times: int) -> Iterator[Score]:
    """Ends its process, the first few times that it looks at the smallest."""
    before = len(list(folder.iterdir()))
    if kept.as_dict() == {"a": 1, "b": 2} and before < times:
        (folder / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield scored(kl=0.1, cross_entropy=0.2, top1=float(torch.get_num_threads() == 1), images=os.getpid())


def dying(folder: Path, times: int) -> SearchProblem:
    return problem(partial(dies, folder=folder, times=times))


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(tmp_path: Path, on_ours: Shared) -> None:
    policies = [policy(a, b) for a in (1, 2, 4) for b in (2, 6)]
    shared = on_ours(partial(dying, tmp_path, times=2), dying(tmp_path, times=0))
    shared.expect(policies)
    found = [shared.evaluate(each).score for each in policies]
    assert len(list(tmp_path.iterdir())) == 2
    assert os.getpid() not in {score.images for score in found}
    assert all(score.top1 == 1.0 for score in found)  # each on one thread


@pytest.mark.slow
def test_a_candidate_that_no_worker_survives_ends_the_search(tmp_path: Path, on_ours: Shared) -> None:
    wrong = r"3 workers died while they scored the candidate \{\"a\":1,\"b\":2\}.*--resume"
    shared = on_ours(partial(dying, tmp_path, times=99), dying(tmp_path, times=0))
    with pytest.raises(RunError, match=wrong):
        shared.expect([policy(1, 2), policy(2, 2)])


@pytest.mark.slow
def test_workers_that_die_idle_are_replaced_and_are_no_candidates_fault(tmp_path: Path, on_ours: Shared) -> None:
    shared = on_ours(partial(dying, tmp_path, times=2), dying(tmp_path, times=0), THREE)
    shared.expect([policy(4, 2)])
    wait_until(lambda: len(idle_workers()) == 3, patience_s=30)
    lost = idle_workers()
    for process in lost:
        os.kill(process, signal.SIGKILL)
    shared.expect([policy(1, 2), policy(2, 2)])  # the first ends two more
    assert len(list(tmp_path.iterdir())) == 2
    assert not lost & {shared.evaluate(policy(a, 2)).score.images for a in (1, 2)}


def lost_at_first(folder: Path) -> SearchProblem:
    """Made once the first three workers have begun with it and died together, as when their machine is lost."""
    if len(list(folder.iterdir())) < 3:
        (folder / str(os.getpid())).touch()
        wait_until(lambda: len(list(folder.iterdir())) == 3)
        os.kill(os.getpid(), signal.SIGKILL)
    return problem(CountingScorer())


@pytest.mark.slow
def test_workers_that_are_lost_together_as_they_start_are_replaced(tmp_path: Path, on_ours: Shared) -> None:
    shared = on_ours(partial(lost_at_first, tmp_path), problem(CountingScorer()), THREE)
    shared.expect([policy(1, 2)])
    assert shared.evaluate(policy(1, 2)).score.images == 50


def ends_its_process() -> SearchProblem:
    os.kill(os.getpid(), signal.SIGKILL)
    return problem(fails)


@pytest.mark.slow
def test_workers_that_never_start_end_the_search(on_ours: Shared) -> None:
    with pytest.raises(RunError, match="3 workers of Ray died one after another as they started"):
        on_ours(ends_its_process, problem(fails)).expect([policy(1, 2)])


def fails(_: PruningPolicy) -> Iterator[Score]:
    raise RunError("no score")
    yield


def cannot_be_made() -> SearchProblem:
    raise InputError("task=x.py:make: no such file")


@pytest.mark.parametrize(("make", "told"), [(partial(problem, fails), "no score"), (cannot_be_made, "no such file")])
def test_an_error_in_a_worker_is_the_searchs(make: Make, told: str, on_ours: Shared) -> None:
    with pytest.raises((RunError, InputError), match=told):
        on_ours(make, problem(fails)).expect([policy(1, 2)])


@pytest.mark.slow
def test_a_killed_search_leaves_no_process(tmp_path: Path) -> None:
    code = """
from functools import partial
from problems_for_tests import policy, problem
from test_ray import TWO, endless
from autoprune.search.ray_workers import on_ray
with on_ray(TWO, partial(problem, endless))(problem(endless)) as shared:
    shared.expect([policy(1, 2), policy(2, 2)])
"""
    started_in = {**os.environ, "STARTED": str(tmp_path), "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen([sys.executable, "-c", code], env=started_in) as search:
        try:
            wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
            started = processes_below(search.pid)
            assert len([process for process in started if is_rays(process)]) >= 5
        finally:
            search.kill()
    wait_until(lambda: not any(map(is_alive, started)), patience_s=20)


def endless(_: PruningPolicy) -> Iterator[Score]:
    (Path(os.environ["STARTED"]) / str(os.getpid())).touch()
    time.sleep(600)
    yield


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--address", "127.0.0.1:6379"], "--address 127.0.0.1:6379: is of a Ray cluster; add --executor ray"),
        (["--executor", "dask"], "--executor dask: must be one of processes, ray"),
        (["--executor", "ray", "--address", "nowhere"], "--address nowhere: expected HOST:PORT"),
        (["--executor", "ray", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1: nothing answers there"),
        (["--executor", "ray", "-o", "workers.gpus=0.5"], "workers.gpus=0.5: PyTorch finds 0 GPUs here"),
    ],
)
def test_bad_input_is_told_before_any_work(arguments: list[str], told: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = autoprune("search", "toy", "--run-dir", tmp_path / "run", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - started < 30


def test_what_listens_but_is_no_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.search.ray_cluster.ANSWER_S", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"--address {address}: Ray does not answer there.*same versions"):
            check_cluster(Cluster(WorkersConfig(), address), cannot_be_made)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install autoprune\[ray\]"):
        check_cluster(TWO, cannot_be_made)


def listening(process: int) -> list[str]:
    """The addresses at which it listens, as the kernel writes them."""
    try:
        mine = {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:
        return []
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line[1] for line in lines if line[3] == LISTENS and f"socket:[{line[9]}]" in mine]


def idle_workers() -> set[int]:
    """Those of Ray's processes that hold a worker which is at nothing."""
    titles = {each: read(Path(f"/proc/{each}/cmdline")) or "" for each in processes_below(os.getpid())}
    return {each for each, title in titles.items() if title.rstrip("\0 ") == "ray::Worker"}


def is_rays(process: int) -> bool:
    words = read(Path(f"/proc/{process}/cmdline")) or ""
    return words.startswith("ray::") or "/ray/" in words


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    stat = read(Path(f"/proc/{process}/stat"))
    return stat is not None and stat.rpartition(")")[2].split()[0] not in "ZX"


def read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def wait_until(holds: Callable[[], bool], *, patience_s: float = 200) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)

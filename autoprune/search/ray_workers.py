"""Workers of Ray, each in a process of its own, on this machine or another: an executor of searches."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import AutopruneError, RunError, lines_of
from autoprune.foundation.factories import users_errors
from autoprune.foundation.progress import say
from autoprune.search.executors import Execute, keep_freed_memory
from autoprune.search.problem import Looked, SearchProblem
from autoprune.search.racing import Bars
from autoprune.search.ray_cluster import Cluster, connected, go_to
from autoprune.space.decision import Policy

MOST_DEATHS = 3  # of workers, by one candidate, or of one and those in its place before they are ready
PATIENCE_S = 60.0  # until it is said that there is no room for a worker

Make = Callable[[], SearchProblem]


def on_ray(cluster: Cluster, make: Make) -> Execute:
    """Workers of a cluster, each with a problem that it makes by `make`, which can be pickled: the same problem as that
    which is searched, whatever the limits."""
    return partial(_on_ray, cluster=cluster, make=make)


@contextmanager
def _on_ray(problem: SearchProblem, *, cluster: Cluster, make: Make) -> Iterator[SearchProblem]:
    with connected(cluster) as ray:
        workers = RayWorkers(ray, cluster, make, told=lambda policy: problem.pruning_of(policy).key)
        try:
            yield problem.looked_at_by(workers)
        finally:
            workers.end()


class Worker:
    """What runs in a worker's process."""

    def begin(self, make: Make, threads: int, folder: Path) -> None:
        go_to(folder)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)  # as in every job
        keep_freed_memory()
        with users_errors():
            self._problem = make()

    def is_there(self) -> bool:
        return True

    def look(self, policy: Policy, seen: int, bars: Bars) -> Looked:
        with users_errors():
            return self._problem.look(policy, seen, bars)


class RayWorkers:
    """Candidates go to whichever worker is free. One that dies is replaced, and its candidate goes to another.

    A machine that is lost takes all of its workers with it: those that die while they are idle or start are no fault of
    a candidate's, nor of each other's.
    """

    def __init__(self, ray: Any, cluster: Cluster, make: Make, *, told: Callable[[Policy], str]) -> None:
        self.workers = cluster.count(ray)
        self._ray, self._told = ray, told
        self._actor = ray.remote(**cluster.needs, max_restarts=0, max_task_retries=0)(Worker)
        self._make = ray.put(make)  # once for all: images are shared by the workers of a machine
        self._threads, self._worker = max(1, int(cluster.workers.cpus)), cluster.worker
        self._all: list[Any] = []
        self._free: list[Any] = []
        # By what will be there when they have begun: how many died before in its place, as they started.
        self._starting: dict[Any, tuple[Any, int]] = {}
        for _ in range(self.workers):
            self._start()

    def look(self, asked: Mapping[Policy, int], bars: Bars) -> Iterator[Looked]:
        waiting, deaths = deque(asked), Counter[Policy]()
        at_work: dict[Any, tuple[Any, Policy]] = {}
        while waiting or at_work:
            while waiting and (worker := self._next_free()) is not None:
                policy = waiting.popleft()
                at_work[worker.look.remote(policy, asked[policy], bars)] = worker, policy
            done = self._next([*at_work, *self._starting], is_idle=not at_work)
            if done in self._starting:
                self._begun(done)
                continue
            worker, policy = at_work.pop(done)
            if (found := self._result(done)) is not None:
                self._free.append(worker)
                yield found[0]
                continue
            deaths[policy] += 1
            if deaths[policy] == MOST_DEATHS:
                raise RunError(
                    f"{MOST_DEATHS} workers died while they scored the candidate {self._told(policy)}, perhaps for "
                    "want of memory: have fewer on a machine (workers.count, workers.cpus), and go on with --resume"
                )
            waiting.appendleft(policy)
            self._replace(worker)

    def end(self) -> None:
        """Whatever they are at."""
        for worker in self._all:
            self._ray.kill(worker)

    def _start(self, died_before: int = 0) -> None:
        worker = self._actor.remote()
        self._all.append(worker)
        self._starting[worker.begin.remote(self._make, self._threads, Path.cwd())] = worker, died_before

    def _replace(self, worker: Any, died_starting: int = 0) -> None:
        say("a worker of Ray died; another takes its place")
        self._ray.kill(worker)  # it may be out of reach for a while only, and would keep its room
        self._start(died_starting)

    def _next_free(self) -> Any:
        """One that lives, or `None`; those that died while they were idle are replaced."""
        while self._free:
            worker = self._free.pop()
            if self._result(worker.is_there.remote()) is not None:
                return worker
            self._replace(worker)
        return None

    def _begun(self, ready: Any) -> None:
        worker, died_before = self._starting.pop(ready)
        if self._result(ready) is not None:
            self._free.append(worker)
            return
        if died_before + 1 == MOST_DEATHS:
            raise RunError(
                f"{MOST_DEATHS} workers of Ray died one after another as they started, perhaps for want of memory; "
                "their logs are in the folder `logs` of Ray's session"
            )
        self._replace(worker, died_before + 1)

    def _next(self, refs: list[Any], *, is_idle: bool) -> Any:
        """The first that is there."""
        done, _ = self._ray.wait(refs, timeout=PATIENCE_S if is_idle else None)
        if not done:
            say(f"Ray has no room for {self._worker} yet; waiting for it")
            done, _ = self._ray.wait(refs)
        return done[0]

    def _result(self, ref: Any) -> tuple[Any] | None:
        """What a worker gives, or `None` if it died; its errors are the search's."""
        errors = self._ray.exceptions
        try:
            return (self._ray.get(ref),)
        except errors.RayTaskError as error:
            if isinstance(error.cause, AutopruneError):
                raise error.cause from None
            if isinstance(error.cause, errors.RayError):  # what was sent cannot be read there
                raise RunError(f"a worker of Ray cannot begin: {lines_of(error)[-1]}") from None
            raise
        except errors.RayError:
            return None

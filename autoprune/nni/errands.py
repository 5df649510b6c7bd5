"""Trials that carry what one of our own searchers asks for: NNI is an executor, and the loop in this process goes on as
with any other."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from autoprune.nni.remote.report import told_bars
from autoprune.nni.service import Booking, Desk
from autoprune.nni.space import parameters_of, proposed_options
from autoprune.search.problem import Looked, SearchProblem
from autoprune.search.racing import NO_BARS, Bars
from autoprune.space.decision import Policy
from autoprune.store.score import Score

WAKE_S = 0.5


@dataclass(frozen=True)
class Errand:
    """A policy that the loop waits for, seen at look `seen` before."""

    policy: Policy
    seen: int
    bars: Bars
    since: float = field(default_factory=time.perf_counter)


class Errands(Desk):
    """The desk of an experiment with our tuner, and the executor of its search (`search.problem.Executor`). Before the
    first policy is looked at, `begin` is called."""

    def __init__(
        self,
        problem: SearchProblem,
        workers: int,
        begin: Callable[[], None] = lambda: None,
        *,
        trials: int = 0,
        tells_bars: bool = False,
    ) -> None:
        """So many `trials` NNI may begin anew when all of before have ended. With `tells_bars` they know how closely
        they are to look: those that are scored on another machine."""
        self.workers, self.missing, self._tells_bars = workers, trials, tells_bars
        self._begin: Callable[[], None] | None = begin
        self.scored, self.is_over = 0, False
        self._problem = problem
        self._changed = threading.Condition()
        self._waiting: list[Errand] = []  # that no trial has yet
        self._out: dict[Policy, Errand] = {}
        self._found: queue.Queue[Looked | BaseException] = queue.Queue()
        self._tuner: str | None = None  # who asked last

    def execute(self, problem: SearchProblem) -> AbstractContextManager[SearchProblem]:
        """As `search.executors.Execute`."""
        return nullcontext(problem.looked_at_by(self))

    def look(self, asked: Mapping[Policy, int], bars: Bars) -> Iterator[Looked]:
        begin = self._begin
        if begin is not None and asked:  # a search that goes on may know all it asks for
            self._begin = None
            begin()
        with self._changed:
            self._waiting += [Errand(policy, seen, bars) for policy, seen in asked.items()]
            self._changed.notify_all()
        for _ in asked:
            found = self._found.get()
            if isinstance(found, BaseException):
                raise found
            yield found

    def fail(self, error: BaseException) -> None:
        """The loop that waits is told so."""
        self._found.put(error)
        self.end()

    def end(self) -> None:
        """The search is over: our tuner has nothing more to propose."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def next_parameters(self, tuner: str, is_wanted: Callable[[], bool]) -> Mapping[str, Any] | None:
        with self._changed:
            if self._tuner not in (None, tuner):  # what the one before was told, no trial may carry
                self._waiting[:0] = self._out.values()
                self._out.clear()
            self._tuner = tuner
            while not self._waiting and not self.is_over and is_wanted():
                self._changed.wait(WAKE_S)
            if not self._waiting:
                return None
            errand = self._waiting.pop(0)
            self._out[errand.policy] = errand
            bars = told_bars(errand.bars) if self._tells_bars else {}
            return {**parameters_of(self._problem.decisions, errand.policy), **bars}

    def lose(self, parameters: Mapping[str, Any]) -> None:
        self._again(proposed_options(self._problem.decisions, parameters))

    def book(self, trial: str, parameters: Mapping[str, Any]) -> Booking:
        """A trial that NNI has begun again after a kill may bring what the loop has not asked for yet; it is scored all
        the same, and the loop finds it in the store."""
        policy = proposed_options(self._problem.decisions, parameters)
        with self._changed:
            if (waiting := self._taken(policy)) is not None:
                self._out[policy] = waiting
            errand = self._out.get(policy)
        return Booking(trial, policy, NO_BARS if errand is None else errand.bars)

    def finish(self, booking: Booking, score: Score) -> float:
        with self._changed:
            errand = self._out.pop(booking.policy, None) or self._taken(booking.policy)
            known = self._problem.known_scores(booking.policy)
            if errand is not None and (scores := [each for each in known if each.look > errand.seen]):
                self._found.put(Looked(booking.policy, scores, time.perf_counter() - errand.since))
            elif errand is not None:  # an earlier trial's report, of no closer look than is known
                self._wait_again(errand)
            self.scored += 1
        return self._problem.outcome_of(booking.policy, score, booking.bars).reward

    def leave(self, booking: Booking, score: Score | None) -> None:
        """Another trial gets the errand; that this one has failed, NNI may tell our tuner, too."""
        self._again(booking.policy)

    def stopped_by_assessor(self, trial: str) -> None:
        """Assessors go with NNI's own tuners."""

    def _again(self, policy: Policy) -> None:
        with self._changed:
            if (errand := self._out.pop(policy, None)) is not None:
                self._wait_again(errand)

    def _wait_again(self, errand: Errand) -> None:
        self._waiting.insert(0, errand)
        self._changed.notify_all()

    def _taken(self, policy: Policy) -> Errand | None:
        """The errand that waits with this policy, which then waits no more."""
        errand = next((each for each in self._waiting if each.policy == policy), None)
        if errand is not None:
            self._waiting.remove(errand)
        return errand

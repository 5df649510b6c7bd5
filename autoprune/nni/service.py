"""The service of an experiment: it scores what trials bring, in workers that have the problem already, and tells them
what each look found. It listens on a socket in the run's folder, that its user alone may open."""

import socketserver
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoprune.errors import InputError
from autoprune.nni.wire import SOCKET, Line, Message, ServiceGone, address_in
from autoprune.nni.workers import Workers
from autoprune.search.problem import Looked, SearchProblem
from autoprune.search.racing import NOT_SEEN, Bars
from autoprune.space.decision import Policy
from autoprune.store.score import Score

PRIVATE = 0o700
NOT_OURS = "nothing is proposed here: the tuner is not AgentTuner, or trials are scored for a run elsewhere"


@dataclass(frozen=True)
class Booking:
    """A trial that is scored: `trial` is NNI's name of it."""

    trial: str
    policy: Policy
    bars: Bars


class Refused(Exception):
    """A trial that is not wanted; the message says why."""


class Desk(Protocol):
    """Who knows what trials are about; it is called by several threads at once. One that our tuner has nothing to do
    with refuses it."""

    def book(self, trial: str, parameters: Mapping[str, Any]) -> Booking:
        """Raises `Refused`, or `InputError` for parameters that are no policy."""
        ...

    def finish(self, booking: Booking, score: Score) -> float:
        """The trial was looked at as closely as it will be; its reward. It is in the store before this returns."""
        ...

    def leave(self, booking: Booking, score: Score | None) -> None:
        """The trial was ended by somebody else, after this look."""
        ...

    def next_parameters(self, tuner: str, is_wanted: Callable[[], bool]) -> Mapping[str, Any] | None:
        """For our tuner, by a name of its process: what NNI should try next, waited for while it `is_wanted`; None:
        there is nothing more."""
        raise Refused(NOT_OURS)

    def lose(self, parameters: Mapping[str, Any]) -> None:
        """For our tuner: a trial failed before it was scored, or was never begun."""
        raise Refused(NOT_OURS)

    def reported(self, booking: Booking, score: Score) -> Mapping[str, str]:
        """What NNI is told of a look beside its figures."""
        return {}


class Service:
    """Answers trials and our tuner, each in a thread of its own, until it is closed. The first error of ours or of the
    user's code is kept in `failure`: from then on nobody is answered."""

    def __init__(self, desk: Desk, problem: SearchProblem, workers: Workers) -> None:
        self.failure: BaseException | None = None
        self._open: set[Line] = set()
        self._last_asked = time.monotonic()
        self._desk, self._problem, self._workers = desk, problem, workers
        self._storing = threading.Lock()

    @property
    def idle_s(self) -> float:
        """For how long nobody has asked, or waited for an answer."""
        return 0.0 if self._open else time.monotonic() - self._last_asked

    def answer(self, line: Line) -> None:
        self._open.add(line)
        try:
            with _refusing(ValueError, TypeError):
                asked = line.receive()
                question, parameters = asked.get("ask"), dict(asked.get("parameters", {}))
            if question == "trial":
                self._trial(line, str(asked.get("trial")), parameters)
            elif question == "next":
                self._next(line, str(asked.get("tuner")))
            elif question == "lost":
                with _refusing(InputError):
                    self._desk.lose(parameters)
                line.send({})
            elif question == "alive":
                line.send({})
        except ServiceGone:  # whoever asked has ended
            pass
        except Refused as error:
            self._tell(line, {"refused": str(error)})
        except BaseException as error:
            self.failure = self.failure or error
            self._tell(line, {"refused": str(error) or type(error).__name__})
        finally:
            self._last_asked = time.monotonic()
            self._open.discard(line)

    def _next(self, line: Line, tuner: str) -> None:
        parameters = self._desk.next_parameters(tuner, line.is_open)
        try:
            line.send({"nothing": True} if parameters is None else {"parameters": dict(parameters)})
        except ServiceGone:
            if parameters is not None:
                self._desk.lose(parameters)
            raise

    def _trial(self, line: Line, trial: str, parameters: Mapping[str, Any]) -> None:
        if self.failure is not None:
            raise Refused(f"the search has failed: {self.failure}")
        with _refusing(InputError):
            booking = self._desk.book(trial, parameters)
        score: Score | None = None
        try:
            with closing(self._scores(line, booking)) as scores:
                for score in scores:
                    if self._problem.is_settled(booking.policy, score, booking.bars):
                        break
                    line.send({"look": self._figures(booking, score)})
            assert score is not None
            if not line.is_open():
                raise ServiceGone
        except BaseException:
            self._desk.leave(booking, score)
            raise
        reward = self._desk.finish(booking, score)
        line.send({"final": {**self._figures(booking, score), "default": reward}})

    def _scores(self, line: Line, booking: Booking) -> Generator[Score, None, None]:
        """Those that are known, then those of closer looks; each new one is stored before the next look begins."""
        policy, problem = booking.policy, self._problem
        known = problem.known_scores(policy)
        yield from known
        if any(problem.is_settled(policy, score, booking.bars) for score in known):
            return
        started = time.perf_counter()
        with self._workers.looks(policy, known[-1].look if known else NOT_SEEN) as looks:
            for score in looks:
                with self._storing:  # another trial may look at the same policy
                    problem.remember(Looked(policy, [score], time.perf_counter() - started))
                yield score
                if not line.is_open():
                    raise ServiceGone

    def _figures(self, booking: Booking, score: Score) -> dict[str, float | str]:
        """What NNI shows of a trial: `default` is the reward, by which it judges."""
        outcome = self._problem.outcome_of(booking.policy, score, booking.bars)
        original_ms = self._problem.original_cost.predicted_latency_ms
        return {
            "default": outcome.reward,
            **{name: metric.value for name, metric in score.metrics.items()},
            "predicted_latency_ratio": outcome.cost.predicted_latency_ms / original_ms if original_ms > 0 else 1.0,
            "params": outcome.cost.params,
            **self._desk.reported(booking, score),
        }

    def _tell(self, line: Line, message: Message) -> None:
        with suppress(ServiceGone):
            line.send(message)


@contextmanager
def _refusing(*errors: type[Exception]) -> Iterator[None]:
    """What is wrong with a question ends no search."""
    try:
        yield
    except errors as error:
        raise Refused(str(error)) from None


@contextmanager
def serving(service: Service, folder: Path) -> Iterator[None]:
    """The service listens in `folder` while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(PRIVATE)
    (folder / SOCKET).unlink(missing_ok=True)  # of one that was killed

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            service.answer(Line(self.request))

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        request_queue_size = 128

    with address_in(folder) as address, Server(address, Handler) as server:
        (folder / SOCKET).chmod(0o600)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            (folder / SOCKET).unlink(missing_ok=True)

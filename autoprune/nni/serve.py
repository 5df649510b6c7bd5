"""Trials of an experiment of the user's own, begun with `nnictl create` or NNI's Python: a service that they start."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from autoprune.config.nni import OF_NNI
from autoprune.foundation.progress import say
from autoprune.nni.client import EXPERIMENT
from autoprune.nni.errands import Errands
from autoprune.nni.proposals import Proposals
from autoprune.nni.service import Booking, Desk, Service, serving
from autoprune.nni.workers import Workers
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.steps.choice import save_best, search_only
from autoprune.steps.context import Workspace
from autoprune.store.kept import Kept
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

POLL_S = 0.5
UNBOUNDED = 2**31  # it is NNI that says how many trials there are
SEARCHER = f"{OF_NNI}the tuner"  # of the user's experiment
BY_AGENT = Kept("nni_by_agent", TypeAdapter(bool))  # whether that is AgentTuner


class OwnExperiment(Desk):
    """The desk of an experiment that is not begun here: whichever tuner it has proposes, and once `AgentTuner` has
    asked, our searcher does; also where another process was asked, and NNI begins its trials again."""

    def __init__(self, proposals: Proposals, errands: Errands, store: TrialStore, search: Callable[[], None]) -> None:
        self._proposals, self._errands, self._store, self._search = proposals, errands, store, search
        self._lock = threading.Lock()
        self._searching: threading.Thread | None = None
        self._is_ours = store.kept(BY_AGENT) is not None
        self._booked_at: dict[str, Proposals | Errands] = {}

    def next_parameters(self, tuner: str, is_wanted: Callable[[], bool]) -> Mapping[str, Any] | None:
        with self._lock:
            if self._searching is None:
                self._store.keep(BY_AGENT, True)
                self._is_ours = True
                self._searching = threading.Thread(target=self._search, daemon=True)
                self._searching.start()
        return self._errands.next_parameters(tuner, is_wanted)

    def lose(self, parameters: Mapping[str, Any]) -> None:
        self._errands.lose(parameters)

    def book(self, trial: str, parameters: Mapping[str, Any]) -> Booking:
        desk = self._errands if self._is_ours else self._proposals
        booking = desk.book(trial, parameters)
        self._booked_at[trial] = desk
        return booking

    def finish(self, booking: Booking, score: Score) -> float:
        return self._booked_at[booking.trial].finish(booking, score)

    def leave(self, booking: Booking, score: Score | None) -> None:
        self._booked_at[booking.trial].leave(booking, score)


def served(problem: SearchProblem, place: Workspace, *, idle_s: float) -> None:
    """Score what comes until nobody has asked for `idle_s`; `policy.json` is the best so far."""
    config = place.config
    workers = Workers(problem, config.nni.concurrency)

    def on_outcome(outcome: Outcome) -> None:
        if outcome.reward >= proposals.result(wall_s=0.0).best.reward:
            save_best(problem, outcome, place)

    def search() -> None:
        try:
            save_best(problem, search_only(problem, place, execute=errands.execute).best, place)
        except BaseException as error:
            service.failure = service.failure or error
        finally:
            errands.end()

    errands = Errands(problem, config.nni.concurrency)
    proposals = Proposals(problem, place.store, SEARCHER, config.seed, UNBOUNDED, on_outcome)
    service = Service(OwnExperiment(proposals, errands, place.store, search), problem, workers)
    try:
        with serving(service, place.run_dir.root / EXPERIMENT):
            say(f"scoring trials of {place.run_dir.root / EXPERIMENT}")
            while service.idle_s < idle_s:
                if service.failure is not None:
                    raise service.failure
                time.sleep(POLL_S)
    finally:
        errands.end()
        workers.close()

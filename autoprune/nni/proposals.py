"""Trials whose parameters one of NNI's tuners proposes: each is an episode of the run, in the order in which they
finish."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.nni.service import Booking, Desk, Refused
from autoprune.nni.space import proposed_options, within_limits
from autoprune.results.kept import NNI_LEFT, NNI_TRIALS, FinishedTrial, LeftTrial
from autoprune.search.loop import SearchResult
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.search.racing import NO_BARS
from autoprune.space.decision import Policy
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

ENOUGH = "as many trials as were asked for are scored, or being scored"


@dataclass
class Proposals(Desk):
    """The desk of an experiment of `max_trials`, by a tuner of NNI's that the store calls `searcher`."""

    problem: SearchProblem
    store: TrialStore
    searcher: str
    seed: int
    max_trials: int
    on_outcome: Callable[[Outcome], None] | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, bool] = {}  # by trial, whether it was clipped
        self._left = self.store.kept(NNI_LEFT) or {}
        self.finished = self.store.kept(NNI_TRIALS) or {}  # by NNI's name

    def book(self, trial: str, parameters: Mapping[str, Any]) -> Booking:
        if (done := self.finished.get(trial)) is not None:  # NNI did not see it finish, and has begun it again
            return Booking(trial, self.problem.policy_of(done.policy), NO_BARS)
        proposed = proposed_options(self.problem.decisions, parameters)
        policy = within_limits(self.problem, proposed)
        with self._lock:
            if len(self.finished) + len(self._running) >= self.max_trials:
                raise Refused(ENOUGH)
            self._running[trial] = policy != proposed
        return Booking(trial, policy, NO_BARS)

    def finish(self, booking: Booking, score: Score) -> float:
        with self._lock:
            was_clipped = self._running.pop(booking.trial, False)
            return self._noted(booking, score, was_clipped=was_clipped, was_stopped=False).reward

    def leave(self, booking: Booking, score: Score | None) -> None:
        with self._lock:
            was_clipped = self._running.pop(booking.trial, False)
            if score is not None and booking.trial not in self.finished:
                left = LeftTrial(self.problem.pruning_of(booking.policy), score.look, was_clipped)
                self._keep_left({**self._left, booking.trial: left})

    def stopped_by_assessor(self, trial: str) -> None:
        """Of those that somebody ended, this one was judged: it is finished, as closely as it was looked at."""
        with self._lock:
            if (left := self._left.get(trial)) is not None:
                booking = Booking(trial, self.problem.policy_of(left.policy), NO_BARS)
                score = self._score_at(booking.policy, left.look)
                self._noted(booking, score, was_clipped=left.was_clipped, was_stopped=True)
                self._keep_left({name: other for name, other in self._left.items() if name != trial})

    @property
    def scored(self) -> int:
        return len(self.finished)

    @property
    def missing(self) -> int:
        return self.max_trials - len(self.finished)

    @property
    def is_over(self) -> bool:
        return self.missing <= 0

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Of the trials that are finished, in the order in which they were."""
        return tuple(map(self._outcome, sorted(self.finished.values(), key=lambda trial: trial.episode)))

    def result(self, *, wall_s: float) -> SearchResult:
        """Of the trials that are finished; at least one is."""
        outcomes = self.outcomes
        return SearchResult(
            searcher=self.searcher,
            seed=self.seed,
            best=max(outcomes, key=lambda outcome: outcome.reward),
            outcomes=outcomes,
            evaluations=len({outcome.policy for outcome in outcomes}),
            wall_s=wall_s,
            agent=None,
        )

    def _noted(self, booking: Booking, score: Score, *, was_clipped: bool, was_stopped: bool) -> Outcome:
        """The episode is stored before the trial is known to be finished: one that is killed between is begun again,
        and gets its number again."""
        outcome = self.problem.outcome_of(booking.policy, score)
        if booking.trial in self.finished:
            return outcome
        number = len(self.finished) + 1
        self.problem.note_episode(self.searcher, self.seed, number, outcome)
        done = FinishedTrial(number, outcome.pruning, score.look, was_clipped, was_stopped)
        self.store.keep(NNI_TRIALS, {**self.finished, booking.trial: done})
        self.finished[booking.trial] = done
        if self.on_outcome is not None:
            self.on_outcome(outcome)
        return outcome

    def _keep_left(self, left: dict[str, LeftTrial]) -> None:
        self.store.keep(NNI_LEFT, left)
        self._left = left

    def _outcome(self, trial: FinishedTrial) -> Outcome:
        policy = self.problem.policy_of(trial.policy)
        return self.problem.outcome_of(policy, self._score_at(policy, trial.look))

    def _score_at(self, policy: Policy, look: int) -> Score:
        return next(score for score in self.problem.known_scores(policy) if score.look == look)

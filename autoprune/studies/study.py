"""The trials of a study.

The store of a run stays its own truth. A study holds each evaluated candidate once: the options of its decisions as
parameters, its reward as value, its looks as intermediate values, and its scores, which others take over.
"""

import itertools
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from autoprune.config import RunConfig
from autoprune.errors import InputError
from autoprune.search.problem import Looked, Outcome, PredictedProblem, SearchProblem
from autoprune.space.decision import Policy, is_policy
from autoprune.store.kept import Kept
from autoprune.store.score import Score
from autoprune.studies.identity import ANOTHER_NAME, joined_study
from autoprune.studies.storage import FIELD, opened_storage, require_optuna, storage_errors

WORKER, BEAT, NOTES, WITHDRAWN, SCORES = "worker", "beat", "notes", "withdrawn", "scores"  # of a trial
BEAT_S, GRACE_S = 10.0, 60.0  # a worker shows that it lives; one that does not for so long is dead
WATCHED = ("maximize",)  # the reward, of searchers that do not share
MOST_LOSSES = 3  # of workers, at one candidate
LOOKS = Kept(SCORES, TypeAdapter(tuple[Score, ...]))


def named(problem: PredictedProblem, policy: Sequence[int]) -> dict[str, int]:
    """The parameters of a trial."""
    return dict(zip((decision.name for decision in problem.decisions), policy, strict=True))


def distributions(problem: PredictedProblem) -> dict[str, Any]:
    kind = require_optuna(FIELD).distributions.IntDistribution
    return {decision.name: kind(0, len(decision.ladder) - 1) for decision in problem.decisions}


@contextmanager
def study_of(problem: SearchProblem, config: RunConfig, directions: Sequence[str]) -> Iterator["Study | None"]:
    """The study of a problem, if there is to be one; what it holds of scores is known to the problem.

    Raises `ConfigError` if there is a study of that name which is of another problem.
    """
    if config.search.study is None:
        yield None
        return
    with opened_storage(config.search.study) as storage:
        with storage_errors():
            study = Study(storage, problem, config, directions)
        try:
            yield study
        finally:
            study.release()


@dataclass(frozen=True)
class Claim:
    """A candidate that this worker evaluates for all."""

    policy: Policy
    trial_id: int
    number: int
    ended: threading.Event
    beating: threading.Thread


class Study:
    """A study under way: what is `finished` in it, who is at work, and what dead workers have left behind."""

    def __init__(self, storage: Any, problem: SearchProblem, config: RunConfig, directions: Sequence[str]) -> None:
        self._optuna = require_optuna(FIELD)
        self._states = self._optuna.trial.TrialState
        self._storage, self._problem, self._config = storage, problem, config
        self._distributions = distributions(problem)
        self._mine: Claim | None = None
        self._beats: dict[int, tuple[int, float]] = {}  # by trial: the last one, and when it was first seen
        self.finished: dict[Policy, Any] = {}  # trials by policy, in the order in which they ended
        self.running: set[Policy] = set()  # of other workers
        self.lost: dict[Policy, Mapping[str, Any]] = {}  # what a worker left that is dead, with its notes
        folder = problem.store.path.parent.absolute() if problem.store is not None else ""
        self._worker = f"{platform.node()}:{folder}"
        self._study = joined_study(storage, problem, config, directions)
        self.look()

    @storage_errors()
    def look(self) -> None:
        """Read what has changed. Trials of dead workers fail; scores that others found are taken over."""
        self.running, losses, notes = set(), Counter[Policy](), {}
        ended = []
        for trial in self._study.get_trials(deepcopy=False):
            policy = self._policy_of(trial)
            if policy is None or (self._mine is not None and trial.number == self._mine.number):
                continue
            notes[policy] = trial.user_attrs.get(NOTES, {})
            if trial.state == self._states.COMPLETE and policy not in self.finished:
                ended.append((trial.datetime_complete, trial.number, policy, trial))
            elif trial.state == self._states.RUNNING and not self._is_dead(trial):
                self.running.add(policy)
            elif trial.state in (self._states.RUNNING, self._states.FAIL) and WITHDRAWN not in trial.user_attrs:
                losses[policy] += 1
                if trial.state == self._states.RUNNING:
                    self._study.tell(trial.number, state=self._states.FAIL, skip_if_finished=True)
        for *_, policy, trial in sorted(ended, key=lambda each: each[:2]):
            if policy not in self.finished:
                self._take_over(policy, trial)
                self.finished[policy] = trial
        self.lost = {
            policy: notes[policy]
            for policy, count in losses.items()
            if count < MOST_LOSSES and policy not in self.finished and policy not in self.running
        }

    @storage_errors()
    def add(self, outcome: Outcome, values: Sequence[float]) -> None:
        """A candidate that was evaluated, unless it is there."""
        self.look()
        if outcome.policy not in self.finished:
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    params=named(self._problem, outcome.policy),
                    distributions=self._distributions,
                    values=list(values),
                    user_attrs={**self._known_of(outcome.policy), **self._found_of(outcome)},
                    intermediate_values=self._rewards_by_look(outcome),
                )
            )
            self.look()

    @storage_errors()
    def claim(self, policy: Policy, notes: Mapping[str, Any], *, max_evaluations: int) -> bool:
        """Whether this worker is the one that evaluates `policy` now: no other was first, and the budget has room."""
        trial = self._optuna.trial.create_trial(
            state=self._states.RUNNING,
            params=named(self._problem, policy),
            distributions=self._distributions,
            user_attrs={**self._known_of(policy), BEAT: 0, NOTES: dict(notes)},
        )
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        trial_id = self._storage.create_new_trial(study_id, trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        taken = self._study.get_trials(deepcopy=False, states=(self._states.RUNNING, self._states.COMPLETE))
        before = {self._policy_of(trial) for trial in taken if trial.number < number} - {None}
        if policy in before or len(before) >= max_evaluations:
            self._storage.set_trial_user_attr(trial_id, WITHDRAWN, True)
            self._study.tell(number, state=self._states.FAIL)
            return False
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(trial_id, ended), daemon=True)
        beating.start()
        self._mine = Claim(policy, trial_id, number, ended, beating)
        return True

    @storage_errors()
    def finish(self, outcome: Outcome, values: Sequence[float]) -> None:
        """What a claimed policy came to."""
        mine = self._no_longer_mine()
        try:
            for look, reward in self._rewards_by_look(outcome).items():
                self._storage.set_trial_intermediate_value(mine.trial_id, look, reward)
            for name, value in self._found_of(outcome).items():
                self._storage.set_trial_user_attr(mine.trial_id, name, value)
            self._storage.set_trial_state_values(mine.trial_id, self._states.COMPLETE, list(values))
        except self._optuna.exceptions.UpdateFinishedTrialError:  # this process slept, and was taken for dead
            self.add(outcome, values)
        self.look()

    def release(self) -> None:
        """Leave what was claimed and not finished to others."""
        if self._mine is not None:
            mine = self._no_longer_mine()
            with suppress(Exception):  # what ended the search is to be told; without beats others find out, too
                self._study.tell(mine.number, state=self._states.FAIL, skip_if_finished=True)

    def _no_longer_mine(self) -> Claim:
        assert self._mine is not None, "nothing is claimed"
        mine, self._mine = self._mine, None
        mine.ended.set()
        mine.beating.join()
        return mine

    def _beat(self, trial_id: int, ended: threading.Event) -> None:
        for beat in itertools.count(1):
            if ended.wait(BEAT_S):
                return
            with suppress(Exception):  # the next one will do
                self._storage.set_trial_user_attr(trial_id, BEAT, beat)

    def _is_dead(self, trial: Any) -> bool:
        """Whether its worker has shown no life for as long as this one has looked; clocks may differ."""
        beat, now = trial.user_attrs.get(BEAT, 0), time.monotonic()
        last, since = self._beats.get(trial.number, (None, now))
        self._beats[trial.number] = (beat, since if beat == last else now)
        return trial.user_attrs.get(WORKER) == self._worker or (beat == last and now - since > GRACE_S)

    def _policy_of(self, trial: Any) -> Policy | None:
        """None for a trial that is not of this search, such as one that was added by hand."""
        policy = tuple(trial.params.get(decision.name) for decision in self._problem.decisions)
        is_told = trial.state != self._states.COMPLETE or SCORES in trial.user_attrs
        return policy if is_told and is_policy(self._problem.decisions, policy) else None

    def _take_over(self, policy: Policy, trial: Any) -> None:
        try:
            scores = LOOKS.read(trial.user_attrs[SCORES])
        except ValueError as error:
            name = self._study.study_name
            raise InputError(f"{FIELD}: {name}: trial {trial.number}: {SCORES}: {error}; {ANOTHER_NAME}") from None
        self._problem.remember(Looked(policy, scores, trial.duration.total_seconds()))

    def _rewards_by_look(self, outcome: Outcome) -> dict[int, float]:
        return {score.look: self._problem.reward_at(outcome.policy, score.look) for score in self._looks(outcome)}

    def _looks(self, outcome: Outcome) -> tuple[Score, ...]:
        known = self._problem.known_scores(outcome.policy)
        return tuple(score for score in known if score.look <= outcome.score.look)

    def _known_of(self, policy: Policy) -> dict[str, Any]:
        problem = self._problem
        original_ms = problem.original_cost.predicted_latency_ms
        return {
            WORKER: self._worker,
            "searcher": self._config.search.agent,
            "seed": self._config.seed,
            "widths": problem.pruning_of(policy).as_dict(),
            "predicted_latency_share": problem.predict(policy).predicted_latency_ms / original_ms,
        }

    def _found_of(self, outcome: Outcome) -> dict[str, Any]:
        metrics = {name: metric.value for name, metric in outcome.score.metrics.items()}
        return {**metrics, SCORES: LOOKS.text(self._looks(outcome))}

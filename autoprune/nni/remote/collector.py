"""What trials on other machines have found, read from NNI and put where local ones put it: the run's store and desk."""

import json
from dataclasses import dataclass, field

from autoprune.errors import RunError
from autoprune.nni.manager import Manager
from autoprune.nni.remote.report import report_in
from autoprune.nni.service import Desk, Refused
from autoprune.search.problem import Looked, SearchProblem

EARLY_STOPPED = "EARLY_STOPPED"  # by an assessor


@dataclass
class Collector:
    """Called now and then with the state of each trial."""

    manager: Manager
    desk: Desk
    problem: SearchProblem
    _done: set[str] = field(default_factory=set)

    def __call__(self, states: dict[str, str]) -> None:
        """Raises `RunError` for a report that is none, or of another candidate than was asked for."""
        finished = [str(metric["trialJobId"]) for metric in self.manager.metrics("?type=FINAL")]
        for trial in (*finished, *(trial for trial, state in states.items() if state == EARLY_STOPPED)):
            if trial not in self._done:
                self._take(trial, was_ended=trial not in finished)

    def _take(self, trial: str, *, was_ended: bool) -> None:
        told = [json.loads(json.loads(metric["data"])) for metric in self.manager.metrics(f"/{trial}")]
        reports = [report_in(figures, trial) for figures in told]
        if not reports:  # it is asked again
            return
        self._done.add(trial)
        try:
            booking = self.desk.book(trial, reports[0].parameters)
        except Refused:  # more than were asked for
            return
        policy = booking.policy
        if self.problem.pruning_of(policy) != reports[0].policy:
            raise RunError(f"trial {trial}: scored another candidate than was asked for; another version of autoprune?")
        scores = {report.score.look: report.score for report in reports}  # the last look's is reported twice
        self.problem.remember(Looked(policy, [scores[look] for look in sorted(scores)], reports[-1].wall_s))
        last = max(scores)
        score = next(each for each in self.problem.known_scores(policy) if each.look == last)
        if was_ended:
            self.desk.leave(booking, score)
        else:
            self.desk.finish(booking, score)

"""What scores trials on another machine: the same service as that of a run, with the problem made from its recipe.

`python -m autoprune.nni.remote.scorer CODE FOLDER` is started by the first trial of a trial keeper of NNI's, listens in
FOLDER, and ends with the keeper.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config.file import load_config
from autoprune.errors import AutopruneError
from autoprune.foundation.factories import users_errors
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.nni.processes import is_alive
from autoprune.nni.remote.keeper import DATA, keeper_of_trials
from autoprune.nni.remote.recipe import CONFIG, problem_from
from autoprune.nni.remote.report import FORM, REPORT, Report, bars_in
from autoprune.nni.service import Booking, Desk, Service, serving
from autoprune.nni.space import proposed_options, within_limits
from autoprune.nni.workers import Workers
from autoprune.search.problem import SearchProblem
from autoprune.search.racing import NO_BARS
from autoprune.store.score import Score

POLL_S = 0.5


@dataclass(frozen=True)
class Reported(Booking):
    """A trial that is reported to a run on another machine."""

    parameters: Mapping[str, Any]
    started: float


@dataclass(frozen=True)
class Scoring(Desk):
    """The desk where nothing is known but the problem: the run elsewhere keeps what is found."""

    problem: SearchProblem

    def book(self, trial: str, parameters: Mapping[str, Any]) -> Booking:
        bars, policy = bars_in(parameters), proposed_options(self.problem.decisions, parameters)
        if bars is None:
            bars, policy = NO_BARS, within_limits(self.problem, policy)
        return Reported(trial, policy, bars, parameters, time.perf_counter())

    def finish(self, booking: Booking, score: Score) -> float:
        return self.problem.outcome_of(booking.policy, score, booking.bars).reward

    def leave(self, booking: Booking, score: Score | None) -> None:
        """The run sees what was reported."""

    def reported(self, booking: Booking, score: Score) -> dict[str, str]:
        assert isinstance(booking, Reported)
        took_s = time.perf_counter() - booking.started
        pruning = self.problem.pruning_of(booking.policy)
        return {REPORT: FORM.text(Report(dict(booking.parameters), pruning, score, took_s))}


def score_until_over(code: Path, folder: Path, *, data: str | None, keeper: int) -> None:
    """Score what comes while the process `keeper` lives."""
    import torch

    torch.set_flush_denormal(True)
    config = load_config(code / CONFIG)
    seed_everything(derive_seed(config.seed, "search"))
    with users_errors():
        problem = problem_from(code, data=data)
    with closing(Workers(problem, config.nni.concurrency)) as workers:
        service = Service(Scoring(problem), problem, workers)
        with serving(service, folder):
            while is_alive(keeper):
                if service.failure is not None:
                    raise service.failure
                time.sleep(POLL_S)


def main() -> None:
    code, folder = map(Path, sys.argv[1:])
    try:
        score_until_over(code, folder, data=os.environ.get(DATA), keeper=keeper_of_trials())
    except AutopruneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

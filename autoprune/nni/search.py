"""A search as an experiment of NNI's, in the place of a search in this process: what it leaves is the same."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field, TypeAdapter

from autoprune.config import RunConfig
from autoprune.config.nni import AGENT_TUNER
from autoprune.errors import ConfigError, RunError
from autoprune.foundation.progress import bar, say
from autoprune.nni.algorithms import check_assessor, check_tuner, require_nni, space_type
from autoprune.nni.client import EXPERIMENT
from autoprune.nni.errands import Errands
from autoprune.nni.manager import BUSY, UNDER_WAY, Experiment, Manager, Server, TunerError, managed, trial_command
from autoprune.nni.proposals import Proposals
from autoprune.nni.remote.collector import EARLY_STOPPED, Collector
from autoprune.nni.remote.machines import check_machines
from autoprune.nni.remote.recipe import write_recipe
from autoprune.nni.service import Service, serving
from autoprune.nni.space import search_space
from autoprune.nni.workers import Workers
from autoprune.reports.words import told_proposals
from autoprune.results.kept import NNI_LEFT, NNI_TRIALS
from autoprune.search.loop import SearchResult
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.steps.choice import best_so_far, search_only
from autoprune.steps.context import Workspace
from autoprune.store.kept import Kept
from autoprune.studies.study import WATCHED, study_of

POLL_S = 0.5
FAILURES = 5  # trials in a row
NO_MORE = "TUNER_NO_MORE_TRIAL"  # a status that NNI's tuners may take back, when trials end
QUIET_S = 10.0  # after which they do not
END_S = 5.0  # for trials whose results are here
ID = Kept("nni_experiment", TypeAdapter(Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]))
STEPS = (ID, NNI_TRIALS, NNI_LEFT)


def check_nni(config: RunConfig) -> None:
    """Raises `ConfigError` for a tuner or assessor that cannot be had, and if NNI is not installed."""
    require_nni()
    check_machines(config.nni)
    if config.nni.tuner != AGENT_TUNER:
        check_tuner(config.nni.tuner, config.nni.settings)
        if config.nni.assessor is not None:
            check_assessor(config.nni.assessor, config.nni.assessor_settings)
    elif config.nni.assessor is not None:
        raise ConfigError(
            "nni.assessor: goes with NNI's tuners; autoprune's own searchers race (search.racing): leave it out"
        )


@dataclass(frozen=True)
class NniSearch:
    """In the place of `steps.choice.search_only`."""

    server: Server

    def __call__(self, problem: SearchProblem, place: Workspace) -> SearchResult:
        by_agent = place.config.nni.tuner == AGENT_TUNER
        return self._by_agent(problem, place) if by_agent else self._by_tuner(problem, place)

    def _by_tuner(self, problem: SearchProblem, place: Workspace) -> SearchResult:
        """NNI's tuner proposes, and each trial is an episode."""
        config, trials = place.config, place.config.search.evaluations
        started = time.perf_counter()
        with (
            study_of(problem, config, WATCHED) as study,
            bar(f"search (NNI's {config.nni.tuner})", trials) as progress,
        ):
            best: list[Outcome] = []

            def show(outcome: Outcome) -> None:
                if study is not None:
                    study.add(outcome, [outcome.reward])

            def on_outcome(outcome: Outcome) -> None:
                if not best or outcome.reward > best[0].reward:
                    best[:] = [outcome]
                show(outcome)
                place.logger.search_outcome(len(desk.finished), outcome)
                progress.advance(1, best_so_far(best[0], problem))

            desk = Proposals(problem, place.store, config.nni.searcher, config.seed, trials, on_outcome)
            for outcome in desk.outcomes:
                show(outcome)
            progress.advance(len(desk.finished))
            if (missing := desk.missing) > 0:
                with _running(problem, place, desk, self.server, missing) as watch:
                    watch()
        if any(trial.was_clipped or trial.was_stopped for trial in desk.finished.values()):
            say(told_proposals(desk.finished.values(), config.nni.tuner, config.nni.assessor))
        return desk.result(wall_s=time.perf_counter() - started)

    def _by_agent(self, problem: SearchProblem, place: Workspace) -> SearchResult:
        """Our searcher asks, and each trial is an errand of its loop."""
        nni, trials = place.config.nni, place.config.search.evaluations

        def begin() -> None:
            watch = stack.enter_context(_running(problem, place, errands, self.server, trials))

            def watched() -> None:
                try:
                    watch()
                except BaseException as error:
                    errands.fail(error)

            watcher = threading.Thread(target=watched, daemon=True)
            watcher.start()
            stack.callback(watcher.join)
            stack.callback(errands.end)

        errands = Errands(problem, nni.concurrency, begin, trials=trials, tells_bars=nni.platform == "remote")
        with ExitStack() as stack:
            return search_only(problem, place, execute=errands.execute)


@contextmanager
def _running(
    problem: SearchProblem, place: Workspace, desk: Proposals | Errands, server: Server, trials: int
) -> Iterator[Callable[[], None]]:
    """Workers, service and NNI's manager, the last of which is ended first; what is yielded watches them until the
    search is over. NNI is to begin so many `trials`, unless it has noted earlier how many. Those that run on other
    machines are scored there; our tuner asks the service all the same."""
    config, store, is_remote = place.config, place.store, place.config.nni.platform == "remote"
    folder = (place.run_dir.root / EXPERIMENT).resolve()
    goes_on = store.kept(ID) is not None
    experiment = Experiment(
        folder=folder,
        id=store.once(ID, lambda: str(require_nni().experiment.Experiment(None).id)),
        name=place.run_dir.root.name,
        space=search_space(problem.decisions, space_type(config.nni.tuner)),
        trial_command=trial_command(folder, config.nni),
        trials=trials,
        seed=config.seed,
        nni=config.nni,
    )
    if is_remote:
        write_recipe(place, experiment.code)
    with closing(Workers(problem, 0 if is_remote else config.nni.concurrency)) as workers:
        service = Service(desk, problem, workers)
        with serving(service, folder), managed(experiment, server, goes_on=goes_on) as manager:
            say(f"NNI's web page: {manager.url} (experiment {experiment.id})")
            yield partial(_watch, manager, service, desk, Collector(manager, desk, problem) if is_remote else None)


def _watch(manager: Manager, service: Service, desk: Proposals | Errands, collector: Collector | None) -> None:
    """Until the search is over, or the tuner proposes no more. NNI counts trials that fail, too: what is missing is
    allowed once those of before have ended. A `collector` fetches what other machines report; trials of this one are
    told of by the service. Raises `RunError` if NNI, the service or trial after trial fails, `ConfigError` if the tuner
    does not begin."""
    failed_before: int | None = None
    scored_before = desk.scored
    proposed_at = time.monotonic()
    while not desk.is_over:
        if service.failure is not None:
            raise service.failure
        try:
            status = manager.status()
        except TunerError as error:
            if desk.scored == 0:  # it cannot even begin
                raise ConfigError(f"nni.tuner: {error}") from None
            raise RunError(f"{error}; go on with `autoprune nni resume`") from None
        trials = None if status == BUSY else manager.trials()
        if trials is None:
            time.sleep(POLL_S)
            continue
        if collector is not None:
            collector(trials)
        for trial, state in trials.items():
            if state == EARLY_STOPPED:
                desk.stopped_by_assessor(trial)
        failed = [trial for trial, state in trials.items() if state == "FAILED"]
        if failed_before is None or desk.scored > scored_before:  # those of an earlier process do not count
            failed_before, scored_before = len(failed), desk.scored
        elif len(failed) - failed_before >= FAILURES:
            raise RunError(f"{FAILURES} trials in a row have failed: {manager.said_by(failed[-1])}")
        if status != NO_MORE or not UNDER_WAY.isdisjoint(trials.values()):
            proposed_at = time.monotonic()
        elif time.monotonic() - proposed_at > QUIET_S:
            if desk.scored == 0:
                raise ConfigError("nni.tuner: NNI's tuner proposes nothing")
            say(f"NNI's tuner proposes no more after {desk.scored} trials")
            return
        if status == "DONE" and not desk.is_over:
            manager.allow(len(trials), desk.missing)
        time.sleep(POLL_S)
    _let_end(manager)


def _let_end(manager: Manager) -> None:
    """The last trials, whose results are here: for NNI, too, they are to have succeeded."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        trials = manager.trials()
        if trials is not None and UNDER_WAY.isdisjoint(trials.values()):
            return
        time.sleep(POLL_S)

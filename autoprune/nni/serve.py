"""Trials of an experiment of the user's own, begun with `nnictl create` or NNI's Python: a service that they start."""

import threading
import time

from autoprune.config.nni import AGENT_TUNER
from autoprune.foundation.progress import say
from autoprune.nni.client import EXPERIMENT
from autoprune.nni.errands import Errands
from autoprune.nni.proposals import Proposals
from autoprune.nni.service import Desk, Service, serving
from autoprune.nni.workers import Workers
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.space.policy import save_policy
from autoprune.steps.choice import search_only
from autoprune.steps.context import Workspace

POLL_S = 0.5
UNBOUNDED = 2**31  # it is NNI that says how many trials there are


def served(problem: SearchProblem, place: Workspace, *, idle_s: float) -> None:
    """Score what comes until nobody has asked for `idle_s`; `policy.json` is the best so far.

    With `nni.tuner=agent` the searcher of `search.agent` proposes, through `AgentTuner`; otherwise whoever does.
    """
    config, by_agent = place.config, place.config.nni.tuner == AGENT_TUNER
    workers = Workers(problem, config.nni.concurrency)
    best: list[Outcome] = []

    def on_outcome(outcome: Outcome) -> None:
        if not best or outcome.reward > best[0].reward:
            best[:] = [outcome]
            _save(problem, outcome, place)

    errands = Errands(problem, config.nni.concurrency)
    proposals = Proposals(problem, place.store, config.nni.searcher, config.seed, UNBOUNDED, on_outcome)
    desk: Desk = errands if by_agent else proposals
    try:
        service = Service(desk, problem, workers)
        with serving(service, place.run_dir.root / EXPERIMENT):
            say(f"scoring trials of {place.run_dir.root / EXPERIMENT}")
            if by_agent:
                searching = threading.Thread(target=_search, args=(problem, place, errands, service), daemon=True)
                searching.start()
            while time.monotonic() - service.last_asked < idle_s:
                if service.failure is not None:
                    raise service.failure
                time.sleep(POLL_S)
    finally:
        errands.end()
        workers.close()


def _search(problem: SearchProblem, place: Workspace, errands: Errands, service: Service) -> None:
    try:
        _save(problem, search_only(problem, place, execute=errands.execute).best, place)
    except BaseException as error:
        service.failure = service.failure or error
    finally:
        errands.end()


def _save(problem: SearchProblem, best: Outcome, place: Workspace) -> None:
    config = place.config
    model = config.model.name if config.problem == "model" else config.problem
    original = problem.pruning_of(problem.full_policy).as_dict()
    save_policy(place.run_dir.policy, best.pruning, model=model, original=original)

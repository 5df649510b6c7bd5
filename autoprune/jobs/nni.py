"""`autoprune nni`: a run whose search is an NNI experiment, and what goes on with it, shows it, or ends it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from autoprune.config import RunConfig, check_bounds
from autoprune.config.file import load_config
from autoprune.config.nni import OF_NNI
from autoprune.config.unused import Job
from autoprune.errors import InputError
from autoprune.foundation.progress import say
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.jobs.run import run
from autoprune.nni.algorithms import require_nni, space_type
from autoprune.nni.client import EXPERIMENT
from autoprune.nni.manager import Experiment, Server, free_port, managed, trial_command
from autoprune.nni.processes import end_all, ignores_interrupts, marked
from autoprune.nni.search import ID, STEPS, NniSearch, check_nni
from autoprune.nni.serve import BY_AGENT, served
from autoprune.nni.space import SearchSpace, search_space
from autoprune.results.kept import NNI_TRIALS
from autoprune.results.run import RunResult
from autoprune.search.prepare import PREPARED
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.steps.choice import check_search, save_best, search_choice
from autoprune.steps.context import Workspace, problem_of
from autoprune.store.run_dir import RunDir, check_run_dir, holder_of
from autoprune.store.trials import TrialStore

END_S = 30.0


def nni_run(
    config: RunConfig, root: Path, *, resume: bool, server: Server, search_only: bool = False
) -> RunResult | Outcome:
    """The whole job, its search an NNI experiment. With `search_only`, and of a problem that has no model to go on
    with, the best outcome: `policy.json` holds it."""
    check_nni(config)
    with free_port(server):
        pass  # told at once if there is none
    search = NniSearch(server)
    if config.problem == "model" and not search_only:
        choose = partial(search_choice, search=search)
        return run(config, root, resume=resume, choose=choose, command="nni", also_keeps=STEPS)
    with _searched(config, root, resume=resume) as (place, problem):
        best = search(problem, place).best
        save_best(problem, best, place)
    return best


@contextlib.contextmanager
def _searched(config: RunConfig, root: Path, *, resume: bool) -> Iterator[tuple[Workspace, SearchProblem]]:
    """The problem of a search without the rest of a job, in the run folder `root`."""
    check_bounds(config)
    run_dir = check_run_dir(root, config, resume=resume)
    check_search(config)
    steps = (*PREPARED, *STEPS, BY_AGENT)
    with problem_of(config, run_dir, Job("nni"), steps=steps) as (place, problem, _):
        seed_everything(derive_seed(config.seed, "search"))
        yield place, problem


def resumed(root: Path, *, server: Server, search_only: bool) -> RunResult | Outcome:
    """Go on with the experiment of a run, by its own configuration."""
    config = load_config(_run_of(root).config)
    return nni_run(config, root, resume=True, server=server, search_only=search_only)


def space_of(config: RunConfig, root: Path, *, tuner: str) -> SearchSpace:
    """What NNI searches, for an experiment of the user's own; the model is timed in the folder that will score."""
    kind = space_type(tuner)
    with _searched(config, root, resume=root.is_dir()) as (_, problem):
        return search_space(problem.decisions, kind)


def serve(config: RunConfig, root: Path, *, idle_minutes: float) -> None:
    """Score trials of the user's own experiment, until nobody has asked for so long."""
    with _searched(config, root, resume=root.is_dir()) as (place, problem):
        served(problem, place, idle_s=60.0 * idle_minutes)


@contextlib.contextmanager
def viewed(root: Path, *, server: Server) -> Iterator[str]:
    """The web page of an experiment that has ended, to look at while the block runs; its address."""
    run_dir = _run_of(root)
    require_nni()
    config = load_config(run_dir.config)
    if is_running(root):
        raise InputError(f"{root}: its experiment is running, with a page of its own; stop it first")
    folder = (root / EXPERIMENT).resolve()
    name = TrialStore(run_dir.trials).kept(ID)
    if name is None:
        raise InputError(f"{root}: its experiment has not begun; go on with `autoprune nni resume {root}`")
    experiment = Experiment(folder, name, root.name, {}, trial_command(folder, config.nni), 1, config.seed, config.nni)
    with managed(experiment, server, goes_on=True, views=True) as manager:
        yield manager.url


def stop(root: Path) -> int:
    """End the experiment of a run and all that belongs to it, as an interrupt would; how many processes that were."""
    _run_of(root)
    folder = (root / EXPERIMENT).resolve()
    owner = holder_of(RunDir(root))
    found = len(list(marked(folder))) + (owner is not None)
    if owner is not None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(owner, signal.SIGTERM if ignores_interrupts(owner) else signal.SIGINT)
            deadline = time.monotonic() + END_S
            while holder_of(RunDir(root)) is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            if holder_of(RunDir(root)) is not None:
                say(f"process {owner} does not end; it is killed")
                os.kill(owner, signal.SIGKILL)
    end_all(folder)
    return found


State = Literal["running", "finished", "stopped", "unreadable"]


@dataclass(frozen=True)
class Listed:
    """An experiment of a run: one that the run has begun, or the user's own, whose trials it has scored."""

    folder: Path
    id: str | None  # NNI's; None: the user's own
    tuner: str
    trials: int  # that are finished
    of: int | None  # NNI's own configuration says it of an experiment that is the user's
    state: State


def listed(roots: list[Path]) -> list[Listed]:
    """The experiments of the runs in these folders, and in the folders below. Raises `InputError` for a folder that is
    not there."""
    for folder in roots:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name one that holds runs")
    found = []
    for root in sorted({path for folder in roots for path in (folder, *folder.glob("*"))}):
        run_dir = RunDir(root)
        if not (root / EXPERIMENT).is_dir() or not run_dir.config.is_file() or not run_dir.trials.is_file():
            continue
        found.append(_listed(run_dir))
    return found


def _listed(run_dir: RunDir) -> Listed:
    try:
        config, store = load_config(run_dir.config), TrialStore(run_dir.trials)
        name, proposed, episodes = store.kept(ID), store.kept(NNI_TRIALS), store.episodes()
    except InputError:
        return Listed(run_dir.root, None, "", 0, None, "unreadable")
    trials = len(proposed or {}) or len({row.policy for row in episodes if "," not in row.searcher})  # of no part
    state: State = "running" if is_running(run_dir.root) else "stopped"
    if name is None:
        tuner = episodes[-1].searcher.removeprefix(OF_NNI) if episodes else ""
        return Listed(run_dir.root, None, tuner, trials, None, state)
    if state == "stopped" and run_dir.policy.is_file():
        state = "finished"
    return Listed(run_dir.root, name, config.nni.tuner, trials, config.search.evaluations, state)


def is_running(root: Path) -> bool:
    return holder_of(RunDir(root)) is not None or any(True for _ in marked((root / EXPERIMENT).resolve()))


def _run_of(root: Path) -> RunDir:
    run_dir = RunDir(root)
    if not run_dir.config.is_file():
        raise InputError(f"{root}: holds no run; `autoprune nni run CONFIG --run-dir {root}` begins one")
    if not (root / EXPERIMENT).is_dir() and not _is_at_its_beginning(run_dir):
        raise InputError(f"{root}: that run has no NNI experiment; go on with `autoprune run ... --resume`")
    return run_dir


def _is_at_its_beginning(run_dir: RunDir) -> bool:
    """Whether nothing has been searched there yet, so that NNI may still do it."""
    return not run_dir.trials.is_file() or TrialStore(run_dir.trials).count() == 0

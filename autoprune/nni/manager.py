"""NNI's manager (a process of node with its web page), its dispatcher and trials: begun, watched and ended."""

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.config import NniConfig
from autoprune.config.nni import AGENT_TUNER
from autoprune.errors import ConfigError, InputError, RunError
from autoprune.foundation.progress import say
from autoprune.nni.algorithms import ASSESSORS, SEEDED, from_anywhere, own_settings, require_nni, silenced, tuner_named
from autoprune.nni.processes import MARK, Log, command_of, end_all, marked
from autoprune.nni.remote import machines
from autoprune.nni.space import SearchSpace

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS = 8080, 100
PRELOAD = Path(__file__).with_name("preload.js")
UNDER_WAY = frozenset({"WAITING", "RUNNING", "UNKNOWN"})  # states of trials
DISPATCHER = "-m nni --exp_params"
RAISED = "ERROR (nni.runtime.msg_dispatcher_base"  # in the tuner's log, before a traceback
ERROR = re.compile(r"[\w.]*(Error|Exception|Exit)\b")  # the last line of a traceback
BUSY = "BUSY"  # it does not answer, but runs
START_TRIES = 60  # of a second each
TUNER_S = 120.0  # in which the tuner's process is there
NO_TRIALS = re.compile(r"Training srevice initialize failed: (.*)")  # in the manager's log, as NNI spells it
LAST_LINES = 3  # of what a failed trial or manager has said


class TunerError(RunError):
    """NNI's dispatcher, in which its tuner runs, has ended; the message does not say how to go on."""


@dataclass(frozen=True)
class Server:
    """Where the web page is served. `port` None: the first that is free from 8080 on."""

    port: int | None = None
    host: str = LOOPBACK


@dataclass(frozen=True)
class Experiment:
    """What NNI is told of an experiment."""

    folder: Path
    id: str
    name: str
    space: SearchSpace
    trial_command: str
    trials: int
    seed: int
    nni: NniConfig

    @property
    def code(self) -> Path:
        """What NNI uploads with trials."""
        return self.folder / "code"

    def config(self) -> Any:
        """As NNI's `ExperimentConfig`. Raises `ConfigError` for what NNI does not take."""
        nni = require_nni()
        self.code.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {
            "experimentName": self.name,
            "searchSpace": self.space,
            "trialCommand": self.trial_command,
            "trialCodeDirectory": str(self.code),
            "trialConcurrency": self.nni.concurrency,
            "maxTrialNumber": self.trials,
            "experimentWorkingDirectory": str(self.folder),
            "tuner": self._tuner(),
            "trainingService": machines.training_service(self.nni),
            **({} if self.nni.assessor is None else {"assessor": self._assessor(self.nni.assessor)}),
        }
        try:
            with silenced():
                config = nni.experiment.ExperimentConfig(**given)
                config.validate()
        except Exception as error:  # NNI raises whatever it likes
            raise ConfigError(f"nni: NNI does not take this experiment: {' '.join(str(error).split())}") from None
        return config

    def _tuner(self) -> Mapping[str, Any]:
        name = self.nni.tuner
        if name == AGENT_TUNER:
            return {
                "className": "autoprune.nni.tuner.AgentTuner",
                "codeDirectory": str(self.code),
                "classArgs": {"folder": str(self.folder)},
            }
        seed = {"seed": self.seed} if name in SEEDED else {}
        known = {} if ":" in name else {**tuner_named(name).settings, **own_settings(name, self.folder), **seed}
        return {
            "className": "autoprune.nni.tuner.OrderedTuner",
            "codeDirectory": str(self.code),
            "classArgs": {"name": from_anywhere(name), "settings": {**known, **self.nni.settings}},
        }

    def _assessor(self, name: str) -> Mapping[str, Any]:
        return {"name": name, "classArgs": {**ASSESSORS[name], **self.nni.assessor_settings}}


class Manager:
    """A manager that runs. NNI's own client is asked: its messages are not ours to know."""

    def __init__(self, experiment: Any, folder: Path, server: Server, log: Log, own_log: Log) -> None:
        self._experiment, self._folder, self._log, self._own_log = experiment, folder, log, own_log
        self.url = f"http://{server.host}:{experiment.port}/{experiment.url_prefix}/"
        self._had_tuner, self._since, self._allowed = False, time.monotonic(), 0

    def status(self) -> str:
        """As NNI calls it. Raises `RunError` once the manager is gone, or does not know how to go on."""
        status, errors = BUSY, list[str]()
        with contextlib.suppress(Exception), silenced():
            status = str(self._experiment.get_status())
            errors = self._rest("/check-status").get("errors", []) if status == "ERROR" else []
        has_failed = status == "ERROR" or (status != BUSY and self._has_lost_its_tuner())
        if self._experiment._proc.poll() is not None:  # whoever answered, and whatever ended after it
            self._check_machines()
            raise RunError("NNI's manager has ended; go on with `autoprune nni resume`")
        if has_failed:
            self._check_machines()
            raise TunerError(f"NNI's tuner has failed: {self._why(errors)}")
        return status

    def trials(self) -> dict[str, str] | None:
        """The state of each trial that NNI has begun, by its name; None if it does not answer now."""
        with silenced(), contextlib.suppress(Exception):
            return {str(job["trialJobId"]): str(job["status"]) for job in self._rest("/trial-jobs")}
        return None

    def metrics(self, of: str) -> list[Mapping[str, Any]]:
        """What trials have reported, in NNI's form: `of` /TRIAL or ?type=FINAL. Nothing if it does not answer now."""
        with silenced(), contextlib.suppress(Exception):
            return list(self._rest(f"/metric-data{of}"))
        return []

    def allow(self, trials: int, more: int) -> None:
        """After `trials`, which were all, so many more may be. NNI asks its tuner for them (preload.js)."""
        if trials + more <= self._allowed:  # it has not begun them yet
            return
        with silenced(), contextlib.suppress(Exception):  # it is asked again
            self._experiment.update_max_trial_number(trials + more)
            self._allowed = trials + more

    def said_by(self, trial: str) -> str:
        """The last words of a trial that failed."""
        for file in sorted(self._folder.glob(f"*/environments/*/trials/{trial}/trial.stderr")):
            return _last_of(file.read_text(errors="replace"))
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.url}api/v1/nni/trial-file/{trial}/stderr") as said,
        ):
            return _last_of(said.read().decode(errors="replace"))  # fetched from another machine
        return ""

    def _has_lost_its_tuner(self) -> bool:
        """Its process has ended, or has stopped working: the manager may notice neither."""
        runs = any(DISPATCHER in command_of(process) for process in marked(self._folder))
        self._had_tuner |= runs  # one that goes on begins its tuner after it has answered
        is_late = time.monotonic() - self._since > TUNER_S
        return RAISED in self._log.since() or (not runs and (self._had_tuner or is_late))

    def _rest(self, path: str) -> Any:
        from nni.experiment import rest

        return rest.get(self._experiment.port, path, self._experiment.url_prefix)

    def _check_machines(self) -> None:
        """The manager, and with it the tuner, ends if one of the machines cannot score trials: a `RunError`."""
        if (found := NO_TRIALS.search(self._own_log.since())) is not None:
            raise RunError(f"nni.machines: {found[1]}; go on with `autoprune nni resume`") from None

    def _why(self, errors: list[str]) -> str:
        told = [line for line in self._log.since().splitlines() if ERROR.match(line)]
        return told[-1] if told else "; ".join(map(str, errors)) or "its process has ended"


@contextlib.contextmanager
def managed(experiment: Experiment, server: Server, *, goes_on: bool, views: bool = False) -> Iterator[Manager]:
    """A manager of the experiment runs while the block does; it is ended however the block ends, and ends itself with
    this process. Whatever an earlier one has left is ended first.

    Raises `InputError` for a port that is in use, `RunError` if the manager does not start.
    """
    nni = require_nni()
    config = experiment.config()
    end_all(experiment.folder)
    has_begun = views or _has_profile(experiment.folder / experiment.id, experiment.trial_command)
    with silenced():
        run = nni.experiment.Experiment(config, id=experiment.id)
        run._action = "view" if views else "resume" if goes_on and has_begun else "create"
        run.url_prefix = experiment.id  # another manager, begun on this port meanwhile, does not answer to it
    logs = experiment.folder / experiment.id / "log"
    log, own_log = Log.of(logs / "dispatcher.log"), Log.of(logs / "nnimanager.log")
    _reach_it_directly()
    with_next = experiment.nni.platform == "remote" and not views
    try:
        with free_port(server, with_next=with_next) as port:
            with _environment(experiment, server, port), silenced():
                try:
                    _wait_for_it(nni.experiment.launcher)
                    run.start(port, run_mode=nni.experiment.RunMode.Detach)
                except Exception as error:
                    raise RunError(f"NNI's manager does not start: {' '.join(str(error).split())}") from None
            yield Manager(run, experiment.folder, server, log, own_log)
    finally:
        with contextlib.suppress(Exception), silenced():
            if run._proc is not None and run._proc.poll() is None:
                nni.experiment.rest.delete(run.port, "/experiment", run.url_prefix)
                run._proc.wait(timeout=10)
        end_all(experiment.folder)


def _wait_for_it(launcher: Any) -> None:
    """NNI gives its manager three seconds to answer, too few on a busy machine."""
    if not isinstance(launcher._check_rest_server, partial):
        launcher._check_rest_server = partial(launcher._check_rest_server, retry=START_TRIES)


def _reach_it_directly() -> None:
    """Trials, the dispatcher and this process talk to the manager as localhost: never through a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "localhost", LOOPBACK]))


def _has_profile(folder: Path, trial_command: str) -> bool:
    """Whether NNI has noted this experiment. A manager that is killed before leaves a folder that is in the way; in a
    run that was moved, what NNI has noted leads elsewhere. It is written to: a kill may have left a journal."""
    query = "SELECT params FROM ExperimentProfile ORDER BY revision DESC LIMIT 1"
    with contextlib.suppress(sqlite3.Error, TypeError):
        file = f"{(folder / 'db' / 'nni.sqlite').as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as database:
            (params,) = database.execute(query).fetchone()
        if json.loads(params)["trialCommand"] == trial_command:
            return True
        say("the run, or its Python, was moved: NNI begins anew, with what is in trials.sqlite")
    shutil.rmtree(folder, ignore_errors=True)
    return False


@contextlib.contextmanager
def free_port(server: Server, *, with_next: bool = False) -> Iterator[int]:
    """It is kept from other experiments that begin while the block runs: a manager that finds its port taken ends, and
    NNI would take the other's for it. Where trials run on other machines, NNI wants the one after it free too, though
    nothing listens there. Raises `InputError` if the port, or every one of a hundred, is in use."""
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS) if server.port is None else (server.port,)
    for port in wanted:
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0autoprune-nni-{port}")  # a name that goes with its process
                for tried_port in (port, port + 1) if with_next else (port,):
                    with socket.socket() as tried:
                        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        tried.bind((server.host, tried_port))
            except OSError as error:
                if server.port is not None:
                    raise InputError(
                        f"--port {port}: cannot be served on {server.host} ({error.strerror}); choose another"
                    ) from None
                continue
            yield port
            return
    raise InputError(f"--port: none is free from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}; give one")


def preloading(file: Path) -> str:
    """An option for `NODE_OPTIONS`, which a manager of NNI's inherits."""
    path = re.sub(r'(["\\])', r"\\\1", str(file))
    return f'--require "{path}"'


@contextlib.contextmanager
def _environment(experiment: Experiment, server: Server, port: int) -> Iterator[None]:
    """What the manager, and what it starts, inherit."""
    remote = machines.environment(experiment.nni, port)
    options = [os.environ.get("NODE_OPTIONS", ""), preloading(PRELOAD)]
    given = {
        "NODE_OPTIONS": " ".join([*options, *([preloading(machines.PRELOAD)] if remote else [])]).strip(),
        "AUTOPRUNE_NNI_HOST": server.host,
        "AUTOPRUNE_NNI_OWNER": str(os.getpid()),
        MARK: str(experiment.folder.resolve()),
        **remote,
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _last_of(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-LAST_LINES:])


def trial_command(folder: Path, nni: NniConfig) -> str:
    """What NNI starts for each trial of a run; it names the folder, by which a run that was moved is known."""
    import shlex

    if nni.platform == "remote":
        return f"{machines.TRIAL_COMMAND} # of {folder}"
    return shlex.join([sys.executable, "-m", "autoprune.nni.trial", str(folder)])

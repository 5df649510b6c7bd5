"""What runs in NNI's dispatcher: `AgentTuner`, a tuner around our searchers, and all others, kept in order."""

import base64
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nni import NoMoreTrialError
from nni.common.hpo_utils import format_parameters
from nni.tuner import Tuner

from autoprune.nni.algorithms import SEEDED, TUNERS, own_tuner, unchecked
from autoprune.nni.client import ask, ensure_service
from autoprune.nni.processes import is_alive

WATCH_S = 0.5
LOST = frozenset({"FAILED", "USER_CANCELED", "SYS_CANCELED"})  # events of trials that may be proposed again


def end_with_manager() -> None:
    """A dispatcher whose manager was killed tries to join whichever manager has its port next, and breaks that one."""
    manager = int(os.environ.get("AUTOPRUNE_NNI_MANAGER", "0"))

    def watch() -> None:
        while True:
            if not is_alive(manager):
                os._exit(1)
            time.sleep(WATCH_S)

    if manager:
        threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Begun:
    """How many trials NNI has begun in an experiment, and the parameters of those that are not lost."""

    trials: int = 0
    parameters: tuple[Mapping[str, Any], ...] = ()


def begun_in(database: Path) -> Begun:
    """What NNI has noted of an experiment (db/nni.sqlite)."""
    query = "SELECT trialJobId, event, data FROM TrialJobEvent WHERE trialJobId <> '' ORDER BY rowid"
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        events = connection.execute(query).fetchall()
    told = {trial: json.loads(data).get("parameters") for trial, _, data in events if data}
    lost = {trial for trial, event, _ in events if event in LOST}
    kept = (parameters for trial, parameters in told.items() if trial not in lost and parameters)
    return Begun(len({trial for trial, *_ in events}), tuple(kept))


class OrderedTuner(Tuner):  # type: ignore[misc]
    """A tuner of NNI's, or a user's own, told one thing at a time and the end of a trial after its result.

    NNI 3.0 tells both in threads of their own, and the end of a short trial may overtake its result, of which TPE dies.

    In an experiment that goes on, NNI makes its tuner anew, with the same seed, and tells it the results of trials that
    have succeeded. Here what was begun before is not proposed again only because chance, or the grid, begins anew.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        end_with_manager()
        self._name, self._settings, self._begun = name, settings, Begun()
        is_own = ":" in name
        self._remembers = is_own or TUNERS[name].remembers
        self._tuner: Any = own_tuner(name)(**settings) if is_own else unchecked("tuners", name, settings)
        self._lock = threading.RLock()
        self._told: set[int] = set()  # trials that have a result
        self._ended: dict[int, bool] = {}  # trials that have ended, and whether well

    def load_checkpoint(self) -> None:
        """NNI's first call in an experiment that goes on."""
        self._tuner.load_checkpoint()
        if (checkpoints := self.get_checkpoint_path()) is not None:
            self._begun = begun_in(Path(checkpoints).parent / "db" / "nni.sqlite")

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        with self._lock:
            self._tuner.update_search_space(search_space)
            if self._begun.trials:
                self._go_on_after(self._begun)
                self._begun = Begun()

    def _go_on_after(self, begun: Begun) -> None:
        seed = self._settings.get("seed")
        if self._name in SEEDED:
            if seed is not None:
                self._tuner.rng = np.random.default_rng([seed, begun.trials])
            for parameters in begun.parameters:
                self._tuner.dedup.add_history(format_parameters(parameters, self._tuner.space))
        elif self._name == "GridSearch":
            self._tuner.import_data([{"parameter": parameters} for parameters in begun.parameters])

    def generate_multiple_parameters(self, parameter_id_list: Sequence[int], **kwargs: Any) -> list[Any]:
        with self._lock:
            found: list[Any] = self._tuner.generate_multiple_parameters(parameter_id_list, **kwargs)
            return found

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        with self._lock:
            if self._ended.get(parameter_id) is False:  # its tuner has given it up
                return
            self._told.add(parameter_id)
            self._tuner.receive_trial_result(parameter_id, parameters, value, **kwargs)
            if parameter_id in self._ended:
                self._tuner.trial_end(parameter_id, True)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        with self._lock:
            self._ended[parameter_id] = success
            if not success or parameter_id in self._told:
                self._tuner.trial_end(parameter_id, success, **kwargs)

    def import_data(self, data: Any) -> None:
        """What was found before; of a trial whose beginning NNI was killed over it knows no parameters.

        Evolution makes nothing of it. PBT wants states of networks that pruning has none of, and ends if it finds more
        trials of a generation than that has.
        """
        known = [each for each in data if each.get("parameter") is not None and each.get("value") is not None]
        with self._lock:
            if self._remembers:
                self._tuner.import_data(known)


class AlreadyBegun(list[int]):
    """So many trials, none of them left to begin: NNI takes a shorter list for the end of the search."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


class AgentTuner(Tuner):  # type: ignore[misc]  # NNI has no types
    """Any of autoprune's searchers (ddpg, evolution, knapsack, ...: `search.agent`) as a custom tuner of NNI. It holds
    nothing: what to try next, the experiment's service says, where the search itself goes on.

    `folder` is the experiment's in a run that `autoprune nni run` has started. In an experiment of your own give
    `config`, `run_dir` and, where needed, `overrides`, the same as the trials have.
    """

    def __init__(
        self,
        folder: str | None = None,
        config: str | None = None,
        run_dir: str | None = None,
        overrides: list[str] | None = None,
    ) -> None:
        super().__init__()
        end_with_manager()
        if folder is None and config is None:
            raise ValueError("AgentTuner: classArgs: give config, as the trials have it")
        self._folder = None if folder is None else Path(folder)
        self._own = (str(config), run_dir, tuple(overrides or ()))
        self._proposed: dict[int, Mapping[str, Any]] = {}

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        """The space is that of the service, which wrote it."""

    def generate_multiple_parameters(
        self, parameter_id_list: Sequence[int], *, st_callback: Callable[[int, Mapping[str, Any]], None], **kwargs: Any
    ) -> list[Any]:
        """Each begins at once: the searcher may know the second only when it was told of the first."""
        for parameter_id in parameter_id_list:
            try:
                st_callback(parameter_id, self.generate_parameters(parameter_id))
            except NoMoreTrialError:
                return []
        return AlreadyBegun(parameter_id_list)

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> Mapping[str, Any]:
        """Waits until the searcher has something to try."""
        told = ask(self._served(), {"ask": "next", "tuner": str(os.getpid())})
        if "parameters" not in told:
            raise NoMoreTrialError(str(told.get("refused", "the search is over")))
        parameters: Mapping[str, Any] = told["parameters"]
        self._proposed[parameter_id] = parameters
        return parameters

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """The service has told the searcher already."""
        self._proposed.pop(parameter_id, None)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        proposed = self._proposed.pop(parameter_id, None)
        if not success and proposed is not None:
            ask(self._served(), {"ask": "lost", "parameters": dict(proposed)})

    def _served(self) -> Path:
        """Where the service is; it may have to read and time a model first, and NNI waits ten seconds for a tuner."""
        if self._folder is not None:
            return self._folder
        config, run_dir, overrides = self._own
        return ensure_service(config, run_dir, overrides, within=trial_code_directory())


def trial_code_directory() -> Path:
    """Where the trials of this experiment start: NNI's dispatcher is told on its command line, and starts elsewhere."""
    given = sys.argv[sys.argv.index("--exp_params") + 1]
    return Path(json.loads(base64.b64decode(given))["trialCodeDirectory"])

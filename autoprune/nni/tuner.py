"""What runs in NNI's dispatcher: `AgentTuner`, a tuner around our searchers, and NNI's own, kept in order."""

import base64
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nni import NoMoreTrialError
from nni.tools.package_utils import create_builtin_class_instance
from nni.tuner import Tuner

from autoprune.nni.client import ask, ensure_service

WATCH_S = 0.5


def end_with_manager() -> None:
    """A dispatcher whose manager was killed tries to join whichever manager has its port next, and breaks that one."""
    manager = int(os.environ.get("AUTOPRUNE_NNI_MANAGER", "0"))

    def watch() -> None:
        while True:
            try:
                os.kill(manager, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(WATCH_S)

    if manager:
        threading.Thread(target=watch, daemon=True).start()


class OrderedTuner(Tuner):  # type: ignore[misc]
    """A tuner of NNI's own, told one thing at a time and the end of a trial after its result.

    NNI 3.0 tells both in threads of their own, and the end of a short trial may overtake its result, of which TPE dies.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        end_with_manager()
        self._tuner: Any = create_builtin_class_instance(name, dict(settings), "tuners")
        self._lock = threading.RLock()
        self._told: set[int] = set()  # trials that have a result
        self._ended: dict[int, bool] = {}  # trials that have ended, and whether well

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        with self._lock:
            self._tuner.update_search_space(search_space)

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
        """What was found before; of a trial whose beginning NNI was killed over it knows no parameters."""
        known = [each for each in data if each.get("parameter") is not None and each.get("value") is not None]
        with self._lock:
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

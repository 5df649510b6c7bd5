"""A tuner of NNI's around our searchers: `autoprune.nni.tuner.AgentTuner`. It runs in NNI's dispatcher and holds
nothing: what to try next, the experiment's service says, where the search itself goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nni import NoMoreTrialError
from nni.tuner import Tuner

from autoprune.nni.client import ask, ensure_service


class AlreadyBegun(list[int]):
    """So many trials, none of them left to begin: NNI takes a shorter list for the end of the search."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


class AgentTuner(Tuner):  # type: ignore[misc]  # NNI has no types
    """Any of autoprune's searchers (ddpg, evolution, knapsack, ...: `search.agent`) as a custom tuner of NNI.

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
        if folder is None and config is None:
            raise ValueError("AgentTuner: classArgs: give config, as the trials have it")
        self._folder = Path(folder) if folder is not None else ensure_service(str(config), run_dir, overrides or [])
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
        told = ask(self._folder, {"ask": "next"})
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
            ask(self._folder, {"ask": "lost", "parameters": dict(proposed)})

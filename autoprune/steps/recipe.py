"""A search problem as a description that can be pickled: another process, or another machine, makes the same one."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.config import RunConfig
from autoprune.data import SearchData, load_search_data
from autoprune.errors import RunError
from autoprune.foundation.factories import load_factory
from autoprune.models import ModelSpec, build_model
from autoprune.models.checkpoint import load_tensor_state, tensor_state
from autoprune.runtimes.find import find_runtime
from autoprune.search.fingerprint import WHAT, fingerprint
from autoprune.search.prepare import Measured, Prepared, prepare
from autoprune.search.problem import SearchProblem
from autoprune.search.reward import make_reward
from autoprune.space.layer_option import find_option_kinds
from autoprune.steps.gate import keep_its_format, made_plain
from autoprune.steps.subject import Subject
from autoprune.tasks.judging import make_task


@dataclass(frozen=True)
class Recipe:
    """What `make` needs: the configuration, the trained weights, and what was measured where the search runs.

    Whoever makes the problem measures nothing, has no store, and scores as the one does whose recipe it is. A model or
    data that came as objects are in it; they can be pickled as far as their classes can be imported.
    """

    config: RunConfig
    measured: Measured
    model: ModelSpec | nn.Module  # a module has its weights
    weights: Mapping[str, Tensor]
    data: SearchData | None  # None: the configuration's

    @classmethod
    def of(cls, config: RunConfig, subject: Subject, prepared: Prepared) -> "Recipe":
        """What `prepare` made of the subject, trained, under the limits of `config`."""
        original = prepared.elastic.original
        data = prepared.data if subject.has_own_data else None
        return cls(config, prepared.measured, subject.spec or original, tensor_state(original), data)

    def make(self) -> SearchProblem:
        """Raises what building a model and loading data raise, where those of the configuration are not there, and
        `RunError` if they are others than where the search runs, or the problem asks for the time of a layer that was
        not measured."""
        data = load_search_data(self.config.data) if self.data is None else self.data
        model = self.model
        if isinstance(model, ModelSpec):
            model = build_model(model)
            made_plain(model)
            load_tensor_state(model, dict(self.weights))
        keep_its_format(model, data)
        made = prepare(self.config, model, data, measured=self.measured)
        if fingerprint(self.config, made.elastic, made.evaluator.seen()) != self.measured.fingerprint:
            raise RunError(f"{WHAT} is another here than where the search runs: scores would not compare")
        return made.problem


def check_importable(config: RunConfig) -> None:
    """Raises `InputError` unless what `Recipe.make` takes from files of the user's own can be imported here."""
    make_task(config.task)
    find_runtime(config.measure.runtime)
    find_option_kinds(config.search.options)
    make_reward(config.search.reward)
    if ":" in config.model.name:
        load_factory(config.model.name, field="model.name")

"""A search problem as a description that can be pickled: another process, or another machine, makes the same one."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.config import RunConfig
from autoprune.data import SearchData
from autoprune.models.checkpoint import load_tensor_state, tensor_state
from autoprune.search.prepare import Measured, Prepared, prepare
from autoprune.search.problem import SearchProblem
from autoprune.steps.subject import Subject, load_subject


@dataclass(frozen=True)
class Recipe:
    """What `make` needs: the configuration, the trained weights, and what was measured where the search runs.

    Whoever makes the problem measures nothing, has no store, and scores as the one does whose recipe it is. A model and
    data that came as objects are in it; they can be pickled as far as their classes can be imported.
    """

    config: RunConfig
    weights: Mapping[str, Tensor]
    measured: Measured
    model: nn.Module | None = None  # None: the configuration's
    data: SearchData | None = None

    @classmethod
    def of(cls, config: RunConfig, subject: Subject, prepared: Prepared) -> "Recipe":
        """What `prepare` made of the subject, trained, under the limits of `config`."""
        original, came_as_objects = prepared.elastic.original, subject.spec is None
        given = (original, prepared.data) if came_as_objects else (None, None)
        return cls(config, tensor_state(original), prepared.measured, *given)

    def make(self) -> SearchProblem:
        """Raises what `load_subject` raises where the configuration's model or data are not there."""
        model, data = self.model, self.data
        if model is None or data is None:
            subject = load_subject(self.config)
            model, data = subject.model, subject.data
            load_tensor_state(model, dict(self.weights))
        return prepare(self.config, model, data, measured=self.measured).problem

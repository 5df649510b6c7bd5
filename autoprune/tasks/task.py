"""What every task says, the built-in ones and those of users' files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class PerExample:
    """A metric of each example (N,): whether it is right, as bool, or a number.

    Numbers of which lower ones are better are losses: none is below 0.
    """

    values: Tensor
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the mean is a share of the examples."""
        return not self.values.dtype.is_floating_point


class Task(Protocol):
    """Outputs are float32, (N, ...), as the network gives them. Targets are the labels (N,) of the examples or, where
    the task needs none, what the original puts out for them. A task keeps nothing between calls."""

    @property
    def needs_labels(self) -> bool:
        """Whether outputs are judged by labels. Otherwise the original is the judge, and no label is ever read."""

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        """What training makes small: a scalar, the mean over examples.

        Of mixed images (CutMix) the labels are shares of the classes, (N, classes). `smoothing` is the share of a label
        that is spread over all classes.
        """

    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        """How far each example's outputs are from the original's, (N,): 0 for the same ones, never below."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        """How good the outputs are, by name; the first metric is the one that is reported."""

    def distillation(self, outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        """What makes a cut answer as its teacher does, which put `taught` out: a scalar, the mean over examples."""

"""What a followed forward pass told of a network."""

from dataclasses import dataclass, field
from typing import Any

from autoprune.tracing.labels import Labels


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product with weights, each time that it ran; multiply-adds of all samples."""

    module: str
    weight: str | None  # the parameter's name, if it is one as it stands
    macs: int


@dataclass
class Trace:
    """What one forward pass told. `products` are in order of execution; `uncounted` names what has no weights.

    `by_value` are the places (modules) where values of the inputs became numbers of Python's or the size of something.
    """

    labels: Labels = field(default_factory=Labels)
    products: list[Product] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    by_value: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # names of parameters and buffers
    foreign: list[str] = field(default_factory=list)  # places where a parameter is used that is not the model's own
    unforeseen: list[str] = field(default_factory=list)  # operations whose rule failed, so that they were not followed
    samples: int = 1
    is_split: bool = False  # whether code takes an axis with channels apart
    outputs: Any = None

    @property
    def macs(self) -> int:
        """Of one sample."""
        return sum(product.macs for product in self.products) // self.samples

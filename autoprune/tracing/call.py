"""One operation as it ran, and what can be said of channels that may not go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from autoprune.tracing.labels import Labels, Slots

Split = Literal["free", "last", "first"]
"""Of a channel axis that code takes apart, the part that shrinks: unknown (each place is free), the last, the first."""

FIXED = "it is joined with something of a fixed number of channels"
MIXED = "each of its channels changes all others"
NUMBERED = "its channels are taken out by their numbers"
ATTENTION = "attention heads are not cut yet"
GIVEN = "what it reads has a fixed number of channels"
OUTPUT = "it is the model's output"


@dataclass(frozen=True)
class Call:
    """One operation as it ran; `slots` are those of the tensors that it read."""

    name: str  # as in "aten::conv", without the prefix and without the underscore of what works in place
    given: dict[str, Any]  # arguments by the schema's names
    out: Any
    labels: Labels
    slots: Callable[[Tensor], Slots]
    split: Split
    depends: Callable[[Tensor], bool]  # whether a tensor depends on the model's inputs
    run: Callable[..., Any]  # the operation itself

    def tensors(self) -> list[Tensor]:
        found: list[Tensor] = []
        for value in self.given.values():
            for entry in value if isinstance(value, list | tuple) else (value,):
                if isinstance(entry, Tensor):
                    found.append(entry)
        return found

    def first(self) -> Tensor:
        return self.tensors()[0]

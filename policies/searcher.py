"""What every searcher has in common: one method, the same problem, the same budget, the same result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autoprune.policies.trained import TrainedActor
from autoprune.problem import Outcome, SearchProblem


@dataclass(frozen=True)
class SearchResult:
    """A finished search."""

    searcher: str
    seed: int
    best: Outcome  # the highest reward, the earliest of equals
    outcomes: tuple[Outcome, ...]  # one per episode, in order
    evaluations: int  # distinct policies evaluated
    wall_s: float
    agent: TrainedActor | None  # None for searchers that learn nothing


class Searcher(Protocol):
    """Looks for the policy with the highest reward."""

    @property
    def name(self) -> str: ...

    def search(
        self,
        problem: SearchProblem,
        *,
        max_evaluations: int,
        seed: int,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> SearchResult:
        """Evaluate at most `max_evaluations` (> 0) distinct policies; `on_outcome` is called after each episode."""
        ...

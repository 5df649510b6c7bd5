"""Evolution: policies that do well have offspring, and the oldest die."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.foundation import seeding
from autoprune.policies.exploration import Disturbance, disturb, lone_savings, settle
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.settings import Count, Noise, Share
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, SearcherState

REDRAWS = 20  # offspring drawn, each wilder, to find one that was not evaluated before


@dataclass(frozen=True)
class EvolutionSettings:
    """Settings of regularised evolution."""

    population: Count = 24
    offspring: Count = 4  # bred before any of them is evaluated
    drawn: Count = 8  # from the population, of which the best is a parent
    crossover: Share = 0.3  # how often a child has two parents
    noise: Noise = 0.5  # standard deviation of the truncated normal noise on an action
    exploration: Disturbance = field(default_factory=Disturbance)


class EvolutionSearcher:
    """Regularised evolution (Real et al. 2019, algorithm 1) over policies that meet the limits.

    The first population are the heuristics' policies and random ones. Then the best of a few drawn from the population
    has a child, which joins it while the oldest leaves. A child is its parent with noise on a few decisions, or a
    mixture of two parents, and is brought back under the limits as the agents' proposals are.
    """

    name = "evolution"

    def __init__(self, brief: Brief, settings: EvolutionSettings) -> None:
        self._problem, self._settings = brief.problem, settings
        self._rng = seeding.rng(brief.seed, "evolution")
        self._savings = lone_savings(self._problem)
        self._young: list[list[int]] = []  # asked for, not told yet
        self._known: dict[tuple[int, ...], None] = {}
        self._alive: deque[tuple[float, list[int]]] = deque(maxlen=self._settings.population)  # (reward, options)

    def ask(self) -> Ask:
        if self._known:
            self._young = [self._child() for _ in range(self._settings.offspring)]
        else:
            self._young = [list(policy) for policy in demonstrations(self._problem)]
            self._known = {tuple(options): None for options in self._young}
        return Ask(tuple(tuple(options) for options in self._young))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._alive.extend((outcome.reward, options) for outcome, options in zip(outcomes, self._young, strict=False))

    def state(self) -> SearcherState:
        return SearcherState(
            {
                "rng": self._rng.bit_generator.state,
                "young": list(self._young),
                "known": list(self._known),
                "alive": list(self._alive),
            }
        )

    def restore(self, state: SearcherState) -> None:
        facts = state.facts
        self._rng.bit_generator.state = facts["rng"]
        self._young = facts["young"]
        self._known = {tuple(options): None for options in facts["known"]}
        self._alive.extend((reward, options) for reward, options in facts["alive"])

    def trained(self) -> None:
        return None

    def _child(self) -> list[int]:
        """Options that are not known, if chance finds any, and are so from now on; random ones until the population is
        full."""
        decisions, settings, rng = self._problem.decisions, self._settings, self._rng
        for redraw in range(REDRAWS):
            keep: frozenset[int] = frozenset()
            if len(self._known) < settings.population:
                options = [int(rng.integers(len(decision.ladder))) for decision in decisions]
            elif rng.random() < settings.crossover:
                options = mixed(self._parent(), self._parent(), rng)
            else:
                noise = settings.noise * (1.0 + redraw)
                options, keep = disturb(
                    decisions, self._parent(), settings.exploration.changed_groups, noise=noise, rng=rng
                )
            child = settle(self._problem, options, settings.exploration, self._savings, keep=keep, rng=rng)
            if tuple(child) not in self._known:
                break
        self._known[tuple(child)] = None
        return child

    def _parent(self) -> list[int]:
        """The best of a few (tournament selection)."""
        drawn = self._rng.choice(len(self._alive), size=min(self._settings.drawn, len(self._alive)), replace=False)
        return max((self._alive[int(index)] for index in drawn), key=lambda member: member[0])[1]


def mixed(first: Sequence[int], second: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Each decision's option from either parent (uniform crossover)."""
    return [one if rng.random() < 0.5 else other for one, other in zip(first, second, strict=True)]

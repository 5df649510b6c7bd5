"""The figures of a comparison of searchers, and what they say: pure functions of what was measured."""

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from autoprune.results.run import MetricValue, Part


class Progress(Part):
    """The state of a search after one of its episodes."""

    evaluations: int
    elapsed_s: float
    best_reward: float


class Search(Part):
    """One search, with nothing remembered from any other."""

    searcher: str
    seed: int
    is_agent: bool
    evaluations: int
    wall_s: float
    best_reward: float
    best_top1: float | None = None  # of image classification
    best_metric: MetricValue | None = None  # on the search split, before any fine-tuning
    predicted_latency_ratio: float
    policy: dict[str, int]
    curve: tuple[Progress, ...]


class Final(Part):
    """A winner, fine-tuned and exported: what its file does."""

    test_accuracy: float
    search_views_accuracy: float  # over all views of the search split's images: less by chance than on the images alone
    speedup: float
    speedup_ci95: tuple[float, float]
    params_ratio: float


class Spread(Part):
    """Over seeds; the standard deviation of one value is 0."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else 0.0)


class Standing(Part):
    """A searcher's figures over its seeds."""

    searcher: str
    is_agent: bool
    best_reward: Spread  # after all evaluations
    reward_at_equal_time: Spread | None  # None: it had no candidate yet in a seed
    evaluations: int  # the most in a seed
    wall_s: Spread
    test_accuracy: Spread | None
    search_views_accuracy: Spread | None
    speedup: Spread | None


class Comparison(Part):
    """`comparison.json`."""

    schema_version: Literal[1] = Field(1, alias="schema")
    target: str
    max_evaluations: int
    equal_time_s: float
    finetune_epochs: int
    original_test_accuracy: float | None
    standings: tuple[Standing, ...]
    verdicts: tuple[str, ...]
    searches: tuple[Search, ...]
    finals: tuple[Final | None, ...]  # of each search's winner


def equal_time_s(searches: Sequence[Search], *, max_evaluations: int) -> float:
    """The time that every search had: that of the quickest which used all its evaluations."""
    spent = [search.wall_s for search in searches if search.evaluations >= max_evaluations]
    return min(spent or [search.wall_s for search in searches])


def reward_at(search: Search, elapsed_s: float) -> float | None:
    """The best reward that the search had found by then."""
    known = [step.best_reward for step in search.curve if step.elapsed_s <= elapsed_s]
    return known[-1] if known else None


def standings(searches: Sequence[Search], finals: Sequence[Final | None], *, at_s: float) -> tuple[Standing, ...]:
    """One for each searcher, the best first: by final accuracy where it was measured, else by reward."""
    found = []
    for name in dict.fromkeys(search.searcher for search in searches):
        rows = [(search, final) for search, final in zip(searches, finals, strict=True) if search.searcher == name]
        measured = [final for _, final in rows if final is not None]
        at_time = [reward_at(search, at_s) for search, _ in rows]
        known = [reward for reward in at_time if reward is not None]
        found.append(
            Standing(
                searcher=name,
                is_agent=rows[0][0].is_agent,
                best_reward=Spread.of([search.best_reward for search, _ in rows]),
                reward_at_equal_time=Spread.of(known) if len(known) == len(rows) else None,
                evaluations=max(search.evaluations for search, _ in rows),
                wall_s=Spread.of([search.wall_s for search, _ in rows]),
                test_accuracy=_spread([final.test_accuracy for final in measured]),
                search_views_accuracy=_spread([final.search_views_accuracy for final in measured]),
                speedup=_spread([final.speedup for final in measured]),
            )
        )
    return tuple(sorted(found, key=lambda standing: -_judged(standing).mean))


def verdicts(ranked: Sequence[Standing]) -> tuple[str, ...]:
    """For each agent, whether it is ahead of the best that learns nothing, in a sentence; by how much, and how sure."""
    others = [standing for standing in ranked if not standing.is_agent]
    if not others:
        return ()
    rival = others[0]
    said = []
    for agent in (standing for standing in ranked if standing.is_agent):
        ours, theirs = _judged(agent), _judged(rival)
        lead = ours.mean - theirs.mean
        unit = "nats of reward" if agent.test_accuracy is None else "points of test accuracy"
        size = abs(lead) if agent.test_accuracy is None else 100 * abs(lead)
        relation = "level with" if lead == 0 else "ahead of" if lead > 0 else "LOSES to"
        doubt = ", within the spread of the seeds" if 0 < abs(lead) <= max(ours.std, theirs.std) else ""
        said.append(
            f"{agent.searcher} {relation} {rival.searcher}, the best that learns nothing"
            + (f", by {size:.3f} {unit}{doubt}" if lead else "")
            + _lead_on_views(agent, rival)
        )
    return tuple(said)


def _lead_on_views(agent: Standing, rival: Standing) -> str:
    ours, theirs = agent.search_views_accuracy, rival.search_views_accuracy
    if ours is None or theirs is None:
        return ""
    return f"; {100 * (ours.mean - theirs.mean):+.3f} points on the views of the search split"


def _judged(standing: Standing) -> Spread:
    return standing.best_reward if standing.test_accuracy is None else standing.test_accuracy


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None

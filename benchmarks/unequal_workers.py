"""What a search that asks as soon as a worker is free would gain, and lose, where workers are unequal.

    python benchmarks/unequal_workers.py --seeds 20

Searchers and scores are real, on the toy problem, whose optimum is known; time is simulated. 64 workers: each takes its
own log-normal multiple of a unit of time for a candidate (sigma 0.4), some stragglers five times that, and each
evaluation varies by itself (sigma 0.1). Not simulated: the searcher's own time, and the race between candidates.

- `in rounds`: what `run_search` does. All that the searcher asks for together is scored, at most two for each worker at
  a time, and it is told before it asks again. As evolution stands (4 children), and with a child for each worker.
- `at once`: a free worker gets a child of whatever is known by then, and the searcher is told of scores as they come.
  The package has no such loop: the searcher is taken apart by its `state` here, and told of one child at a time.

Prints JSON: for each, means over seeds with 95% intervals: units of time until the budget is spent, and until the
optimum was found (of the seeds that did), evaluations until then, the mean shortfall from the optimum's reward over the
time that the slowest of them takes, and the share of their time that workers are busy.
"""

import argparse
import heapq
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from autoprune.policies.table import searcher_maker
from autoprune.search.loop import AHEAD
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Brief, MakeSearcher, Searcher
from autoprune.search.toy import toy_optimum, toy_problem
from autoprune.space.decision import Policy

REPEATED = 200  # children in a row that are known: nothing new is left
STRAGGLERS, STRAGGLING = 4, 5.0
SPREAD, JITTER = 0.4, 0.1  # sigma of logarithms


@dataclass(frozen=True)
class Workers:
    """How long each takes for a candidate."""

    pace: np.ndarray  # (workers,)
    rng: np.random.Generator

    @classmethod
    def drawn(cls, count: int, rng: np.random.Generator) -> "Workers":
        pace = rng.lognormal(0.0, SPREAD, count)
        pace[:STRAGGLERS] *= STRAGGLING
        return cls(pace, rng)

    def takes(self, worker: int) -> float:
        return float(self.pace[worker] * self.rng.lognormal(0.0, JITTER))


@dataclass(frozen=True)
class Scored:
    at: float  # when it is known
    took: float
    reward: float


def in_rounds(make: MakeSearcher, brief: Brief, workers: Workers) -> Iterator[Scored]:
    searcher, count, now, seen = make(brief), len(workers.pace), 0.0, set[Policy]()
    repeated = 0
    while len(seen) < brief.max_evaluations and repeated < REPEATED:
        asked = searcher.ask().policies
        repeated = repeated + len(asked) if seen.issuperset(asked) else 0
        outcomes: list[Outcome] = []
        for first in range(0, len(asked), AHEAD * count):
            free = [(now, worker) for worker in range(count)]
            for policy in asked[first : first + AHEAD * count]:
                outcomes.append(brief.problem.evaluate(policy))
                if policy in seen or len(seen) == brief.max_evaluations:
                    continue
                seen.add(policy)
                begun, worker = heapq.heappop(free)
                took = workers.takes(worker)
                heapq.heappush(free, (begun + took, worker))
                yield Scored(begun + took, took, outcomes[-1].reward)
            now = max(now, *(at for at, _ in free))
        searcher.tell(outcomes)


def at_once(make: MakeSearcher, brief: Brief, workers: Workers) -> Iterator[Scored]:
    searcher = make(brief)
    planned = iter(searcher.ask().policies)  # those of the heuristics
    busy: list[tuple[float, int, Policy, float]] = []  # until when
    free, begun, now = list(range(len(workers.pace)))[::-1], 0, 0.0
    seen, told, repeated = set[Policy](), 0, 0
    while busy or (begun < brief.max_evaluations and repeated < REPEATED):
        while free and begun < brief.max_evaluations and repeated < REPEATED:
            policy = next(planned, None)
            if policy is None:
                if told == 0:
                    break  # nothing to have children of
                (policy,) = searcher.ask().policies
            repeated = repeated + 1 if policy in seen else 0
            if policy in seen:
                continue
            seen.add(policy)
            begun += 1
            worker = free.pop()
            took = workers.takes(worker)
            heapq.heappush(busy, (now + took, worker, policy, took))
        now, worker, policy, took = heapq.heappop(busy)
        free.append(worker)
        outcome = brief.problem.evaluate(policy)
        searcher = told_of(searcher, outcome, make, brief)
        told += 1
        yield Scored(now, took, outcome.reward)


def told_of(searcher: Searcher, outcome: Outcome, make: MakeSearcher, brief: Brief) -> Searcher:
    """The same searcher, told of a child that may be any of those that it was asked for."""
    state = searcher.state()
    other = make(brief)
    other.restore(replace(state, facts={**state.facts, "young": [list(outcome.policy)]}))
    other.tell([outcome])
    return other


def evolution(offspring: int) -> MakeSearcher:
    return searcher_maker("evolution", {"offspring": offspring})


Loop = Callable[[Brief, Workers], Iterator[Scored]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--evaluations", type=int, default=240)
    arguments = parser.parse_args()
    loops: dict[str, Loop] = {
        "in rounds, 4 children": partial(in_rounds, evolution(4)),
        f"in rounds, {arguments.workers} children": partial(in_rounds, evolution(arguments.workers)),
        "at once": partial(at_once, evolution(1)),
    }
    found: dict[str, list[list[Scored]]] = {name: [] for name in loops}
    problem = toy_problem()
    for seed in range(arguments.seeds):
        for name, loop in loops.items():
            workers = Workers.drawn(arguments.workers, np.random.default_rng(seed))
            brief = Brief(problem, seed, arguments.evaluations)
            found[name].append(list(islice(loop(brief, workers), arguments.evaluations)))
    best = toy_optimum().reward
    print(json.dumps({name: figures(runs, found, best, arguments.workers) for name, runs in found.items()}, indent=1))


def figures(
    runs: list[list[Scored]], all_runs: dict[str, list[list[Scored]]], best: float, workers: int
) -> dict[str, object]:
    spent = [max(scored.at for scored in run) for run in runs]
    slowest = [max(scored.at for each in all_runs.values() for scored in each[seed]) for seed in range(len(runs))]
    reached, evaluated = [], []  # of the seeds that found the optimum: when, and after how many evaluations
    for run in runs:
        if hits := [scored.at for scored in run if math.isclose(scored.reward, best)]:
            reached.append(min(hits))
            evaluated.append(sum(scored.at <= min(hits) for scored in run))
    return {
        "evaluations": shown([len(run) for run in runs]),
        "units_until_spent": shown(spent),
        "seeds_that_found_the_optimum": len(reached),
        "units_until_optimum": shown(reached) if reached else None,
        "evaluations_until_optimum": shown(evaluated) if reached else None,
        "best_reward": shown([max(scored.reward for scored in run) for run in runs]),
        "mean_shortfall": shown([shortfall(run, best, until) for run, until in zip(runs, slowest, strict=True)]),
        "busy": shown([sum(s.took for s in run) / (workers * end) for run, end in zip(runs, spent, strict=True)]),
    }


def shortfall(run: list[Scored], best: float, until: float) -> float:
    """How far the best found so far is from the optimum, on average over the time from the first score on."""
    ordered = sorted(run, key=lambda scored: scored.at)
    ends = [*(scored.at for scored in ordered[1:]), until]
    so_far = np.maximum.accumulate([scored.reward for scored in ordered])
    spans = [end - scored.at for scored, end in zip(ordered, ends, strict=True)]
    return float(np.dot(best - so_far, spans) / sum(spans))


def shown(values: Sequence[float]) -> dict[str, object]:
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values)) / math.sqrt(len(values))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


if __name__ == "__main__":
    main()

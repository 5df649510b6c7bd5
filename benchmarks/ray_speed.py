"""Candidates a second, by number and kind of workers: processes of Ray, forked ones, and this process alone.

    python benchmarks/ray_speed.py demo --candidates 24

All score the same candidates, drawn at random under the limits, on all images. Workers are warm: each kind has scored
others before its clock starts. The kinds take turns, `--rounds` times. Prints JSON: the median and all rounds of each,
and ratios of two workers to one.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import torch

from autoprune.config import WorkersConfig
from autoprune.config.file import find_config, load_config
from autoprune.foundation import progress
from autoprune.foundation.scratch import scratch_for_all
from autoprune.policies.table import searcher_maker
from autoprune.search.executors import Execute, forked, inline
from autoprune.search.prepare import prepare
from autoprune.search.problem import SearchProblem
from autoprune.search.ray_cluster import Cluster
from autoprune.search.ray_workers import on_ray
from autoprune.search.searcher import Brief
from autoprune.space.decision import Policy
from autoprune.steps.recipe import Recipe
from autoprune.steps.subject import load_subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--override", action="append", default=[])
    arguments = parser.parse_args()
    progress.show(True)
    torch.set_flush_denormal(True)
    config = load_config(find_config(arguments.config), arguments.override)
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    make = replace(Recipe.of(config, subject, prepared), data=prepared.data).make
    torch.set_num_threads(1)
    kinds: dict[str, Execute] = {"alone, 1 thread": inline, "forked, 2": forked(2)}
    kinds |= {f"ray, {count}": on_ray(Cluster(WorkersConfig(count=count)), make) for count in (1, 2)}
    warming, *rounds = drawn(prepared.problem, arguments.candidates, 1 + arguments.rounds)
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with scratch_for_all():
        for candidates in rounds:
            for name, execute in kinds.items():
                found[name].append(speed(prepared.problem, execute, warming[:4], candidates))
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    ratios = {
        "ray, 2 to 1": medians["ray, 2"] / medians["ray, 1"],
        "forked, 2 to alone": medians["forked, 2"] / medians["alone, 1 thread"],
    }
    print(json.dumps({"candidates_per_s": medians, "rounds": found, "ratios": ratios}, indent=1))


def drawn(problem: SearchProblem, count: int, times: int) -> list[list[Policy]]:
    searcher = searcher_maker("random")(Brief(problem, 0, count * times))
    distinct = dict.fromkeys(policy for _ in range(count * times) for policy in searcher.ask().policies)
    policies = iter(distinct)
    return [list(islice(policies, count)) for _ in range(times)]


def speed(problem: SearchProblem, execute: Execute, warming: list[Policy], candidates: list[Policy]) -> float:
    """Candidates a second, of which none is remembered."""
    with ExitStack() as stack:
        shared = stack.enter_context(execute(problem.knowing(problem.decisions)))
        for policies in (warming, candidates):
            started = time.perf_counter()
            shared.expect(policies)
            for policy in policies:
                shared.evaluate(policy)
            taken_s = time.perf_counter() - started
    return len(candidates) / taken_s


if __name__ == "__main__":
    main()

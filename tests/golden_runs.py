"""Golden runs: what each searcher evaluates, in order, and what it is rewarded; written down, so that nobody changes a
search without seeing it.

`python tests/golden_runs.py toy` writes the toy's anew, `python tests/golden_runs.py demo TRIALS` those of the demo's
problem, with the latencies that an earlier run's `trials.sqlite` holds. What is written down can be played again on any
machine: latencies and scores come from the file, so that neither its speed nor its arithmetic matters.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from judging_for_tests import scored

from autoprune.compute.processes import usual_workers
from autoprune.config import MeasureConfig, RewardConfig, SearchConfig
from autoprune.config.file import find_config, load_config
from autoprune.data.fashion_mnist import INFO
from autoprune.models import ModelSpec, build_model
from autoprune.policies.table import KINDS, searcher_maker
from autoprune.prediction.energy import estimated_energy_mj
from autoprune.prediction.latency_model import LATENCY, build_latency_model
from autoprune.pruning.cost import CutShapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.search.executors import forked
from autoprune.search.loop import run_search
from autoprune.search.prepare import prepare
from autoprune.search.problem import Limit, PredictedCost, SearchProblem
from autoprune.search.reward import make_reward
from autoprune.search.toy import toy_problem
from autoprune.space.decision import Decision, Policy, numbered
from autoprune.space.policy import PruningPolicy
from autoprune.steps.subject import load_subject
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

FOLDER = Path(__file__).parent / "golden"
TOY_SEEDS, TOY_EVALUATIONS = (0, 1), 40
DEMO_SEARCHERS, DEMO_EVALUATIONS, DEMO_SEED = ("ddpg", "evolution", "knapsack"), 30, 0

Course = list[tuple[str, float]]
"""Rungs of all groups ("4 0 2") and the reward, by episode."""


def course(searcher: str, problem: SearchProblem, *, seed: int, max_evaluations: int, workers: int = 1) -> Course:
    """What a searcher evaluates of `problem`."""
    found = run_search(
        searcher_maker(searcher), problem, max_evaluations=max_evaluations, seed=seed, execute=forked(workers)
    )
    return [(_written(outcome.policy), outcome.reward) for outcome in found.outcomes]


def toy_course(searcher: str, seed: int) -> Course:
    return course(searcher, toy_problem(), seed=seed, max_evaluations=TOY_EVALUATIONS)


def demo_course(searcher: str, problem: SearchProblem, *, workers: int = 1) -> Course:
    return course(searcher, problem, seed=DEMO_SEED, max_evaluations=DEMO_EVALUATIONS, workers=workers)


@cache
def golden(name: str) -> Any:
    """What is written down in one of the files."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def demo_problem() -> SearchProblem:
    """The demo's problem as it was written down; `LookupError` for the score of a policy that was never evaluated."""
    written = golden("demo_problem")
    groups = tuple(Decision(**{name: _tupled(value) for name, value in group.items()}) for group in written["groups"])

    def looks(policy: PruningPolicy) -> Iterator[Score]:
        rungs = _written(numbered(groups, policy))
        if rungs not in written["scores"]:
            raise LookupError(f"a search asks for rungs {rungs}, which none did when the golden runs were written")
        yield from (scored(**score) for score in written["scores"][rungs])

    model = build_model(ModelSpec("resnet20", INFO.num_classes, INFO.in_channels, 1.0))  # only its shapes matter
    found = find_groups(model, INFO.input_shape).prunable
    elastic = ElasticModel(model, found, {group.name: tuple(range(group.channels)) for group in found})
    shapes = CutShapes(elastic, INFO.input_shape)
    with tempfile.TemporaryDirectory() as folder:
        store = TrialStore(Path(folder) / "trials.sqlite")
        store.keep(LATENCY, LATENCY.read(json.dumps(written["latency"])))
        latency = build_latency_model(shapes, INFO, search=SearchConfig(), measure=MeasureConfig(), store=store)

    def predict(policy: PruningPolicy) -> PredictedCost:
        cost = shapes.cost(policy)
        energy_mj = estimated_energy_mj(shapes.layers(policy).values())
        return PredictedCost(latency.predicted_latency_ms(policy), energy_mj, cost.macs, cost.params)

    limits = tuple(Limit(**limit) for limit in written["limits"])
    return SearchProblem(
        groups, limits, predict=predict, looks=looks, reward=make_reward(RewardConfig()), fingerprint="golden"
    )


def write_toy() -> None:
    for searcher in KINDS:
        _write(f"toy_{searcher}", {str(seed): toy_course(searcher, seed) for seed in TOY_SEEDS})


def write_demo(trials: Path) -> None:
    """The demo's problem from the real network, data and repairs; the latencies are those that `trials` holds."""
    config = load_config(find_config("demo"))
    assert config.search.reward == RewardConfig()
    subject = load_subject(config)
    latency = TrialStore(trials).kept(LATENCY)
    assert latency is not None, f"{trials} holds no latencies"
    with tempfile.TemporaryDirectory() as folder:
        store = TrialStore(Path(folder) / "trials.sqlite")
        store.keep(LATENCY, latency)
        problem = prepare(config, subject.model, subject.data, store=store).problem
        asked: set[str] = set()
        for searcher in DEMO_SEARCHERS:
            found = demo_course(searcher, problem.stored_in(store.part(searcher)), workers=usual_workers())
            asked |= {rungs for rungs, _ in found}
            _write(f"demo_{searcher}", found)
        scores = {
            rungs: [
                _plain(score)
                for score in store.scores(problem.fingerprint, problem.pruning_of(tuple(map(int, rungs.split()))).key)
            ]
            for rungs in sorted(asked)
        }
    groups, limits = ([asdict(one) for one in several] for several in (problem.decisions, problem.limits))
    _write("demo_problem", {"latency": json.loads(latency), "groups": groups, "limits": limits, "scores": scores})


def _plain(score: Score) -> dict[str, Any]:
    """As `scored` takes it."""
    means = {"kl": score.kl, "cross_entropy": score.cross_entropy, "top1": score.top1, "images": score.images}
    errors = {"kl_se": score.kl_se, "cross_entropy_se": score.cross_entropy_se}
    return {**means, **errors, "look": score.look, "complete": score.complete}


def _write(name: str, value: Any) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(value, indent=0) + "\n", encoding="utf-8")
    print(FOLDER / f"{name}.json")


def _written(policy: Policy) -> str:
    return " ".join(map(str, policy))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    write_toy() if sys.argv[1] == "toy" else write_demo(Path(sys.argv[2]))

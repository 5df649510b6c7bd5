"""Searchers inside NNI and in this process at equal evaluations of one problem: best reward and seconds, over seeds.

    python benchmarks/nni_equal_budget.py demo --evaluations 60 --seeds 3
    python benchmarks/nni_equal_budget.py cifar10_vgg16_3x -o data.name=imagefolder:DIR --out runs/vgg

The problem is measured once. Each search has a store of its own, so that none knows what another has found. Two
candidates are scored at a time, in NNI and without.
"""

import argparse
import json
import statistics
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.config.file import find_config, load_config
from autoprune.config.unused import Job
from autoprune.foundation import progress
from autoprune.foundation.scratch import scratch_for_all
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.nni.manager import Server
from autoprune.nni.search import NniSearch
from autoprune.reports.tensorboard import RunLogger
from autoprune.search.problem import SearchProblem
from autoprune.steps.choice import search_only
from autoprune.steps.context import Workspace, problem_of
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore

IN_NNI = {"NNI, TPE": "TPE", "NNI, Evolution": "Evolution", "NNI, agent (ddpg)": "agent"}
IN_PROCESS = {"ddpg": "ddpg", "evolution": "evolution", "knapsack": "knapsack"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/nni_equal_budget"), help="a search done is not repeated")
    arguments = parser.parse_args()
    progress.show(True)
    overrides = [f"search.max_evaluations={arguments.evaluations}", *arguments.override]
    config = load_config(find_config(arguments.config), overrides)
    rows: dict[str, list[tuple[float, int, float]]] = {name: [] for name in (*IN_NNI, *IN_PROCESS)}
    place = arguments.out / "problem"
    with scratch_for_all(), problem_of(config, RunDir(place), Job("search")) as (_, problem, _c):
        for seed in range(arguments.seeds):
            for name in rows:
                folder = arguments.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
                rows[name].append(searched(problem, config, name, seed, folder))
                print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
    print(f"{'':20} {'best reward':>28} {'evaluations':>12} {'seconds':>8}")
    for name, found in rows.items():
        rewards = [reward for reward, _, _ in found]
        spread = f"{statistics.mean(rewards):.4f} ({min(rewards):.4f} to {max(rewards):.4f})"
        evaluations = statistics.mean(count for _, count, _ in found)
        print(f"{name:20} {spread:>28} {evaluations:12.0f} {statistics.mean(wall for *_, wall in found):8.0f}")


def searched(problem: SearchProblem, config: RunConfig, name: str, seed: int, folder: Path) -> tuple[float, int, float]:
    """Best reward, distinct candidates, and seconds."""
    noted = folder / "found.json"
    if not noted.is_file():
        nni = config.nni.model_copy(update={"tuner": IN_NNI.get(name, "agent")})
        search = config.search.model_copy(update={"agent": IN_PROCESS.get(name, "ddpg")})
        config = config.model_copy(update={"seed": seed, "nni": nni, "search": search})
        folder.mkdir(parents=True, exist_ok=True)
        seed_everything(derive_seed(seed, "search"))
        store = TrialStore(folder / "trials.sqlite")
        with RunLogger(folder / "logs") as logger:
            place = Workspace(config, RunDir(folder), store, logger)
            own = problem.stored_in(store)
            result = NniSearch(Server())(own, place) if name in IN_NNI else search_only(own, place)
        noted.write_text(json.dumps([result.best.reward, result.evaluations, result.wall_s]))
    reward, count, wall = json.loads(noted.read_text())
    return reward, count, wall


if __name__ == "__main__":
    main()

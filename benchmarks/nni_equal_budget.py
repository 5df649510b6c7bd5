"""Searchers inside NNI and in this process at equal evaluations: best reward and seconds, over seeds.

    python benchmarks/nni_equal_budget.py demo --evaluations 60 --seeds 3
    python benchmarks/nni_equal_budget.py cifar10_vgg16_3x -o data.name=imagefolder:DIR

Each is a search alone, of the same problem: the first measures it, the others start from its latency table. Trials of
NNI are two at a time, as the processes of a search are.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

SEARCHES = {
    "NNI, TPE": ("nni", "run", "--search-only", "--tuner", "TPE"),
    "NNI, Evolution": ("nni", "run", "--search-only", "--tuner", "Evolution"),
    "NNI, agent (ddpg)": ("nni", "run", "--search-only", "--tuner", "agent"),
    "ddpg": ("search", "--agent", "ddpg"),
    "evolution": ("search", "--agent", "evolution"),
    "knapsack": ("search", "--agent", "knapsack"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/nni_equal_budget"), help="a search done is not repeated")
    arguments = parser.parse_args()
    overrides = [f"search.max_evaluations={arguments.evaluations}", *arguments.override]
    rows: dict[str, list[tuple[float, int, float]]] = {name: [] for name in SEARCHES}
    for seed in range(arguments.seeds):
        for name, command in SEARCHES.items():
            folder = arguments.out / f"{name.replace(' ', '_')}-{seed}"
            rows[name].append(searched(command, arguments.config, [*overrides, f"seed={seed}"], folder))
    print(f"{'':20} {'best reward':>24} {'evaluations':>12} {'of search, s':>13}")
    for name, found in rows.items():
        rewards = [reward for reward, _, _ in found]
        spread = f"{statistics.mean(rewards):.4f} ({min(rewards):.4f} to {max(rewards):.4f})"
        evaluations = statistics.mean(count for _, count, _ in found)
        print(f"{name:20} {spread:>24} {evaluations:12.0f} {statistics.mean(wall for *_, wall in found):13.0f}")


def searched(command: tuple[str, ...], config: str, overrides: list[str], folder: Path) -> tuple[float, int, float]:
    """Best reward, distinct candidates, and seconds from the first trial to the last."""
    noted = folder / "wall.json"
    if not noted.is_file():
        verbs = command[:2] if command[0] == "nni" else command[:1]
        given = [argument for override in overrides for argument in ("-o", override)]
        run = [sys.executable, "-m", "autoprune.cli", *verbs, config, *command[len(verbs) :], *given]
        started = time.perf_counter()
        subprocess.run([*run, "--run-dir", str(folder), "--quiet"], check=True)
        noted.write_text(json.dumps({"all_s": time.perf_counter() - started}))
    database = sqlite3.connect(folder / "trials.sqlite")
    query = (
        "SELECT max(reward), count(DISTINCT policy), (julianday(max(created_at)) - julianday(min(created_at))) * 86400 "
        "FROM episodes JOIN trials ON trials.id = trial_id"
    )
    reward, count, wall = database.execute(query).fetchone()
    return reward, count, wall


if __name__ == "__main__":
    main()

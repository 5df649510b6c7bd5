"""Searchers side by side: equal target, equal evaluations, several seeds, one latency table for all.

    python scripts/compare_searchers.py demo --seeds 3 --out runs/compare -o search.max_evaluations=120

Prints a Markdown table of the best search reward (mean and spread) and keeps every trial in OUT/trials.sqlite, so a
second call goes on where the first one was stopped.
"""

import argparse
import json
import statistics
from pathlib import Path

from autoprune import progress
from autoprune.config import find_config, load_config
from autoprune.files import write_json
from autoprune.policies.table import SEARCHERS
from autoprune.prepare import prepare
from autoprune.subject import load_subject
from autoprune.trials import TrialStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--searchers", default="uniform,random,ddpg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-o", "--override", action="append", default=[])
    arguments = parser.parse_args()
    progress.show(True)
    config = load_config(find_config(arguments.config), arguments.override)
    subject = load_subject(config)
    store = TrialStore(arguments.out / "trials.sqlite")
    problem = prepare(config, subject.model, subject.data, store=store).problem
    results: dict[str, list[dict[str, float]]] = {}
    for name in arguments.searchers.split(","):
        for seed in range(arguments.seeds):
            searched = SEARCHERS[name]().search(problem, max_evaluations=config.search.max_evaluations, seed=seed)
            results.setdefault(name, []).append(
                {
                    "seed": seed,
                    "best_reward": searched.best.reward,
                    "top1": searched.best.score.top1,
                    "predicted_latency_ratio": searched.best.cost.predicted_latency_ms
                    / problem.original_cost.predicted_latency_ms,
                    "evaluations": searched.evaluations,
                    "wall_s": searched.wall_s,
                }
            )
            progress.say(f"{name} seed {seed}: {json.dumps(results[name][-1])}")
            write_json(arguments.out / "comparison.json", results)
    print("| searcher | best reward, mean ± spread | top-1 before fine-tuning | evaluations | search, s |")
    print("|---|---|---|---|---|")
    for name, rows in results.items():
        rewards = [row["best_reward"] for row in rows]
        spread = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
        print(
            f"| {name} | {statistics.mean(rewards):.4f} ± {spread:.4f} "
            f"| {statistics.mean(row['top1'] for row in rows):.3f} "
            f"| {max(row['evaluations'] for row in rows):.0f} | {statistics.mean(row['wall_s'] for row in rows):.0f} |"
        )


if __name__ == "__main__":
    main()

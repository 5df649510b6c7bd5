"""How well the search's reward tells which of several equally fast candidates will be the best after fine-tuning.

    python benchmarks/proxy_correlation.py fashion_mnist_resnet20 --policies 16 --epochs 5 --out runs/proxy
    python benchmarks/proxy_correlation.py fashion_mnist_resnet20 --out runs/proxy -o search.score_images=1024

The policies spread over what meets the target, all close under it. Each is fine-tuned once, as a run would, and scored
on the whole search split; OUT keeps that, so a second call with other settings of the search
judges them by the same figures, and a stopped call goes on. Prints JSON.
"""

import argparse
import json
from pathlib import Path

from pydantic import TypeAdapter

from autoprune.config import RunConfig
from autoprune.config.file import find_config, load_config
from autoprune.foundation import progress
from autoprune.foundation.seeding import derive_seed
from autoprune.measure.stats import spearman
from autoprune.policies.heuristics import varied_policies
from autoprune.search.evaluate import Evaluator
from autoprune.search.prepare import Prepared, prepare
from autoprune.space.policy import PruningPolicy
from autoprune.steps.subject import load_subject
from autoprune.store.kept import Kept
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore
from autoprune.training.distill import finetune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--policies", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning, for each policy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-o", "--override", action="append", default=[])
    arguments = parser.parse_args()
    progress.show(True)
    config = load_config(find_config(arguments.config), arguments.override)
    subject = load_subject(config)
    run_dir = RunDir(arguments.out)
    store = TrialStore(run_dir.trials)
    prepared = prepare(config, subject.model, subject.data, store=store)
    problem = prepared.problem
    policies = varied_policies(problem, arguments.policies, seed=derive_seed(0, "proxy correlation"))
    tuned = [
        fine_tuned(prepared, problem.pruning_of(policy), config, arguments.epochs, run_dir, store)
        for policy in policies
    ]
    rewards = [problem.evaluate(policy).reward for policy in policies]
    limit = problem.limits[0]
    rows = [
        {
            "reward": reward,
            "top1": score["top1"],
            "kl": score["kl"],
            "of_limit": problem.predict(policy).of(limit.metric) / limit.max_value,
            "policy": problem.pruning_of(policy).as_dict(),
        }
        for policy, reward, score in zip(policies, rewards, tuned, strict=True)
    ]
    print(
        json.dumps(
            {
                "n": len(policies),
                "finetune_epochs": arguments.epochs,
                "spearman_accuracy": spearman(rewards, [score["top1"] for score in tuned]),
                "spearman_kl": spearman(rewards, [-score["kl"] for score in tuned]),
                "policies": rows,
            },
            indent=1,
        )
    )


def fine_tuned(
    prepared: Prepared,
    policy: PruningPolicy,
    config: RunConfig,
    epochs: int,
    run_dir: RunDir,
    store: TrialStore,
) -> dict[str, float]:
    """Top-1 and KL to the original on the whole search split, after so many epochs; remembered in `store`."""

    def tuned() -> dict[str, float]:
        model = finetune(
            prepared.evaluator.candidate(policy),
            prepared.data,
            teacher=prepared.teacher,
            config=config.finetune.model_copy(update={"epochs": epochs}),
            learning_rate=config.finetune_learning_rate,
            seed=derive_seed(0, "proxy correlation"),  # the same batches for all
            description="fine-tuning",
            state_path=run_dir.state / "proxy.pt",
        )
        judge = Evaluator(
            prepared.elastic, prepared.data, score_images=len(prepared.data.search), calibration_images=1, repairs=False
        )
        score = judge.score_model(model)
        (run_dir.state / "proxy.pt").unlink()
        return {"top1": score.top1, "kl": score.kl}

    return store.once(Kept(f"fine-tuned {epochs} {policy.key}", TypeAdapter(dict[str, float])), tuned)


if __name__ == "__main__":
    main()

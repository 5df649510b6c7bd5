"""Whether a trained agent does harm where it was not trained: applied to five networks, for three targets each.

    autoprune search demo --run-dir runs/demo-search
    python benchmarks/apply.py --agent runs/demo-search/agent --out runs/apply

Networks without a checkpoint are first trained for a moment on a few thousand images. Every chosen is that of
`autoprune apply --agent`, up to the fine-tuning; the heuristics then search on their own, with a whole budget, under
the same limits. Prints a table of who proposed what, and ends with 1 if what is applied has a lower reward than a
heuristic's policy that meets the target as measured. A second call goes on where the first one was stopped.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config.file import find_config, load_config
from autoprune.errors import TargetError
from autoprune.foundation import progress
from autoprune.foundation.files import write_json
from autoprune.jobs.train import train
from autoprune.policies.actor import Actor, load_actor
from autoprune.policies.table import searcher_maker
from autoprune.reports.tensorboard import RunLogger
from autoprune.results.run import SearchFigures
from autoprune.search.executors import usual
from autoprune.search.loop import run_search
from autoprune.search.prepare import prepare, search_limits
from autoprune.search.problem import SearchProblem
from autoprune.steps.applied import agent_choice
from autoprune.steps.context import Context
from autoprune.steps.finalists import FILES_TIMED, corrected_limits
from autoprune.steps.met import HEADROOM
from autoprune.steps.proposals import RIVALS
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore

NETWORKS: dict[str, Mapping[str, Any]] = {
    "resnet20": {"name": "resnet20", "checkpoint": "resnet20-fashion-mnist"},
    "resnet56": {"name": "resnet56", "width": 0.5},
    "mobilenet_v2": {"name": "mobilenet_v2", "width": 0.5},
    "vgg16_bn": {"name": "vgg16_bn", "width": 0.25},
    "small net": {"name": f"{Path(__file__).resolve()}:small_net"},
}
TARGETS: dict[str, list[dict[str, Any]]] = {
    "latency 0.53, params 0.5": [{"metric": "latency", "max_ratio": 0.53}, {"metric": "params", "max_ratio": 0.5}],
    "latency 0.5": [{"metric": "latency", "max_ratio": 0.5}],
    "macs 0.4": [{"metric": "macs", "max_ratio": 0.4}],
}
TRAINING = ["data.max_train_images=8000", "train.epochs=3", "train.learning_rate=0.1", "train.batch_size=64"]
QUICK = ["target={metric: macs, max_ratio: 1.0}", "search.score_images=500", "data.max_train_images=11000"]
LEAST = 1e-9  # rewards nearer than this are equal


@dataclass(frozen=True)
class Row:
    network: str
    target: str
    figures: SearchFigures
    searched: Mapping[str, float]  # the best reward of each heuristic's own search

    @property
    def worse_than(self) -> list[str]:
        """Whose proposal meets the target, with room for the noise of timing, and is better than what is applied."""
        taken = next(proposal for proposal in self.figures.proposals if proposal.taken)
        return [
            proposal.proposer
            for proposal in self.figures.proposals
            if proposal.missed is None
            and (proposal.measured_share or 0.0) <= 1 - HEADROOM
            and proposal.reward > taken.reward + LEAST
        ]


def small_net(num_classes: int) -> nn.Module:
    """A network that the agent has not seen, of plain convolutions; one input channel."""
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1)):
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--evaluations", type=int, default=24, help="of each heuristic's own search")
    arguments = parser.parse_args()
    progress.show(True)
    actor = load_actor(arguments.agent)
    rows = []
    for network in arguments.networks:
        rows += rows_of(network, actor, arguments.out / network.replace(" ", "-"), evaluations=arguments.evaluations)
        (arguments.out / "table.md").write_text(as_table(rows) + "\n", encoding="utf-8")
    print(as_table(rows))
    if worse := [row for row in rows if row.worse_than]:
        sys.exit(f"worse than a heuristic: {', '.join(f'{row.network} at {row.target}' for row in worse)}")


def rows_of(network: str, actor: Actor, folder: Path, *, evaluations: int) -> list[Row]:
    """One row for each target that can be met; those of an earlier call are read back."""
    done = folder / "rows.json"
    if done.is_file():
        kept = json.loads(done.read_text(encoding="utf-8"))
        return [Row(network, row["target"], SearchFigures(**row["figures"]), row["searched"]) for row in kept]
    config = load_config(find_config("demo"), QUICK)
    model = config.model.model_copy(update={"width": 1.0, "checkpoint": None, **NETWORKS[network]})
    if model.checkpoint is None:
        weights = folder / "weights.safetensors"
        if not weights.is_file():
            quick = load_config(find_config("demo"), TRAINING).model_copy(update={"model": model})
            trained = train(quick, weights, resume=weights.with_suffix(".state.pt").exists())
            progress.say(f"{network}: top-1 {trained.search_accuracy:.3f} on the search split")
        model = model.model_copy(update={"checkpoint": str(weights)})
    config = config.model_copy(update={"model": model})
    subject = load_subject(config)
    store, run_dir = TrialStore(folder / "trials.sqlite"), RunDir(folder)
    prepared = prepare(config, subject.model, subject.data, store=store)
    rows = []
    for target in TARGETS:
        try:
            with RunLogger(run_dir.logs) as logger:
                context = Context(config, run_dir, store, logger, subject, None, prepared)
                rows.append(row_of(network, target, actor, context, evaluations=evaluations))
        except TargetError as error:
            progress.say(f"{network}: {target}: {error}")
    kept = [{"target": r.target, "figures": r.figures.model_dump(mode="json"), "searched": r.searched} for r in rows]
    write_json(done, kept)
    return rows


def row_of(network: str, target: str, actor: Actor, context: Context, *, evaluations: int) -> Row:
    asked = load_config(find_config("demo"), [f"target={json.dumps(TARGETS[target])}"]).target
    config = context.config.model_copy(update={"target": asked})
    store, problem = context.store.part(target), context.prepared.problem
    floor = problem.predict(problem.floor_policy)
    limits = search_limits(config.target, problem.original_cost, floor=floor)
    problem = problem.within(limits, store=store, known=())
    run_dir = RunDir(context.run_dir.root / target.replace(" ", "-").replace(",", ""))
    own = replace(context, config=config, run_dir=run_dir, store=store)
    chosen = agent_choice(actor)(replace(own, prepared=replace(context.prepared, problem=problem)))
    timed = store.kept(FILES_TIMED)
    corrected = corrected_limits(problem, None if timed is None else timed.error_of_few)
    if corrected is not None:
        problem = problem.within(corrected, store=store, known=())
    searched = {name: searched_reward(name, problem, evaluations) for name in RIVALS}
    return Row(network, target, chosen.search, searched)


def searched_reward(name: str, problem: SearchProblem, evaluations: int) -> float:
    result = run_search(searcher_maker(name), problem, max_evaluations=evaluations, seed=0, execute=usual())
    return result.best.reward


def as_table(rows: list[Row]) -> str:
    """Markdown: reward and top-1 before fine-tuning of each proposal, in bold the one that is applied; `*` marks one
    that misses the target as measured. In brackets the best reward of the heuristic's own search."""
    names = list(RIVALS)
    lines = [f"| network | target | agent | {' | '.join(names)} | applied | warned |", "|---" * (len(names) + 5) + "|"]
    for row in rows:
        own, *rivals = row.figures.proposals
        cells = []
        for proposal in (own, *rivals):
            text = f"{proposal.reward:.4f}, {proposal.quality}{'' if proposal.missed is None else ' *'}"
            text = f"**{text}**" if proposal.taken else text
            found = row.searched.get(proposal.proposer)
            cells.append(text if found is None else f"{text} [{found:.4f}]")
        taken = next(proposal.proposer for proposal in row.figures.proposals if proposal.taken)
        applied = f"{'agent' if taken == own.proposer else taken}{' WORSE' if row.worse_than else ''}"
        warned = "yes" if row.figures.warnings else "no"
        lines.append(f"| {row.network} | {row.target} | {' | '.join(cells)} | {applied} | {warned} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

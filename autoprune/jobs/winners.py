"""What the winners of searches are worth: each fine-tuned and exported, then all their files measured together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.progress import bar, say
from autoprune.foundation.seeding import derive_seed
from autoprune.measure.latency import speedup
from autoprune.results.comparison import Final
from autoprune.runtimes.find import find_runtime
from autoprune.space.policy import PruningPolicy
from autoprune.steps.context import Context
from autoprune.steps.final import FileJudge
from autoprune.steps.finetune import settling
from autoprune.steps.met import timed_images, timed_together
from autoprune.training.distill import finetune


@dataclass(frozen=True)
class Winner:
    """What a search has found, and the seed of that search, which is its fine-tuning's too."""

    policy: PruningPolicy
    seed: int


@dataclass(frozen=True)
class Worth:
    """`finals` is in the order of the winners."""

    original_test_accuracy: float
    finals: tuple[Final, ...]


def worth(winners: Sequence[Winner], context: Context, *, epochs: int) -> Worth:
    """Fine-tune each winner for `epochs`, time the networks in turn with the original, and read the test split once.

    Accuracy is measured on all views of the search split's images too, which tells close networks apart better.

    Winners of one seed have the same batches, and those of different seeds others, also where a searcher finds the same
    cut each time: two trainings of one cut differ by as much as many a cut does from another. A network is timed once,
    however often it was trained. Files that are there already are not made again.
    """
    config, subject, prepared, run_dir = context.config, context.subject, context.prepared, context.run_dir
    info = subject.data.info
    export_onnx(prepared.elastic.original, run_dir.original_onnx, info)
    files = [
        _tuned_file(winner, context, epochs=epochs, name=f"winner {number}/{len(winners)}")
        for number, winner in enumerate(winners, 1)
    ]
    say("measuring all files together")
    images = timed_images(subject.data.search, info, config.measure)
    networks = {winner.policy: file for winner, file in zip(winners, files, strict=True)}
    original_latency, *latencies = timed_together([run_dir.original_onnx, *networks.values()], images, config.measure)
    speedups = {policy: speedup(original_latency, latency) for policy, latency in zip(networks, latencies, strict=True)}
    augmentation = config.finetune.augment
    judge = FileJudge(info, run_dir.original_onnx, find_runtime(config.measure.runtime), subject.task)
    on_views = []
    with bar("views of the search split", len(files)) as progress:
        for file in files:
            on_views.append(judge.in_views(file, subject.data.search, augmentation))
            progress.advance()
    scores = []
    with bar("test split", 1 + len(files)) as progress:
        for file in (run_dir.original_onnx, *files):
            scores.append(judge(file, subject.test))
            progress.advance()
    original_params = prepared.problem.original_cost.params
    finals = [
        Final(
            test_accuracy=accuracy,
            search_views_accuracy=views_accuracy,
            speedup=speedups[winner.policy].ratio,
            speedup_ci95=speedups[winner.policy].ci95,
            params_ratio=prepared.problem.cost_of(winner.policy).params / original_params,
        )
        for winner, accuracy, views_accuracy in zip(winners, scores[1:], on_views, strict=True)
    ]
    return Worth(scores[0], tuple(finals))


def _tuned_file(winner: Winner, context: Context, *, epochs: int, name: str) -> Path:
    config, data, run_dir = context.config, context.subject.data, context.run_dir
    label = f"{hashlib.sha256(winner.policy.key.encode()).hexdigest()[:12]}-seed-{winner.seed}-{epochs}-epochs"
    file = run_dir.root / "export" / f"{label}.onnx"
    if not file.is_file():
        tuned = finetune(
            context.prepared.evaluator.candidate(winner.policy),
            data,
            teacher=context.prepared.teacher,
            config=config.finetune.for_epochs(epochs),
            learning_rate=config.finetune_learning_rate,
            settle=settling(context, winner.policy),
            seed=derive_seed(winner.seed, "finetune 0"),
            description=name,
            state_path=run_dir.state / f"winner-{label}.pt",
            plan_path=run_dir.state / f"winners-{epochs}-epochs.json",
        )
        export_onnx(tuned, file, data.info)
    return file

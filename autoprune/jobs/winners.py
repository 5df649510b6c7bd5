"""What the winners of searches are worth: each fine-tuned and exported, then all their files measured together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.progress import bar, say
from autoprune.foundation.seeding import derive_seed
from autoprune.measure.latency import speedup
from autoprune.results.comparison import Final, Search
from autoprune.runtimes.find import find_runtime
from autoprune.space.policy import PruningPolicy
from autoprune.steps.context import Context
from autoprune.steps.final import FileJudge
from autoprune.steps.finetune import settling
from autoprune.steps.met import timed_images, timed_together
from autoprune.training.distill import finetune


def finals_of(searches: Sequence[Search], context: Context, *, epochs: int) -> tuple[float, tuple[Final, ...]]:
    """Fine-tune the winner of each search for `epochs`, time the networks in turn with the original, and read the test
    split once: the original's accuracy there, and what each winner comes to.

    Accuracy is measured on all views of the search split's images too, which tells close networks apart better.

    Winners of one seed have the same batches, and those of different seeds others, also where a searcher finds the same
    cut each time: two trainings of one cut differ by as much as many a cut does from another. What several searches of
    one seed have found is trained once, and a network is timed once, however often it was trained. Files that are there
    already are not made again.
    """
    config, subject, prepared, run_dir = context.config, context.subject, context.prepared, context.run_dir
    info, original = subject.data.info, run_dir.original_onnx
    export_onnx(prepared.elastic.original, original, info)
    winners = [(PruningPolicy.of(search.policy), search.seed) for search in searches]
    distinct = list(dict.fromkeys(winners))
    files = {
        winner: _tuned_file(*winner, context, epochs=epochs, name=f"winner {number}/{len(distinct)}")
        for number, winner in enumerate(distinct, 1)
    }
    say("measuring all files together")
    images = timed_images(subject.data.search, info, config.measure)
    networks = {policy: file for (policy, _), file in files.items()}
    original_latency, *latencies = timed_together([original, *networks.values()], images, config.measure)
    speedups = {policy: speedup(original_latency, latency) for policy, latency in zip(networks, latencies, strict=True)}
    judge = FileJudge(info, original, find_runtime(config.measure.runtime), subject.task)
    on_views: dict[Path, float] = {}
    on_test: dict[Path, float] = {}
    with bar("views of the search split", len(files)) as progress:
        for file in files.values():
            on_views[file] = judge.in_views(file, subject.data.search, config.finetune.augment)
            progress.advance()
    with bar("test split", 1 + len(files)) as progress:
        for file in (original, *files.values()):
            on_test[file] = judge(file, subject.test)
            progress.advance()
    original_params = prepared.problem.original_cost.params
    return on_test[original], tuple(
        Final(
            test_accuracy=on_test[files[policy, seed]],
            search_views_accuracy=on_views[files[policy, seed]],
            speedup=speedups[policy].ratio,
            speedup_ci95=speedups[policy].ci95,
            params_ratio=prepared.problem.cost_of(policy).params / original_params,
        )
        for policy, seed in winners
    )


def _tuned_file(policy: PruningPolicy, seed: int, context: Context, *, epochs: int, name: str) -> Path:
    config, data, run_dir = context.config, context.subject.data, context.run_dir
    label = f"{hashlib.sha256(policy.key.encode()).hexdigest()[:12]}-seed-{seed}-{epochs}-epochs"
    file = run_dir.root / "export" / f"{label}.onnx"
    if not file.is_file():
        tuned = finetune(
            context.prepared.evaluator.candidate(policy),
            data,
            teacher=context.prepared.teacher,
            config=config.finetune.for_epochs(epochs),
            learning_rate=config.finetune_learning_rate,
            settle=settling(context, policy),
            seed=derive_seed(seed, "finetune 0"),
            description=name,
            state_path=run_dir.state / f"winner-{label}.pt",
            plan_path=run_dir.state / f"winners-{epochs}-epochs.json",
        )
        export_onnx(tuned, file, data.info)
    return file

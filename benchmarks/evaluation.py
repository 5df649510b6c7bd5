"""How many candidates a search evaluates a second, against the loop that one would write first.

    python benchmarks/evaluation.py demo --evaluations 100 --naive 10

The naive loop: copy the model, prune the copy with Torch-Pruning, recalibrate its BatchNorms and score it with eager
PyTorch on the same images, export it and time the file. It is measured with each exporter: the quick one that autoprune
uses itself, and the one that `torch.onnx.export` takes unless it is told otherwise (it needs `pip install onnxscript`).
All run in turn on the candidates that a search has asked for. Prints JSON: evaluations per second, their ratios with
bootstrapped 95% intervals, and where our time goes.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import logging
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from autoprune.config.file import find_config, load_config
from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation import progress
from autoprune.policies.baselines import ListSearcher
from autoprune.policies.table import searcher_maker
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.search.evaluate import SECOND_LOOK, Evaluator
from autoprune.search.loop import run_search
from autoprune.search.prepare import Prepared, prepare
from autoprune.search.problem import Outcome
from autoprune.space.decision import Policy
from autoprune.space.policy import PruningPolicy
from autoprune.steps.subject import load_subject
from autoprune.store.trials import TrialStore
from autoprune.training.batchnorm import fold_batchnorm

BATCH = 256
WARM_UP, RUNS = 20, 100
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--evaluations", type=int, default=100, help="of the search")
    parser.add_argument("--naive", type=int, default=10, help="of the naive loop, spread over those of the search")
    parser.add_argument("-o", "--override", action="append", default=[])
    arguments = parser.parse_args()
    progress.show(True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # Torch-Pruning takes channels out, but no whole branches.
    config = load_config(find_config(arguments.config), [*arguments.override, "search.drop_branches=false"])
    subject = load_subject(config)
    prepared = prepare(config, subject.model, subject.data)
    started = time.perf_counter()
    searched = run_search(
        searcher_maker(config.search.agent, config.search.settings),
        prepared.problem,
        max_evaluations=arguments.evaluations,
        seed=config.seed,
    )
    search_s = time.perf_counter() - started
    policies = list(dict.fromkeys(outcome.policy for outcome in searched.outcomes))
    ours, naive, looks = in_turn(prepared, policies, naive_count=arguments.naive)
    print(
        json.dumps(
            {
                "evaluations_per_s": 1 / float(np.mean(ours)),
                "naive": {
                    exporter: {
                        "evaluations_per_s": 1 / float(np.mean(seconds)),
                        "ratio": float(np.mean(seconds) / np.mean(ours)),
                        "ratio_ci95": bootstrap_ratio(seconds, ours),
                    }
                    for exporter, seconds in naive.items()
                },
                "search_evaluations_per_s": len(policies) / search_s,  # with the agent's own work
                "last_looks": dict(sorted(Counter(looks).items())),
                "images": {
                    "calibration": len(prepared.evaluator.calibration),
                    "second_look": SECOND_LOOK,
                    "score": len(prepared.evaluator.images),
                },
                "parts_ms": parts_ms(prepared.evaluator, searched.outcomes[-1].pruning),
            },
            indent=1,
        )
    )


def in_turn(
    prepared: Prepared, policies: list[Policy], *, naive_count: int
) -> tuple[list[float], dict[str, list[float]], list[int]]:
    """Seconds of each evaluation as a search does it, of naive ones among them by exporter, and each candidate's last
    look."""
    ours, looks = [], []
    naive: dict[str, list[float]] = {exporter: [] for exporter in EXPORTERS if can_export(exporter)}
    every = max(1, len(policies) // naive_count)
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        problem = prepared.problem.stored_in(TrialStore(Path(folder) / "trials.sqlite"))
        started = time.perf_counter()

        def on_outcome(outcome: Outcome) -> None:
            nonlocal started
            ours.append(time.perf_counter() - started)
            looks.append(outcome.score.look)
            for exporter, seconds in naive.items() if (len(ours) - 1) % every == 0 else ():
                started = time.perf_counter()
                naive_evaluation(prepared, outcome.pruning, Path(folder), exporter=exporter)
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()

        listed = partial(ListSearcher, name="benchmark", policies=policies)
        run_search(listed, problem, max_evaluations=len(policies), seed=0, on_outcome=on_outcome)
    return ours, naive, looks


def can_export(exporter: str) -> bool:
    """Whether what the exporter needs is installed."""
    return exporter != DEFAULT or importlib.util.find_spec("onnxscript") is not None


def default_export(model: nn.Module, path: Path, info: DataInfo) -> None:
    """As PyTorch's documentation does it; what the exporter has to say is not shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (torch.zeros(1, *info.input_shape),), str(path))


def naive_evaluation(prepared: Prepared, policy: PruningPolicy, folder: Path, *, exporter: str) -> tuple[float, float]:
    """(KL to the original, seconds of a call of the exported file) of a candidate."""
    elastic, evaluator = prepared.elastic, prepared.evaluator
    model = copy.deepcopy(elastic.original).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=evaluator.images[:1])
    kept = policy.as_dict()
    for group in elastic.groups:
        lost = sorted(elastic.ranking[group.name][kept[group.name] :])
        layer = model.get_submodule(group.name)
        if lost:
            prune = torch_pruning.prune_conv_out_channels
            if isinstance(layer, nn.Linear):
                prune = torch_pruning.prune_linear_out_channels
            graph.get_pruning_group(layer, prune, idxs=lost).prune()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        model.train()
        for batch in evaluator.calibration.split(BATCH):
            model(batch)
        model.eval()
        log_p = torch.cat([F.log_softmax(model(batch), 1) for batch in evaluator.images.split(BATCH)])
        kl = F.kl_div(log_p, evaluator.reference.log_softmax(1), reduction="batchmean", log_target=True)
    EXPORTERS[exporter](model, folder / "naive.onnx", evaluator.info)
    call = OnnxRuntime().open_model(folder / "naive.onnx", threads=1).bind(evaluator.images[:1].contiguous().numpy())
    for _ in range(WARM_UP):
        call()
    return float(kl), timeit.timeit(call, number=RUNS) / RUNS


QUICK, DEFAULT = "quick_exporter", "default_exporter"
EXPORTERS: dict[str, Callable[[nn.Module, Path, DataInfo], object]] = {QUICK: export_onnx, DEFAULT: default_export}


def parts_ms(evaluator: Evaluator, policy: PruningPolicy) -> dict[str, float]:
    """Milliseconds of the steps of one complete evaluation, the least of five."""
    model = evaluator.repaired_cut(policy)
    return {
        "cut_and_repair": least_ms(lambda: evaluator.repaired_cut(policy)),
        "recalibrate_float32": least_ms(lambda: evaluator.recalibrate(model)),
        "fold": least_ms(lambda: fold_batchnorm(copy.deepcopy(model), evaluator.foldable)),
        "first_look": least_ms(lambda: next(evaluator.looks(policy))),
        "complete": least_ms(lambda: evaluator.score(policy)),
    }


def least_ms(work: Callable[[], Any]) -> float:
    return 1000 * min(timeit.repeat(work, number=1, repeat=5))


def bootstrap_ratio(naive: list[float], ours: list[float]) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    ratios = [
        generator.choice(naive, len(naive)).mean() / generator.choice(ours, len(ours)).mean() for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()

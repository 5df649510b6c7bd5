"""Searchers side by side: equal target and evaluations, several seeds, and what their winners are worth in the end."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoprune.config import CLASSIFICATION_NAME, RunConfig, check_bounds
from autoprune.config.unused import Job
from autoprune.errors import InputError
from autoprune.foundation.factories import short_name
from autoprune.foundation.files import write_json
from autoprune.foundation.progress import bar, say
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.jobs.winners import finals_of
from autoprune.policies.table import KINDS, searcher_maker
from autoprune.results.comparison import Comparison, Final, Progress, Search, equal_time_s, standings, verdicts
from autoprune.results.run import MetricValue
from autoprune.search.executors import usual
from autoprune.search.loop import run_search
from autoprune.search.prepare import PREPARED
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.space.decision import Policy
from autoprune.steps.choice import check_scoring
from autoprune.steps.context import Workspace, problem_of
from autoprune.store.kept import Kept
from autoprune.store.run_dir import check_run_dir
from autoprune.store.trials import TrialStore

COMPARISON_FILE = "comparison.json"


def check_searchers(names: Sequence[str]) -> None:
    """Raise `InputError` for a name that is no searcher, or twice the same, and for a file that does not give one."""
    if unknown := [name for name in names if name not in KINDS and ":" not in name]:
        raise InputError(f"--searchers: unknown {', '.join(unknown)}; there are {', '.join(KINDS)}, or your own file")
    if len({short_name(name) for name in names}) < len(names) or not names:
        raise InputError("--searchers: name each of them once")
    for name in names:
        searcher_maker(name)


def compare(
    config: RunConfig, root: Path, *, resume: bool, searchers: Sequence[str], seeds: int, finetune_epochs: int
) -> Comparison:
    """Search with each of `searchers` for each seed, fine-tune and measure each winner; goes on where it was stopped.

    Each search starts with nothing remembered, so that its time is its own. The files of all distinct winners are timed
    together at the end, and the test split is read then. The toy problem has nothing to fine-tune.

    Raises `InputError` for bad input, before any work.
    """
    check_searchers(searchers)
    check_bounds(config)
    check_scoring(config)
    if config.search.settings:
        raise InputError("search.settings: are of one searcher; a comparison takes each with its defaults")
    if config.task != CLASSIFICATION_NAME and finetune_epochs > 0:
        raise InputError(f"task={config.task}: winners are compared by accuracy; give --finetune-epochs 0")
    run_dir = check_run_dir(root, config, resume=resume)
    all_searches = [(name, seed) for seed in range(seeds) for name in searchers]
    steps: tuple[Kept[Any], ...] = (*PREPARED, *(_kept(name, seed) for name, seed in all_searches))
    with problem_of(config, run_dir, Job("compare"), steps=steps) as (place, problem, context):
        searches = [_searched(problem, place, name, seed) for name, seed in all_searches]
        original_accuracy: float | None = None
        finals: tuple[Final | None, ...] = (None,) * len(searches)
        epochs = 0 if context is None else finetune_epochs
        if context is not None and epochs > 0:
            original_accuracy, finals = finals_of(searches, context, epochs=epochs)
        at_s = equal_time_s(searches, max_evaluations=config.search.max_evaluations)
        ranked = standings(searches, finals, at_s=at_s)
        comparison = Comparison(
            target=", ".join(f"{limit.metric} <= {limit.max_value:.4g}" for limit in problem.limits),
            max_evaluations=config.search.max_evaluations,
            equal_time_s=at_s,
            finetune_epochs=epochs,
            original_test_accuracy=original_accuracy,
            standings=ranked,
            verdicts=verdicts(ranked),
            searches=tuple(searches),
            finals=finals,
        )
        write_json(root / COMPARISON_FILE, comparison.model_dump(mode="json", by_alias=True))
        shutil.rmtree(place.run_dir.state, ignore_errors=True)
    return comparison


def _kept(name: str, seed: int) -> Kept[Search]:
    return Kept(f"search {short_name(name)} {seed}", TypeAdapter(Search))


def _searched(problem: SearchProblem, place: Workspace, name: str, seed: int) -> Search:
    config, store = place.config, place.store
    label = short_name(name)
    done = store.kept(_kept(name, seed))
    if done is not None:
        return done
    own = place.run_dir.state / f"{label}-{seed}.sqlite"
    own.unlink(missing_ok=True)  # of a search that was stopped: half of it from memory would look quick
    curve: list[Progress] = []
    seen: set[Policy] = set()
    started = time.perf_counter()
    with bar(f"{label}, seed {seed}", config.search.max_evaluations) as progress:

        def on_outcome(outcome: Outcome) -> None:
            best = max(outcome.reward, curve[-1].best_reward) if curve else outcome.reward
            progress.advance(int(outcome.policy not in seen), f"best reward {best:.4f}")
            seen.add(outcome.policy)
            elapsed_s = time.perf_counter() - started
            curve.append(Progress(evaluations=len(seen), elapsed_s=elapsed_s, best_reward=best))

        seed_everything(derive_seed(seed, "search"))
        result = run_search(
            searcher_maker(name),
            problem.stored_in(TrialStore(own)),
            max_evaluations=config.search.max_evaluations,
            seed=seed,
            execute=usual(),
            on_outcome=on_outcome,
            races=config.search.racing,
        )
    best = result.best
    search = Search(
        searcher=label,
        seed=seed,
        is_agent=result.agent is not None,
        evaluations=result.evaluations,
        wall_s=result.wall_s,
        best_reward=best.reward,
        best_top1=best.score.metrics["top1"].value if "top1" in best.score.metrics else None,
        best_metric=MetricValue.of(*best.score.main),
        predicted_latency_ratio=best.cost.predicted_latency_ms / problem.original_cost.predicted_latency_ms,
        policy=best.pruning.as_dict(),
        curve=tuple(curve),
    )
    store.keep(_kept(name, seed), search)
    found = f"best reward {best.reward:.4f} after {result.evaluations} evaluations, {result.wall_s:.1f} s"
    say(f"{label}, seed {seed}: {found}")
    return search

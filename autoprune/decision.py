"""Which policy a run applies: a search's best, checked by timing the exported files of its best candidates."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.config import RunConfig
from autoprune.export import export_onnx
from autoprune.latency import measure_interleaved
from autoprune.policies.searcher import SearchResult
from autoprune.policies.table import SEARCHERS
from autoprune.policies.trained import TrainingInfo
from autoprune.policy import PruningPolicy, load_policy, save_policy
from autoprune.prepare import Prepared
from autoprune.problem import Outcome, SearchProblem
from autoprune.progress import bar, say
from autoprune.result import SearchFigures
from autoprune.run_dir import RunDir
from autoprune.tensorboard import RunLogger
from autoprune.trials import TrialStore

VERIFY_ROUNDS, VERIFY_RUNS = 20, 15
HEADROOM = 0.02  # share of the allowed latency: about how far two measurements of one file lie apart
SEARCH_FACT = "search"


@dataclass(frozen=True)
class Decision:
    """The policy that a run applies, and what `result.json` says of where it comes from."""

    policy: PruningPolicy
    search: SearchFigures


# From the prepared problem to a policy: a search, a trained agent, or a policy from a file.
Decide = Callable[[Prepared, RunDir, TrialStore], Decision]


def search_only(problem: SearchProblem, config: RunConfig, run_dir: RunDir, logger: RunLogger) -> SearchResult:
    """Search with the configured agent; its trained actor, if it has one, is written to `agent/`."""
    search = config.search
    searcher = SEARCHERS[search.agent]()
    episode = 0
    best: Outcome | None = None
    with bar(f"search ({search.agent})", search.max_evaluations) as progress:

        def on_outcome(outcome: Outcome) -> None:
            nonlocal episode, best
            episode += 1
            logger.search_outcome(episode, outcome)
            is_new = outcome.policy.key not in seen
            seen.add(outcome.policy.key)
            if best is None or outcome.reward > best.reward:
                best = outcome
            progress.advance(int(is_new), f"best reward {best.reward:.4f}, top-1 {best.score.top1:.3f}")

        seen: set[str] = set()
        result = searcher.search(
            problem, max_evaluations=search.max_evaluations, seed=config.seed, on_outcome=on_outcome
        )
    if result.agent is not None:
        target = ", ".join(f"{limit.metric} <= {limit.max_value:.4g}" for limit in problem.limits)
        model = config.model.name if config.problem == "model" else config.problem
        result.agent.save(run_dir.agent, TrainingInfo(model, target, result.evaluations, float(result.best.reward)))
    return result


def search_decision(config: RunConfig, logger: RunLogger) -> Decide:
    """Search, then time the best candidates' exported files and take the best that meets the target as measured."""

    def decide(prepared: Prepared, run_dir: RunDir, store: TrialStore) -> Decision:
        done = store.fact(SEARCH_FACT)
        if done is not None and run_dir.policy.is_file():
            return Decision(load_policy(run_dir.policy), SearchFigures.model_validate_json(done))
        result = search_only(prepared.problem, config, run_dir, logger)
        policy = fastest_true(prepared, result.outcomes, config)
        save_policy(run_dir.policy, policy, model=config.model.name, original=prepared.elastic.full_policy.as_dict())
        summary = SearchFigures(
            searcher=result.searcher,
            evaluations=result.evaluations,
            wall_s=result.wall_s,
            seed=result.seed,
            best_reward=result.best.reward,
        )
        store.set_fact(SEARCH_FACT, summary.model_dump_json())
        return Decision(policy, summary)

    return decide


def fastest_true(prepared: Prepared, outcomes: tuple[Outcome, ...], config: RunConfig) -> PruningPolicy:
    """The outcome with the highest reward whose exported file meets the latency targets as measured.

    One with some headroom comes first, so that the noise of the last measurement does not miss the target; if none of
    the `verify_top` best meets it at all, the fastest of them is taken.
    """
    distinct = {outcome.policy.key: outcome for outcome in sorted(outcomes, key=lambda outcome: outcome.reward)}
    best_first = sorted(distinct.values(), key=lambda outcome: -outcome.reward)[: config.search.verify_top]
    targets = [target for target in config.target if target.metric == "latency"]
    if not targets:
        return best_first[0].policy
    elastic, info = prepared.elastic, prepared.evaluator.info
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        files = []
        for index, policy in enumerate([elastic.full_policy, *(outcome.policy for outcome in best_first)]):
            files.append(Path(folder) / f"{index}.onnx")
            export_onnx(elastic.cut(policy), files[-1], info)
        images = torch.zeros(config.measure.batch_size, *info.input_shape).numpy()
        original, *candidates = measure_interleaved(
            files, images, threads=config.measure.threads, rounds=VERIFY_ROUNDS, runs_per_round=VERIFY_RUNS
        )
    bound_ms = min(target.bound(original.latency_ms_p50) for target in targets)
    for allowed_ms in (bound_ms * (1 - HEADROOM), bound_ms):
        for outcome, latency in zip(best_first, candidates, strict=True):
            if latency.latency_ms_p50 <= allowed_ms:
                return outcome.policy
    fastest = min(range(len(candidates)), key=lambda index: candidates[index].latency_ms_p50)
    say(
        f"no candidate meets {bound_ms:.4f} ms as measured; taking the fastest of the best "
        f"({candidates[fastest].latency_ms_p50:.4f} ms)"
    )
    return best_first[fastest].policy

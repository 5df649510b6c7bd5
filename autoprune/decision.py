"""Which policy a run applies: the best of a search whose exported file meets the target, or a little more than that.

Right after a cut the reward is only a hint of what fine-tuning will make of it. A run may therefore fine-tune a few
finalists for a moment and take the one that comes closest to the original.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.config import RunConfig, TargetConfig
from autoprune.distill import RememberedLogits, finetune
from autoprune.earlier_run import check_start
from autoprune.export import export_onnx
from autoprune.groups import PrunableGroup
from autoprune.latency import Latency, measure_interleaved
from autoprune.policies.searcher import SearchResult
from autoprune.policies.table import SEARCHERS
from autoprune.policies.trained import TrainingInfo
from autoprune.policy import PruningPolicy, load_policy, save_policy
from autoprune.prepare import Prepared
from autoprune.problem import Outcome, SearchProblem
from autoprune.progress import bar, say
from autoprune.ranks import spearman
from autoprune.result import SearchFigures
from autoprune.run_dir import RunDir
from autoprune.seeding import derive_seed
from autoprune.tensorboard import RunLogger
from autoprune.trials import TrialStore

VERIFY_ROUNDS, VERIFY_RUNS = 20, 15
VERIFY_BATCHES = 3
HEADROOM = 0.01  # share of the allowed latency: about how far two measurements of one file lie apart
UNLIKE = 0.1  # of `distance`
LEAST_CORRELATED = 4  # candidates: fewer agree or disagree by chance
SEARCH_FACT, FINALISTS_FACT = "search", "finalists"


@dataclass(frozen=True)
class Decision:
    """The policy that a run applies, and what `result.json` says of where it comes from."""

    policy: PruningPolicy
    search: SearchFigures


# From the prepared problem to a policy: a search, a trained agent, or a policy from a file.
Decide = Callable[[Prepared, RunDir, TrialStore], Decision]


def check_search(config: RunConfig) -> None:
    """Raises `ConfigError` if the search needs an extra that is not installed, or an earlier run that is not there."""
    SEARCHERS[config.search.agent]()
    check_start(config.search.start_from)


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
        policy, tuned_kl = best_finalist(prepared, finalists(prepared, result.outcomes, config), config, run_dir, store)
        save_policy(run_dir.policy, policy, model=config.model.name, original=prepared.elastic.full_policy.as_dict())
        summary = SearchFigures(
            searcher=result.searcher,
            evaluations=result.evaluations,
            wall_s=result.wall_s,
            seed=result.seed,
            best_reward=result.best.reward,
            proxy_rank_correlation=proxy_rank_correlation(result.outcomes, tuned_kl),
            proxy_candidates=len(tuned_kl),
        )
        store.set_fact(SEARCH_FACT, summary.model_dump_json())
        return Decision(policy, summary)

    return decide


def finalists(prepared: Prepared, outcomes: tuple[Outcome, ...], config: RunConfig) -> list[PruningPolicy]:
    """The policies with the highest rewards whose exported files meet the latency targets as measured, best first.

    At most `search.finalists`, each unlike those before it. Files are timed `verify_top` at a time and have to meet the
    targets with some headroom, so that the noise of the last measurement does not miss them. If none does, one that
    just meets them is taken, and if there is none of those either, the fastest.
    """
    distinct = {outcome.policy.key: outcome for outcome in sorted(outcomes, key=lambda outcome: outcome.reward)}
    policies = [outcome.policy for outcome in sorted(distinct.values(), key=lambda outcome: -outcome.reward)]
    targets = [target for target in config.target if target.metric == "latency"]
    wanted, top = config.search.finalists, config.search.verify_top
    if not targets:
        return _unlike(prepared, policies, wanted)
    tried: dict[PruningPolicy, float] = {}
    chosen: list[PruningPolicy] = []
    for _ in range(VERIFY_BATCHES * wanted):
        batch = [policy for policy in policies if policy not in tried and _is_unlike(prepared, policy, chosen)][:top]
        if len(chosen) == wanted or not batch:
            break
        tried |= zip(batch, _share_of_allowed(prepared, batch, targets, config), strict=True)
        chosen = _unlike(prepared, [policy for policy in policies if tried.get(policy, 1.0) <= 1 - HEADROOM], wanted)
    if chosen:
        return chosen
    for policy in policies:
        if tried.get(policy, math.inf) <= 1:
            return [policy]
    fastest, share = min(tried.items(), key=lambda pair: pair[1])
    say(f"no candidate meets the latency target as measured; taking the fastest ({share:.3f} of what is allowed)")
    return [fastest]


def best_finalist(
    prepared: Prepared, policies: list[PruningPolicy], config: RunConfig, run_dir: RunDir, store: TrialStore
) -> tuple[PruningPolicy, dict[PruningPolicy, float]]:
    """The policy that is closest to the original (KL on the search split) after `finalist_epochs` of fine-tuning, and
    that KL of each; a single policy is not tuned."""
    if len(policies) == 1:
        return policies[0], {}
    epochs = config.search.finalist_epochs
    teacher = prepared.elastic.original
    remembers = config.finetune.augmented_forms is not None  # it takes memory, so it is asked for
    answers = RememberedLogits(teacher, images=len(prepared.data.train)) if remembers else None
    scores: dict[str, float] = json.loads(store.fact(FINALISTS_FACT) or "{}")
    for number, policy in enumerate(policies, 1):
        if policy.key in scores:
            continue
        tuned = finetune(
            prepared.evaluator.candidate(policy),
            prepared.data,
            teacher=teacher,
            config=config.finetune.model_copy(update={"epochs": epochs}),
            learning_rate=config.finetune_learning_rate,
            seed=derive_seed(config.seed, "finalists"),  # the same batches for all
            answers=answers,
            description=f"finalist {number}/{len(policies)}",
            state_path=run_dir.state / f"finalist-{hashlib.sha256(policy.key.encode()).hexdigest()[:12]}.pt",
        )
        scores[policy.key] = prepared.evaluator.score_model(tuned).kl
        store.set_fact(FINALISTS_FACT, json.dumps(scores))
    best = min(policies, key=lambda policy: scores[policy.key])
    shown = ", ".join(f"{scores[policy.key]:.4f}" for policy in policies)
    say(f"finalists after {epochs} epochs, KL to the original: {shown}; taking number {policies.index(best) + 1}")
    return best, {policy: scores[policy.key] for policy in policies}


def proxy_rank_correlation(outcomes: tuple[Outcome, ...], tuned_kl: Mapping[PruningPolicy, float]) -> float | None:
    """Spearman between the rewards of the fine-tuned candidates and how small their KL came out; None for few of them.

    They are the best of a search and so near each other that this is less than it would be over all candidates.
    """
    if len(tuned_kl) < LEAST_CORRELATED:
        return None
    rewards = {outcome.policy: outcome.reward for outcome in outcomes}
    found = spearman([rewards[policy] for policy in tuned_kl], [-kl for kl in tuned_kl.values()])
    return None if math.isnan(found) else found


def _unlike(prepared: Prepared, policies: list[PruningPolicy], wanted: int) -> list[PruningPolicy]:
    """The first `wanted` of `policies` that differ a good deal from each other: neighbours train alike."""
    chosen: list[PruningPolicy] = []
    for policy in policies:
        if len(chosen) == wanted:
            break
        if _is_unlike(prepared, policy, chosen):
            chosen.append(policy)
    return chosen


def _is_unlike(prepared: Prepared, policy: PruningPolicy, others: list[PruningPolicy]) -> bool:
    return all(distance(prepared.elastic.groups, policy, other) >= UNLIKE for other in others)


def distance(groups: tuple[PrunableGroup, ...], first: PruningPolicy, second: PruningPolicy) -> float:
    """How much the keep ratios of two policies differ: the mean over groups, weighted by the layers that they touch.

    The width of a residual trunk, which many layers share, thus counts for more than that of one block.
    """
    ours, theirs = first.as_dict(), second.as_dict()
    layers = {group.name: len({member.module for member in group.members}) for group in groups}
    differences = [layers[group.name] * abs(ours[group.name] - theirs[group.name]) / group.channels for group in groups]
    return sum(differences) / sum(layers.values())


def _share_of_allowed(
    prepared: Prepared, policies: list[PruningPolicy], targets: list[TargetConfig], config: RunConfig
) -> list[float]:
    """Measured latency of each policy's file, divided by the strictest target.

    On a busy machine the median call and the undisturbed one can tell different ratios; the larger one counts.
    """
    elastic, info = prepared.elastic, prepared.evaluator.info
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        files = []
        for index, policy in enumerate([elastic.full_policy, *policies]):
            files.append(Path(folder) / f"{index}.onnx")
            export_onnx(elastic.cut(policy), files[-1], info)
        images = torch.zeros(config.measure.batch_size, *info.input_shape).numpy()
        original, *candidates = measure_interleaved(
            files, images, threads=config.measure.threads, rounds=VERIFY_ROUNDS, runs_per_round=VERIFY_RUNS
        )

    def share(metric: Callable[[Latency], float], candidate: Latency) -> float:
        return metric(candidate) / min(target.bound(metric(original)) for target in targets)

    return [
        max(
            share(lambda latency: latency.latency_ms_p50, candidate),
            share(lambda latency: latency.latency_ms_quiet, candidate),
        )
        for candidate in candidates
    ]

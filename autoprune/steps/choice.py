"""Which policy a run applies: the best of a search whose exported file meets the target, or a little more than that.

Right after a cut the reward is only a hint of what fine-tuning will make of it. A run may therefore fine-tune a few
finalists for a moment and take the one that comes closest to the original.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, TypeAdapter

from autoprune.config import FinetuneConfig, RunConfig, check_options
from autoprune.errors import ConfigError, InputError
from autoprune.foundation.progress import bar, duration, say
from autoprune.measure.stats import spearman
from autoprune.policies.actor import Training
from autoprune.policies.shared import shared
from autoprune.policies.table import searcher_maker
from autoprune.policies.trained import save_actor
from autoprune.policies.tuners import DIRECTIONS
from autoprune.pruning.importance import find_importance
from autoprune.results.kept import SEARCH
from autoprune.results.run import SearchFigures
from autoprune.runtimes.find import find_runtime
from autoprune.search.earlier_run import check_start
from autoprune.search.executors import Execute
from autoprune.search.loop import SearchResult, run_search
from autoprune.search.problem import KNOWN_POLICIES, Outcome, SearchProblem, limit_ratios, meets
from autoprune.search.reward import make_reward
from autoprune.space.decision import Policy
from autoprune.space.layer_option import find_option_kinds
from autoprune.space.policy import PruningPolicy, load_policy, save_policy
from autoprune.steps.context import Context, Workspace
from autoprune.steps.finalists import Finalists, corrected_limits, kept_finalists
from autoprune.steps.finetune import finalist_s, finalist_training
from autoprune.store.kept import Finite, Kept, PolicyKey
from autoprune.store.run_dir import RunDir
from autoprune.store.score import shown_metric
from autoprune.store.trials import TrialStore
from autoprune.studies.identity import check_study
from autoprune.studies.study import WATCHED, study_of
from autoprune.tasks.judging import make_task

LEAST_CORRELATED = 4  # candidates: fewer agree or disagree by chance
FINALISTS_SHARE = 0.15  # of the time of a fine-tuning, for those that are not taken
FINALISTS = Kept("finalists", TypeAdapter(dict[PolicyKey, Finite]))  # how far each is from the original, tuned
FINALISTS_TRIED = Kept("finalists_tried", TypeAdapter(Annotated[int, Field(ge=1)]))
SOURCE = Kept("applied", TypeAdapter(str))  # the agent or the policy that `autoprune apply` was given
CORRECTED = "corrected"  # the part of the store that a search under corrected limits writes


@dataclass(frozen=True)
class Chosen:
    """The policy that a run applies, and what `result.json` says of where it comes from."""

    policy: PruningPolicy
    search: SearchFigures


# From the problem to a policy: a search, a trained agent, or a policy from a file.
Choose = Callable[[Context], Chosen]
Search = Callable[[SearchProblem, Workspace], SearchResult]
# What goes on under other limits.
SearchOn = Callable[[SearchProblem], SearchResult]


def check_search(config: RunConfig) -> None:
    """Raises `ConfigError` if the search needs an extra that is not installed, and what `check_scoring` raises."""
    searcher_maker(config.search.agent, config.search.settings)
    check_study(config)
    check_scoring(config)


def check_scoring(config: RunConfig) -> None:
    """Raises `ConfigError` for an earlier run that is not there, and `InputError` for a user's own reward form,
    importance, kind of option or runtime that is not there or cannot be called as one: whoever proposes policies, they
    are scored and timed."""
    make_reward(config.search.reward)
    find_importance(config.search.importance)
    if config.search.importance == "taylor" and not make_task(config.task).needs_labels:
        raise ConfigError(
            "search.importance=taylor: goes by gradients of the loss, and without labels there are none at the "
            "original's own outputs; choose another"
        )
    find_runtime(config.measure.runtime)
    check_options(config, adapts=False)
    find_option_kinds(config.search.options)
    check_start(config.search.trials_from)


def search_only(problem: SearchProblem, place: Workspace, *, execute: Execute | None = None) -> SearchResult:
    """Search with the configured agent; its trained actor, if it has one, is written to `agent/`."""
    config = place.config
    result = searched(problem, place, max_evaluations=config.search.evaluations, execute=execute)
    if result.agent is not None:
        info = Training(
            model=config.model.name if config.problem == "model" else config.problem,
            target=", ".join(f"{limit.metric} <= {limit.max_value:.4g}" for limit in problem.limits),
            evaluations=result.evaluations,
            best_reward=float(result.best.reward),
            ratios=limit_ratios(problem),
            params=problem.original_cost.params,
        )
        save_actor(place.run_dir.agent, result.agent, info, searcher=result.searcher)
    return result


def save_best(problem: SearchProblem, best: Outcome, place: Workspace) -> None:
    """Write what a search has found to `policy.json`."""
    config = place.config
    model = config.model.name if config.problem == "model" else config.problem
    original = problem.pruning_of(problem.full_policy).as_dict()
    save_policy(place.run_dir.policy, best.pruning, model=model, original=original)


def best_so_far(best: Outcome, problem: SearchProblem) -> str:
    """What a search tells as it goes."""
    original_ms = problem.original_cost.predicted_latency_ms
    share = best.cost.predicted_latency_ms / original_ms if original_ms > 0 else 1.0
    name, metric = best.score.main
    reached = f"{name} {shown_metric(metric.value, is_share=metric.is_share, digits=1)}"
    return f"best reward {best.reward:.4f}: {reached} at {share:.2f} of the original's latency"


def searched(
    problem: SearchProblem,
    place: Workspace,
    *,
    max_evaluations: int,
    first_episode: int = 1,
    execute: Execute | None = None,
) -> SearchResult:
    """The configured searcher's search, shown as it goes; its episodes are logged from number `first_episode` on.
    Without `execute` candidates are scored by the usual processes of this machine."""
    config = place.config
    episode = first_episode - 1
    best: Outcome | None = None
    make = searcher_maker(config.search.agent, config.search.settings)
    directions = DIRECTIONS.get(config.search.agent)  # of searchers that share their study
    with (
        study_of(problem, config, directions or WATCHED) as study,
        bar(f"search ({config.search.agent})", max_evaluations) as progress,
    ):

        def on_outcome(outcome: Outcome) -> None:
            nonlocal episode, best
            episode += 1
            if study is not None and directions is None:
                study.add(outcome, [outcome.reward])
            place.logger.search_outcome(episode, outcome)
            is_new = outcome.policy not in seen
            seen.add(outcome.policy)
            if best is None or outcome.reward > best.reward:
                best = outcome
            progress.advance(int(is_new), best_so_far(best, problem))

        seen: set[Policy] = set()
        return run_search(
            make if study is None or directions is None else shared(config.search.agent, config.search.settings, study),
            problem,
            max_evaluations=max_evaluations,
            seed=config.seed,
            execute=execute or place.execute(),
            on_outcome=on_outcome,
            races=config.search.racing,
        )


def search_choice(context: Context, *, search: Search = search_only) -> Chosen:
    """Search, then time the best candidates' exported files and take the best that meets the target as measured."""
    run_dir, store = context.run_dir, context.store
    if store.kept(SOURCE) is not None:
        raise InputError(f"{run_dir.root}: `autoprune apply` works there; resume it, or choose another --run-dir")
    if (done := stored_choice(run_dir, store)) is not None:
        return done
    result = search(context.prepared.problem, context)

    def search_on(problem: SearchProblem) -> SearchResult:
        evaluations = context.config.search.evaluations_from_known
        return searched(problem, context, max_evaluations=evaluations, first_episode=len(result.outcomes) + 1)

    found, result = verified(context, result, search_on)
    policy, tuned = best_finalist(context, found.policies)
    summary = SearchFigures(
        searcher=result.searcher,
        evaluations=result.evaluations,
        wall_s=result.wall_s,
        seed=result.seed,
        best_reward=result.best.reward,
        proxy_rank_correlation=proxy_rank_correlation(result.outcomes, tuned),
        proxy_candidates=len(tuned),
        latency_error=found.latency_error,
    )
    return decided(context, policy, summary)


def decided(context: Context, policy: PruningPolicy, figures: SearchFigures) -> Chosen:
    """The choice, on disk for a run that goes on later."""
    context.save_policy(policy)
    context.store.keep(SEARCH, figures)
    return Chosen(policy, figures)


def stored_choice(run_dir: RunDir, store: TrialStore) -> Chosen | None:
    """What a stopped run had decided."""
    done = store.kept(SEARCH)
    if done is None or not run_dir.policy.is_file():
        return None
    return Chosen(load_policy(run_dir.policy), done)


def verified(
    context: Context, result: SearchResult, search_on: SearchOn, *, of_few: bool = False
) -> tuple[Finalists, SearchResult]:
    """The finalists of a search, and the search with what was added to it.

    Where the candidates' files are clearly faster than predicted, or so much slower that none meets the target, it goes
    on under limits corrected by that, as `search_on` does; with `of_few` candidates also where better ones were too
    slow. A resumed run takes the correction from `store`.
    """
    prepared, config, store = context.prepared, context.config, context.store
    found = kept_finalists(prepared, result.outcomes, config, store)
    error = found.error_of_few if of_few else found.error_to_correct
    limits = corrected_limits(prepared.problem, error)
    if limits is not None:
        say(f"near the target files take {error:.3f} of the predicted latency: searching on with that corrected")
        best_first = sorted(result.outcomes, key=lambda outcome: -outcome.reward)
        known = tuple(dict.fromkeys(outcome.pruning for outcome in best_first))[:KNOWN_POLICIES]
        corrected = store.part(CORRECTED)
        problem = prepared.problem.within(limits, store=corrected, known=known)
        more = search_on(problem)
        names = dict.fromkeys((result.searcher, more.searcher))
        feasible = tuple(outcome for outcome in result.outcomes if meets(outcome.cost, problem.limits))
        result = replace(
            result,
            searcher=", then ".join(names),
            best=more.best,
            outcomes=feasible + more.outcomes,
            evaluations=result.evaluations + more.evaluations,
            wall_s=result.wall_s + more.wall_s,
        )
        found = kept_finalists(prepared, result.outcomes, config, corrected)
    if not found.target_met:
        say("no candidate meets the latency target as measured; taking the fastest")
    return found, result


def best_finalist(
    context: Context, policies: Sequence[PruningPolicy]
) -> tuple[PruningPolicy, dict[PruningPolicy, float]]:
    """The policy that diverges least from the original on the search split after `finalist_epochs` of its fine-tuning,
    and the divergence of each; a single policy is not tuned.

    With `finetune.max_minutes` only as many are tried as take a small share of that time.
    """
    if len(policies) == 1:
        return policies[0], {}
    store = context.store
    scores = store.kept(FINALISTS) or {}
    tried = store.kept(FINALISTS_TRIED) or len(policies)
    for number, policy in enumerate(policies, 1):
        if number > tried:
            break
        if policy in scores:
            continue
        tuned = finalist_training(context, policy, description=f"finalist {number}/{tried}")
        if number == 1:
            took_s = finalist_s(policy, context.run_dir)
            tried = affordable(len(policies), seconds_each=took_s, finetune=context.config.finetune)
            store.keep(FINALISTS_TRIED, tried)
        scores[policy] = context.prepared.evaluator.score_model(tuned).divergence
        store.keep(FINALISTS, scores)
    policies = policies[:tried]
    best = min(policies, key=lambda policy: scores[policy])
    shown = ", ".join(f"{scores[policy]:.4f}" for policy in policies)
    say(f"divergence of the finalists from the original: {shown}; going on with number {policies.index(best) + 1}")
    return best, {policy: scores[policy] for policy in policies}


def affordable(finalists: int, *, seconds_each: float, finetune: FinetuneConfig) -> int:
    """How many finalists are tried when the first one took so long: all, or as many as the time of a fine-tuning has
    room for. What the others learn is thrown away, and tells less than the same time does for the one that is kept."""
    if finetune.max_minutes is None:
        return finalists
    if seconds_each == 0:  # not one epoch in all the time
        return 1
    others = int(FINALISTS_SHARE * 60 * finetune.max_minutes / seconds_each)
    if others < finalists - 1:
        say(f"a finalist takes {duration(seconds_each)} here: {1 + others} of {finalists} are tried")
    return min(finalists, 1 + others)


def proxy_rank_correlation(outcomes: tuple[Outcome, ...], tuned: Mapping[PruningPolicy, float]) -> float | None:
    """Spearman between the rewards of the fine-tuned candidates and how little they diverge then; None for few of them.

    They are the best of a search and so near each other that this is less than it would be over all candidates.
    """
    if len(tuned) < LEAST_CORRELATED:
        return None
    rewards = {outcome.pruning: outcome.reward for outcome in outcomes}
    found = spearman([rewards[policy] for policy in tuned], [-kl for kl in tuned.values()])
    return None if math.isnan(found) else found

"""What a trained agent, or a stored policy, is worth beside policies that need no learning: all are scored alike."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from autoprune.config import RunConfig
from autoprune.foundation.progress import bar
from autoprune.policies.actor import Training
from autoprune.policies.baselines import ListSearcher
from autoprune.policies.heuristics import HEURISTICS
from autoprune.results.run import MetricValue, ProposalFigures
from autoprune.search.executors import inline, usual
from autoprune.search.loop import SearchResult, run_search
from autoprune.search.problem import Outcome, SearchProblem, limit_ratios, meets
from autoprune.space.decision import Policy
from autoprune.space.policy import PruningPolicy
from autoprune.steps.finalists import Finalists
from autoprune.steps.met import HEADROOM

LARGEST, SPREAD = 4, 8  # policies of a list from wide to narrow that are scored
MOST = 8  # policies of one proposer; those of the knapsack are no more
SAME_RATIO = 0.005  # of the original's cost: limits that differ by less are the same target


@dataclass(frozen=True)
class Offers:
    """What each proposer offered under the same limits; the agent, or the stored policy, comes first."""

    problem: SearchProblem
    result: SearchResult  # of all of them together
    outcomes: Mapping[str, tuple[Outcome, ...]]


def offers(problem: SearchProblem, own: str, policy: PruningPolicy, config: RunConfig) -> Offers:
    """Score `policy`, which `own` offers whether or not it meets the limits, and a few of each of its rivals. Scores
    and episodes are kept as a search's are."""
    constrained = config.search.reward.form == "constrained"
    holding = problem.including(policy)
    offered: dict[str, tuple[SearchProblem, tuple[Policy, ...]]] = {own: (holding, (holding.policy_of(policy),))}
    for name in HEURISTICS:
        offered[name] = (problem, tuple(_some(problem, name, constrained=constrained)))
    results: list[SearchResult] = []
    with bar("proposals", len(offered)) as progress:
        for name, (searched, policies) in offered.items():
            make = partial(ListSearcher, name=name, policies=policies)
            results.append(
                run_search(
                    make,
                    searched,
                    max_evaluations=MOST,
                    seed=config.seed,
                    execute=inline if name == own else usual(),
                    races=False,
                    as_given=name == own,
                )
            )
            progress.advance(note=f"{name}: reward {results[-1].best.reward:.4f}")
    outcomes = tuple(outcome for result in results for outcome in result.outcomes)
    together = SearchResult(
        searcher=own,
        seed=config.seed,
        best=max(outcomes, key=lambda outcome: outcome.reward),
        outcomes=outcomes,
        evaluations=len({outcome.pruning for outcome in outcomes}),
        wall_s=sum(result.wall_s for result in results),
        agent=None,
    )
    return Offers(problem, together, {result.searcher: result.outcomes for result in results})


def proposal_figures(rounds: Sequence[Offers], found: Finalists, chosen: PruningPolicy) -> tuple[ProposalFigures, ...]:
    """The best of each proposer over all `rounds`, under the limits of the last one.

    A proposer whose best policy misses the target as measured is shown with its next one, if it has another.
    """
    problem = rounds[-1].problem
    offered = {name: [outcome for each in rounds for outcome in each.outcomes[name]] for name in rounds[0].outcomes}
    taker = next(name for name, outcomes in offered.items() if any(o.pruning == chosen for o in outcomes))

    def rank(outcome: Outcome) -> tuple[bool, bool, float]:
        is_missed = outcome.pruning != chosen and found.measured.get(outcome.pruning, 0.0) > 1.0 - HEADROOM
        return is_missed, _missed(problem, outcome, found.measured.get(outcome.pruning)) is not None, -outcome.reward

    shown = []
    for name, outcomes in offered.items():
        best = min(outcomes, key=rank)
        if name == taker:
            best = next(outcome for outcome in outcomes if outcome.pruning == chosen)
        share = found.measured.get(best.pruning)
        predicted_ms = best.cost.predicted_latency_ms
        shown.append(
            ProposalFigures(
                proposer=name,
                reward=best.reward,
                top1=best.score.metrics["top1"].value if "top1" in best.score.metrics else None,
                metric=MetricValue.of(*best.score.main),
                predicted_latency_ms=predicted_ms,
                predicted_latency_ratio=predicted_ms / problem.original_cost.predicted_latency_ms,
                missed=_missed(problem, best, share),
                measured_share=share,
                evaluations=len({outcome.pruning for outcome in outcomes}),
                taken=name == taker,
            )
        )
    return tuple(shown)


def verdict(proposals: Sequence[ProposalFigures], *, remedy: str) -> str | None:
    """What to tell of an own proposal, the first one, that misses the target, is not the best, or was passed over; None
    of one that is fine. `remedy` ends the message."""
    own, *rivals = proposals
    best = max((rival for rival in rivals if rival.missed is None), key=lambda rival: rival.reward, default=None)
    figures = f"reward {own.reward:.4g}, {own.quality} before fine-tuning"
    if own.missed is not None:
        found = f"misses the target ({figures}): {own.missed}"
    elif best is not None and best.reward > own.reward:
        found = (
            f"is not the best here ({figures}): that of {best.proposer} is better by {best.reward - own.reward:.4g} "
            f"(reward {best.reward:.4g}, {best.quality})"
        )
    elif not own.taken:
        found = f"is passed over ({figures}): its file takes {own.measured_share:.3f} of the latency that is allowed"
    else:
        return None
    return f"the proposal of {own.proposer} {found}; {remedy}"


def strange_training(training: Training, problem: SearchProblem, *, model: str) -> str | None:
    """How the model and the target that an agent was trained for differ from those at hand; None if they do not."""
    differing = []
    params = problem.original_cost.params
    if training.model is not None and training.model != model:
        differing.append(f"the model {training.model}, not {model}")
    elif training.params is not None and training.params != params:
        differing.append(f"a {model} of {training.params:,} parameters, not of {params:,}")
    ours = limit_ratios(problem)
    if training.ratios is not None:
        theirs = training.ratios
        same = theirs.keys() == ours.keys() and all(
            math.isclose(theirs[metric], ours[metric], abs_tol=SAME_RATIO) for metric in ours
        )
        if not same:
            differing.append(f"{_shares(theirs)} of the original, not {_shares(ours)}")
    elif training.metrics and training.metrics != ours.keys():
        differing.append(f"limits of {', '.join(sorted(training.metrics))}, not of {', '.join(sorted(ours))}")
    return f"the agent was trained for {'; for '.join(differing)}" if differing else None


def _missed(problem: SearchProblem, outcome: Outcome, measured_share: float | None) -> str | None:
    """Which limits a policy breaks: as predicted, but where its file was timed, that of the latency as measured."""
    original = problem.original_cost
    broken = [
        f"{limit.metric} is predicted to be {outcome.cost.of(limit.metric) / original.of(limit.metric):.3f} of the "
        f"original's, {limit.max_value / original.of(limit.metric):.3f} is allowed"
        for limit in problem.limits
        if not meets(outcome.cost, (limit,)) and (measured_share is None or limit.metric != "latency")
    ]
    if measured_share is not None and measured_share > 1.0:
        broken.append(f"its file takes {measured_share:.3f} of the latency that is allowed")
    return "; ".join(broken) or None


def _shares(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{metric} <= {ratio:.3f}" for metric, ratio in sorted(ratios.items()))


def _some(problem: SearchProblem, name: str, *, constrained: bool) -> Iterator[Policy]:
    """The knapsack's policies are few; of a list from full to floor the first that fit are the best where reward is
    accuracy alone, and policies all along it are tried where smaller ones may earn more."""
    fitting = dict.fromkeys(filter(problem.is_feasible, HEURISTICS[name](problem)))
    if name == "knapsack":
        yield from fitting
    elif constrained:
        yield from itertools.islice(fitting, LARGEST)
    else:
        listed, last = list(fitting), len(fitting) - 1
        yield from dict.fromkeys(listed[round(step * last / (SPREAD - 1))] for step in range(SPREAD))

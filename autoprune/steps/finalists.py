"""Which candidates of a search go on: the best whose exported files meet the latency targets as measured."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, TypeAdapter

from autoprune.config import RunConfig, TargetConfig
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.scratch import scratch_folder
from autoprune.measure.latency import Latency
from autoprune.pruning.groups import PrunableGroup
from autoprune.search.prepare import Prepared
from autoprune.search.problem import Limit, Outcome, SearchProblem
from autoprune.space.layer_option import LayerOption
from autoprune.space.policy import PruningPolicy
from autoprune.steps.met import HEADROOM, latency_targets, share_of_allowed, timed_images, timed_together
from autoprune.store.kept import Kept, KeptPolicy, PolicyKey, Positive, closed
from autoprune.store.trials import TrialStore

VERIFY_ROUNDS, VERIFY_RUNS = 20, 15
VERIFY_BATCHES = 3
UNLIKE, USUAL_FINALISTS = 0.1, 4  # of `distance`, if there are at most so many of them
CLEARLY_FASTER = 0.98  # measured by predicted latency; a smaller error is noise


@closed
@dataclass(frozen=True)
class Finalists:
    """Candidates unlike each other, best first, and what timing them told of the predictions.

    `latency_error` is measured by predicted latency, both as shares of the original's: the median over the timed files;
    None without a latency target. `target_met` is false if no timed file met it; then there is one finalist.
    `measured` is the latency of each timed file, divided by what the targets allow; the best reward comes first.
    """

    policies: Annotated[tuple[KeptPolicy, ...], Field(min_length=1)]
    latency_error: Positive | None
    target_met: bool
    measured: dict[PolicyKey, Positive]

    @property
    def error_to_correct(self) -> float | None:
        """The error, if it costs something: accuracy, as files are faster than they need be, or the target."""
        if self.latency_error is None or (self.target_met and self.latency_error >= CLEARLY_FASTER):
            return None
        return self.latency_error

    @property
    def error_of_few(self) -> float | None:
        """The same of so few candidates that the best which meets the target may be far worse than one that misses it:
        the error is corrected too where one with a higher reward was too slow."""
        if self.latency_error is not None and self.latency_error > 1 and next(iter(self.measured)) != self.policies[0]:
            return self.latency_error
        return self.error_to_correct


FILES_TIMED = Kept("files_timed", TypeAdapter(Finalists))


def kept_finalists(prepared: Prepared, outcomes: Iterable[Outcome], config: RunConfig, store: TrialStore) -> Finalists:
    """The same, timed once: a run that goes on later takes what is in `store`, or one near the target might drop out,
    and what it had learnt with it."""
    return store.once(FILES_TIMED, lambda: finalists(prepared, outcomes, config))


def finalists(prepared: Prepared, outcomes: Iterable[Outcome], config: RunConfig) -> Finalists:
    """The policies with the highest rewards whose exported files meet the latency targets as measured.

    At most `search.finalists`, each unlike those before it. Files are timed `verify_top` at a time and have to meet the
    targets with some headroom, so that the noise of the last measurement does not miss them. If none does, one that
    just meets them is taken, and if there is none of those either, the fastest.
    """
    distinct = {outcome.pruning.key: outcome for outcome in sorted(outcomes, key=lambda outcome: outcome.reward)}
    policies = [outcome.pruning for outcome in sorted(distinct.values(), key=lambda outcome: -outcome.reward)]
    targets = latency_targets(config.target)
    wanted, top = config.search.finalists, config.search.verify_top
    if not targets:
        return Finalists(tuple(_unlike(prepared, policies, wanted)), None, True, {})
    tried: dict[PruningPolicy, float] = {}
    chosen: list[PruningPolicy] = []
    for _ in range(VERIFY_BATCHES * wanted):
        untried = (policy for policy in policies if policy not in tried)
        batch = list(itertools.islice((p for p in untried if _is_unlike(prepared, p, chosen, wanted)), top))
        if len(chosen) == wanted or not batch:
            break
        original, *candidates = _timed(prepared, batch, config)
        predicted_ms = [prepared.problem.cost_of(policy).predicted_latency_ms for policy in batch]
        at_most_ms = prepared.problem.original_cost.predicted_latency_ms * slowdown(candidates, predicted_ms)
        for policy, candidate in zip(batch, candidates, strict=True):
            tried[policy] = share_of_allowed(candidate, original, targets, original_at_most_ms=at_most_ms)
        chosen = _unlike(prepared, [policy for policy in policies if tried.get(policy, 1.0) <= 1 - HEADROOM], wanted)
    error = statistics.median(
        share / predicted_share(prepared.problem, policy, targets) for policy, share in tried.items()
    )
    if chosen:
        return Finalists(tuple(chosen), error, True, tried)
    for policy in policies:
        if tried.get(policy, math.inf) <= 1:
            return Finalists((policy,), error, True, tried)
    return Finalists((min(tried, key=lambda policy: tried[policy]),), error, False, tried)


def corrected_limits(problem: SearchProblem, latency_error: float | None) -> tuple[Limit, ...] | None:
    """The limits with that of the latency moved by what predictions were off near it; None if none moves.

    Latency is then searched where files are measured to meet the target: not below, which gives accuracy away, nor
    above, where candidates are lost. No limit falls below the floor of the problem.
    """
    if latency_error is None:
        return None
    floor_ms = problem.predict(problem.floor_policy).predicted_latency_ms
    moved = tuple(
        replace(limit, max_value=max(limit.max_value / latency_error, min(limit.max_value, floor_ms)))
        if limit.metric == "latency"
        else limit
        for limit in problem.limits
    )
    return None if moved == problem.limits else moved


def predicted_share(problem: SearchProblem, policy: PruningPolicy, targets: Sequence[TargetConfig]) -> float:
    """Predicted latency of a policy, divided by the strictest target."""
    original_ms = problem.original_cost.predicted_latency_ms
    return problem.cost_of(policy).predicted_latency_ms / min(target.bound(original_ms) for target in targets)


def _unlike(prepared: Prepared, policies: list[PruningPolicy], wanted: int) -> list[PruningPolicy]:
    """The first `wanted` of `policies` that differ a good deal from each other: neighbours train alike."""
    chosen: list[PruningPolicy] = []
    for policy in policies:
        if len(chosen) == wanted:
            break
        if _is_unlike(prepared, policy, chosen, wanted):
            chosen.append(policy)
    return chosen


def _is_unlike(prepared: Prepared, policy: PruningPolicy, others: list[PruningPolicy], wanted: int) -> bool:
    least = least_distance(wanted)
    return all(distance(prepared.elastic.groups, policy, other, prepared.elastic.options) >= least for other in others)


def least_distance(finalists: int) -> float:
    """How unlike so many finalists are: of more than the usual number the last ones would be poor if they were not
    nearer to each other."""
    return UNLIKE * min(1.0, USUAL_FINALISTS / finalists)


def distance(
    groups: tuple[PrunableGroup, ...],
    first: PruningPolicy,
    second: PruningPolicy,
    options: tuple[LayerOption, ...] = (),
) -> float:
    """How much the keep ratios of two policies differ: the mean over groups, weighted by the layers that they touch,
    and over the layers with options.

    The width of a residual trunk, which many layers share, thus counts for more than that of one block.
    """
    ours, theirs = first.as_dict(), second.as_dict()
    layers = {group.name: len({member.module for member in group.members}) for group in groups}
    differences = [layers[group.name] * abs(ours[group.name] - theirs[group.name]) / group.channels for group in groups]
    left = [[option.kind.left(option.size_in(policy)) for option in options] for policy in (first, second)]
    differences += [abs(one - other) for one, other in zip(*left, strict=True)]
    return sum(differences) / (sum(layers.values()) + len(options))


def slowdown(candidates: Sequence[Latency], predicted_ms: Sequence[float]) -> float:
    """How much slower the machine is than for the latency table, 1 or more: what the candidates tell in the median."""
    ratios = (timed.latency_ms_quiet / expected for timed, expected in zip(candidates, predicted_ms, strict=True))
    return max(1.0, statistics.median(ratios))


def _timed(prepared: Prepared, policies: list[PruningPolicy], config: RunConfig) -> list[Latency]:
    """The exported files of the original and of `policies`, timed in turn."""
    elastic, info = prepared.elastic, prepared.evaluator.info
    with scratch_folder() as folder:
        files = []
        for index, policy in enumerate([elastic.full_policy, *policies]):
            files.append(folder / f"{index}.onnx")
            export_onnx(elastic.cut(policy), files[-1], info)
        shortly = config.measure.model_copy(update={"rounds": VERIFY_ROUNDS, "runs_per_round": VERIFY_RUNS})
        return timed_together(files, timed_images(prepared.data.search, info, shortly), shortly)

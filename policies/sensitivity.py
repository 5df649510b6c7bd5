"""One threshold on measured sensitivities: every group is cut as deep as it bears alone.

Li et al. 2017 (section 3.2) prune each layer by how the network bears that layer's cut alone; NVIDIA's ModelOpt
(FastNAS) and others choose one threshold for all layers by the cost that is left.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.envs.action import policy_of_rungs, rungs_of
from autoprune.policies.baselines import TOGETHER, distinct
from autoprune.policies.heuristics import (
    MIN_SENSITIVITY,
    Losses,
    cut_share,
    fill,
    largest_feasible,
    threshold_policies,
    uniform_policies,
)
from autoprune.policies.settings import Share
from autoprune.search.problem import Outcome, PredictedProblem, SearchGroup
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.space.policy import PruningPolicy

UNMEASURED_EXPONENT = 2.0  # how the KL grows with cuts deeper than any that was measured


@dataclass(frozen=True)
class Sensitivity:
    """Settings of the search by sensitivities."""

    probe_share: Share = 0.5  # of the budget: what groups cut alone may take of it


class SensitivitySearcher:
    """Measures groups cut alone, then evaluates what thresholds on their KL give, the largest policies first.

    The first evaluation is the largest uniform policy, so that even a budget of one has a policy that meets the limits.
    Groups cut alone count as evaluations too, but are no outcomes: most of them meet no limit.
    """

    name = "sensitivity"

    def __init__(self, brief: Brief, settings: Sensitivity) -> None:
        self._problem = brief.problem
        groups = self._problem.groups
        self._uniform = largest_feasible(self._problem, uniform_policies(self._problem))
        self._probes = probes_of(groups)[: int(settings.probe_share * (brief.max_evaluations - 1))]
        self._measured = [{group.middle_rung: group.sensitivity} for group in groups]  # the set-up has measured these
        self._asked = 0  # times
        self._given = 0  # candidates after the first
        self._candidates: Iterator[PruningPolicy] | None = None

    def ask(self) -> Ask:
        self._asked += 1
        if self._asked == 1:
            return Ask((self._uniform,))
        if self._asked == 2 and self._probes:
            groups = self._problem.groups
            full = [len(group.ladder) - 1 for group in groups]
            alone = ([*full[:index], rung, *full[index + 1 :]] for index, rung in self._probes)
            return Ask(tuple(policy_of_rungs(groups, rungs) for rungs in alone), are_probes=True)
        if self._candidates is None:
            self._candidates = self._all_candidates()
        policies = tuple(itertools.islice(self._candidates, TOGETHER))
        self._given += len(policies)
        return Ask(policies)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        if self._asked == 2 and self._probes:
            for (index, rung), outcome in zip(self._probes, outcomes, strict=False):
                self._measured[index][rung] = outcome.score.divergence

    def state(self) -> SearcherState:
        measured = [list(known.items()) for known in self._measured]
        return SearcherState({"asked": self._asked, "given": self._given, "measured": measured})

    def restore(self, state: SearcherState) -> None:
        self._asked, self._given = state.facts["asked"], state.facts["given"]
        self._measured = [dict(known) for known in state.facts["measured"]]
        if self._given:
            self._candidates = itertools.islice(self._all_candidates(), self._given, None)

    def trained(self) -> None:
        return None

    def _all_candidates(self) -> Iterator[PruningPolicy]:
        losses = [
            sensitivity_curve(group, known) for group, known in zip(self._problem.groups, self._measured, strict=True)
        ]
        return (policy for policy in threshold_candidates(self._problem, losses) if policy != self._uniform)


def probes_of(groups: tuple[SearchGroup, ...]) -> list[tuple[int, int]]:
    """(group, rung) of all cuts that the set-up has not measured, in the order in which they tell most.

    In turn one rung of each group, the groups that take most time first.
    """
    costly = sorted(range(len(groups)), key=lambda index: -groups[index].latency_share)
    rungs = [_rungs_to_probe(groups[index]) for index in costly]
    turns = itertools.zip_longest(*rungs)
    return [(index, rung) for turn in turns for index, rung in zip(costly, turn, strict=True) if rung is not None]


def _rungs_to_probe(group: SearchGroup) -> list[int]:
    """The floor, then whatever halves the widest gap between known rungs."""
    known = {group.middle_rung, len(group.ladder) - 1}
    order = [] if 0 in known else [0]
    known.add(0)
    while len(known) < len(group.ladder):
        low, high = max(itertools.pairwise(sorted(known)), key=lambda gap: gap[1] - gap[0])
        order.append((low + high) // 2)
        known.add(order[-1])
    return order


def sensitivity_curve(group: SearchGroup, measured: Mapping[int, float]) -> list[float]:
    """The KL, in nats, of each rung: 0 at full width, never less for a deeper cut, linear in the cut between measured
    rungs; below the lowest of them it grows with the square of the cut."""
    cuts = cut_share(group)
    xs, ys = [0.0], [0.0]
    for rung in sorted(measured, reverse=True):
        if cuts[rung] > 0.0:
            xs.append(cuts[rung])
            ys.append(max(measured[rung], MIN_SENSITIVITY, ys[-1]))
    return [
        float(np.interp(cut, xs, ys)) if cut <= xs[-1] else ys[-1] * (cut / xs[-1]) ** UNMEASURED_EXPONENT
        for cut in cuts
    ]


def threshold_candidates(problem: PredictedProblem, losses: Losses) -> Iterator[PruningPolicy]:
    """What each threshold that meets the limits gives, the lowest first, each also with the room that it leaves used.

    All thresholds are predicted instead of bisected: latency is not monotone in the width, and predictions are quick.
    """

    def filled(policy: PruningPolicy) -> PruningPolicy:
        return policy_of_rungs(problem.groups, fill(problem, rungs_of(problem.groups, policy), losses))

    fitting = distinct(problem, threshold_policies(problem.groups, losses))
    return distinct(problem, (candidate for policy in fitting for candidate in (policy, filled(policy))))

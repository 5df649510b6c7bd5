"""One threshold on measured sensitivities: every decision is cut as deep as it bears alone.

Li et al. 2017 (section 3.2) prune each layer by how the network bears that layer's cut alone; NVIDIA's ModelOpt
(FastNAS) and others choose one threshold for all layers by the cost that is left.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
from autoprune.search.problem import Outcome, PredictedProblem
from autoprune.search.searcher import Ask, Brief, SearcherState
from autoprune.space.decision import Decision, Policy, full_policy

UNMEASURED_EXPONENT = 2.0  # how the KL grows with cuts deeper than any that was measured


@dataclass(frozen=True)
class Sensitivity:
    """Settings of the search by sensitivities."""

    probe_share: Share = 0.5  # of the budget: what decisions cut alone may take of it


class SensitivitySearcher:
    """Measures decisions cut alone, then evaluates what thresholds on their KL give, the largest policies first.

    The first evaluation is the largest uniform policy, so that even a budget of one has a policy that meets the limits.
    Decisions cut alone count as evaluations too, but are no outcomes: most of them meet no limit.
    """

    name = "sensitivity"

    def __init__(self, brief: Brief, settings: Sensitivity) -> None:
        self._problem = brief.problem
        decisions = self._problem.decisions
        self._uniform = largest_feasible(self._problem, uniform_policies(self._problem))
        self._probes = probes_of(decisions)[: int(settings.probe_share * (brief.max_evaluations - 1))]
        # The set-up has measured these.
        self._measured = [{decision.middle_option: decision.sensitivity} for decision in decisions]
        self._asked = 0  # times
        self._given = 0  # candidates after the first
        self._candidates: Iterator[Policy] | None = None

    def ask(self) -> Ask:
        self._asked += 1
        if self._asked == 1:
            return Ask((self._uniform,))
        if self._asked == 2 and self._probes:
            full = full_policy(self._problem.decisions)
            alone = ((*full[:index], option, *full[index + 1 :]) for index, option in self._probes)
            return Ask(tuple(alone), are_probes=True)
        if self._candidates is None:
            self._candidates = self._all_candidates()
        policies = tuple(itertools.islice(self._candidates, TOGETHER))
        self._given += len(policies)
        return Ask(policies)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        if self._asked == 2 and self._probes:
            for (index, option), outcome in zip(self._probes, outcomes, strict=False):
                self._measured[index][option] = outcome.score.divergence

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

    def _all_candidates(self) -> Iterator[Policy]:
        losses = [
            sensitivity_curve(decision, known)
            for decision, known in zip(self._problem.decisions, self._measured, strict=True)
        ]
        return (policy for policy in threshold_candidates(self._problem, losses) if policy != self._uniform)


def probes_of(decisions: tuple[Decision, ...]) -> list[tuple[int, int]]:
    """(decision, option) of all cuts that the set-up has not measured, in the order in which they tell most.

    In turn one option of each decision, the decisions that take most time first.
    """
    costly = sorted(range(len(decisions)), key=lambda index: -decisions[index].latency_share)
    options = [_options_to_probe(decisions[index]) for index in costly]
    turns = itertools.zip_longest(*options)
    return [(index, option) for turn in turns for index, option in zip(costly, turn, strict=True) if option is not None]


def _options_to_probe(decision: Decision) -> list[int]:
    """The floor, then whatever halves the widest gap between known options."""
    known = {decision.middle_option, len(decision.ladder) - 1}
    order = [] if 0 in known else [0]
    known.add(0)
    while len(known) < len(decision.ladder):
        low, high = max(itertools.pairwise(sorted(known)), key=lambda gap: gap[1] - gap[0])
        order.append((low + high) // 2)
        known.add(order[-1])
    return order


def sensitivity_curve(decision: Decision, measured: Mapping[int, float]) -> list[float]:
    """The KL, in nats, of each option: 0 at full width, never less for a deeper cut, linear in the cut between measured
    options; below the lowest of them it grows with the square of the cut."""
    cuts = cut_share(decision)
    xs, ys = [0.0], [0.0]
    for option in sorted(measured, reverse=True):
        if cuts[option] > 0.0:
            xs.append(cuts[option])
            ys.append(max(measured[option], MIN_SENSITIVITY, ys[-1]))
    return [
        float(np.interp(cut, xs, ys)) if cut <= xs[-1] else ys[-1] * (cut / xs[-1]) ** UNMEASURED_EXPONENT
        for cut in cuts
    ]


def threshold_candidates(problem: PredictedProblem, losses: Losses) -> Iterator[Policy]:
    """What each threshold that meets the limits gives, the lowest first, each also with the room that it leaves used.

    All thresholds are predicted instead of bisected: latency is not monotone in the width, and predictions are quick.
    """

    def filled(policy: Policy) -> Policy:
        return tuple(fill(problem, policy, losses))

    fitting = distinct(problem, threshold_policies(problem.decisions, losses))
    return distinct(problem, (candidate for policy in fitting for candidate in (policy, filled(policy))))

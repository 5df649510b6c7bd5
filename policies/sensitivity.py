"""One threshold on measured sensitivities: every group is cut as deep as it bears alone.

Li et al. 2017 (section 3.2) prune each layer by how the network bears that layer's cut alone; NVIDIA's ModelOpt
(FastNAS) and others choose one threshold for all layers by the cost that is left.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from autoprune.envs.action import policy_of_rungs, rungs_of
from autoprune.policies.heuristics import (
    MIN_SENSITIVITY,
    Losses,
    cut_share,
    fill,
    largest_feasible,
    threshold_policies,
    uniform_policies,
)
from autoprune.policy import PruningPolicy
from autoprune.search.problem import SearchGroup, SearchProblem
from autoprune.search.session import SearchSession

UNMEASURED_EXPONENT = 2.0  # how the KL grows with cuts deeper than any that was measured


@dataclass(frozen=True)
class SensitivitySearcher:
    """Measures groups cut alone, then evaluates what thresholds on their KL give, the largest policies first.

    The first evaluation is the largest uniform policy, so that even a budget of one has a policy that meets the limits.
    Groups cut alone count as evaluations too, but are no outcomes: most of them meet no limit.
    """

    name: str = "sensitivity"
    probe_share: float = 0.5  # of the budget: what groups cut alone may take of it

    def explore(self, session: SearchSession) -> None:
        problem = session.problem
        uniform = largest_feasible(problem, uniform_policies(problem))
        session.evaluate(uniform)
        losses = self._measured_losses(session, probes=int(self.probe_share * (session.max_evaluations - 1)))
        session.evaluate_each(policy for policy in threshold_candidates(problem, losses) if policy != uniform)

    def _measured_losses(self, session: SearchSession, *, probes: int) -> Losses:
        """The KL of each rung of each group alone, from as many new measurements as `probes`."""
        groups = session.groups
        measured = [{group.middle_rung: group.sensitivity} for group in groups]  # the set-up has measured these
        full = [len(group.ladder) - 1 for group in groups]
        alone = {
            (index, rung): policy_of_rungs(groups, [*full[:index], rung, *full[index + 1 :]])
            for index, rung in probes_of(groups)[:probes]
        }
        session.expect(alone.values(), as_probes=True)
        for (index, rung), policy in alone.items():
            measured[index][rung] = session.probe(policy).score.kl
        return [sensitivity_curve(group, known) for group, known in zip(groups, measured, strict=True)]


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


def threshold_candidates(problem: SearchProblem, losses: Losses) -> Iterator[PruningPolicy]:
    """What each threshold that meets the limits gives, the lowest first, each also with the room that it leaves used.

    All thresholds are predicted instead of bisected: latency is not monotone in the width, and predictions are quick.
    """
    given: set[PruningPolicy] = set()
    for policy in filter(problem.is_feasible, threshold_policies(problem.groups, losses)):
        filled = policy_of_rungs(problem.groups, fill(problem, rungs_of(problem.groups, policy), losses))
        for candidate in (policy, filled):
            if candidate not in given:
                given.add(candidate)
                yield candidate

"""Proposals: an agent's or a stored policy's, scored beside the heuristics', and what is told of them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from problems_for_tests import CountingScorer, policy, problem, pruning
from rich.console import Console

from autoprune.config import RewardConfig, RunConfig, SearchConfig
from autoprune.policies.actor import Training
from autoprune.policies.heuristics import HEURISTICS
from autoprune.reports.proposals import proposal_cells, proposals_table
from autoprune.results.run import ProposalFigures, SearchFigures
from autoprune.search.problem import Limit, SearchProblem
from autoprune.space.policy import PruningPolicy
from autoprune.steps.finalists import Finalists
from autoprune.steps.proposals import (
    MOST,
    Offers,
    offers,
    proposal_figures,
    strange_training,
    verdict,
)
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

MACS = Limit("macs", 800)  # 8 of 10 channels: the policies are 1+2, 2+2, 4+2, 1+6 and 2+6
AGENT = "ddpg (trained before)"


def offered(own: PruningPolicy, within: SearchProblem, **reward: Any) -> Offers:
    return offers(within, AGENT, own, RunConfig(search=SearchConfig(reward=RewardConfig.model_validate(reward))))


def figures(proposer: str, reward: float, **others: object) -> ProposalFigures:
    return ProposalFigures.model_validate(
        {
            "proposer": proposer,
            "reward": reward,
            "top1": 0.9,
            "predicted_latency_ms": 0.1,
            "predicted_latency_ratio": 0.5,
            "evaluations": 1,
        }
        | others
    )


def test_all_are_scored_alike_and_kept_so_that_a_stopped_run_repeats_nothing(tmp_path: Path) -> None:
    def never(policy: PruningPolicy) -> Iterator[Score]:
        raise AssertionError(f"{policy.key} is scored again")

    store = TrialStore(tmp_path / "trials.sqlite")
    found = offered(pruning(1, 2), problem(CountingScorer(), MACS, store=store))
    assert list(found.outcomes) == [AGENT, *HEURISTICS]
    assert found.result.best.policy == policy(2, 6)
    assert found.result.evaluations == store.count()
    assert {row.searcher for row in store.episodes()} == set(found.outcomes)
    assert offered(pruning(1, 2), problem(never, MACS, store=store)).outcomes == found.outcomes


@pytest.mark.parametrize("reward", [{}, {"form": "weighted", "cost_weight": 1.0}, {"form": "amc"}])
def test_no_proposer_has_more_than_a_handful_and_all_fit(reward: dict[str, Any]) -> None:
    within = problem(CountingScorer(), MACS, reward_config=RewardConfig.model_validate(reward))
    for name, outcomes in offered(pruning(4, 2), within, **reward).outcomes.items():
        assert 1 <= len(outcomes) <= MOST, name
        assert all(within.is_feasible(outcome.policy) for outcome in outcomes)
        assert all(outcome.score.complete for outcome in outcomes)


def test_the_best_of_each_is_shown_and_one_that_was_measured_to_miss_gives_way() -> None:
    found = offered(pruning(1, 2), problem(CountingScorer(), MACS))
    wide, narrow = pruning(2, 6), pruning(2, 2)
    plain = proposal_figures([found], Finalists((wide,), None, True, {}), wide)
    assert [proposal.proposer for proposal in plain] == [AGENT, *HEURISTICS]
    assert plain[0].reward == pytest.approx(-0.7) and not plain[0].taken
    assert [proposal.taken for proposal in plain].count(True) == 1
    assert next(proposal for proposal in plain if proposal.taken).reward == pytest.approx(-0.2)
    missed = proposal_figures([found], Finalists((narrow,), 1.05, True, {wide: 1.04, narrow: 0.9}), narrow)
    taken = next(proposal for proposal in missed if proposal.taken)
    assert (taken.reward, taken.measured_share) == (pytest.approx(-0.6), 0.9)
    assert all(proposal.reward < -0.2 for proposal in missed if proposal.missed is None)


def test_the_limits_that_are_missed_are_named_by_hand() -> None:
    """The original has 10 channels, 1000 MACs and takes 0.1 ms."""
    within = problem(CountingScorer(), MACS, Limit("latency", 0.07))
    full = pruning(4, 6)
    offer = offered(full, within)
    predicted = proposal_figures([offer], Finalists((full,), None, True, {}), full)[0]
    assert predicted.missed == (
        "macs is predicted to be 1.000 of the original's, 0.800 is allowed; "
        "latency is predicted to be 1.000 of the original's, 0.700 is allowed"
    )
    macs, latency = predicted.missed.split("; ")
    for share, missed in ((0.9, macs), (1.2, f"{macs}; its file takes 1.200 of the latency that is allowed")):
        assert proposal_figures([offer], Finalists((full,), share, True, {full: share}), full)[0].missed == missed
    assert latency not in missed


def test_of_equals_the_agents_own_is_the_one_that_is_applied() -> None:
    found = offered(pruning(2, 6), problem(CountingScorer(), MACS))
    shown = proposal_figures([found], Finalists((pruning(2, 6),), None, True, {}), pruning(2, 6))
    assert shown[0].taken
    assert verdict(shown, remedy="x") is None


def test_a_later_round_counts_too_and_its_limits_are_those_that_hold() -> None:
    first = offered(pruning(1, 2), problem(CountingScorer(), MACS))
    second = offered(pruning(4, 2), problem(CountingScorer(), Limit("macs", 700)))
    shown = proposal_figures([first, second], Finalists((pruning(2, 2),), None, True, {}), pruning(2, 2))
    assert (shown[0].reward, shown[0].evaluations) == (pytest.approx(-0.4), 2)
    assert all(proposal.missed is None for proposal in shown)


def test_what_is_told_of_a_proposal() -> None:
    own, better = figures(AGENT, -1.0), figures("knapsack", -0.25, taken=True)
    assert verdict([figures(AGENT, -0.25, taken=True), figures("knapsack", -0.3)], remedy="x") is None
    told = verdict([own, figures("uniform", -0.5), better], remedy="train")
    assert told is not None
    assert told.startswith("the proposal of ddpg (trained before) is not the best here (reward -1, top1 90.0%")
    assert told.endswith("that of knapsack is better by 0.75 (reward -0.25, top1 90.0%); train")
    # What misses the target is no better, and does not make another look bad.
    assert (
        verdict([figures(AGENT, -1.0, taken=True), figures("knapsack", -0.2, missed="it is slow")], remedy="x") is None
    )
    slow = verdict([figures(AGENT, -0.1, missed="it is slow"), better], remedy="x")
    assert slow is not None and slow.endswith(
        " misses the target (reward -0.1, top1 90.0% before fine-tuning): it is slow; x"
    )
    close = verdict([figures(AGENT, -0.1, measured_share=0.995), better], remedy="x")
    assert close is not None and "passed over" in close


def trained(model: str, params: int | None, ratios: dict[str, float] | None, target: str = "") -> Training:
    return Training(model=model, params=params, ratios=ratios, target=target)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (Training(), None),
        (trained("resnet20", 30, {"macs": 0.8}), None),
        (trained("resnet20", 30, {"macs": 0.803}), None),
        (trained("resnet20", None, None, "macs <= 9"), None),
        (trained("resnet20", None, {"macs": 0.5}), "trained for macs <= 0.500 of the original, not macs <= 0.800"),
        (trained("resnet20", None, {"macs": 0.8, "params": 0.5}), "macs <= 0.800, params <= 0.500 of the original"),
        (trained("resnet20", None, None, "macs <= 9, params <= 9"), "limits of macs, params, not of macs"),
        (trained("vgg16_bn", 30, {"macs": 0.8}), "the agent was trained for the model vgg16_bn, not resnet20"),
        (trained("resnet20", 31, {"macs": 0.8}), "a resnet20 of 31 parameters, not of 30"),
        (trained("vgg16_bn", 30, {"macs": 0.5}), "the model vgg16_bn, not resnet20; for macs <= 0.500 of the"),
        (trained("resnet20", 30, {"macs": float("nan")}), "macs <= nan"),
    ],
)
def test_a_strange_model_or_target_is_told(training: Training, told: str | None) -> None:
    found = strange_training(training, problem(CountingScorer(), MACS), model="resnet20")
    assert (found is None) == (told is None)
    assert told is None or told in str(found)


def test_the_table_has_all_names_and_the_warnings() -> None:
    proposals = (figures("[red]odd[/red] of 21c", -1.0, measured_share=1.04), figures("knapsack", -0.25, taken=True))
    search = SearchFigures(
        searcher="ddpg", evaluations=2, wall_s=0.0, seed=0, proposals=proposals, warnings=("the agent [is] odd",)
    )
    assert proposal_cells(proposals[0]) == ("−1.0000", "90.00%", "0.100 (0.50)", "1.040", "1")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(proposals_table(search))
    text = console.export_text()
    for part in (
        "[red]odd[/red] of 21c",
        "Proposals; applied is that of knapsack",
        "−0.2500",
        "warning: the agent [is] odd",
    ):
        assert part in text
    assert proposals_table(search.model_copy(update={"proposals": ()})) is None

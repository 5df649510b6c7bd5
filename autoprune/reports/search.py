"""What pages say and draw of a search, and the page of one that stands alone."""

import json
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from autoprune.config import RewardConfig, RunConfig, TargetConfig
from autoprune.config.nni import OF_NNI
from autoprune.reports.charts import episode_chart, keep_chart, scatter_chart
from autoprune.reports.pages import write_page
from autoprune.reports.record import SearchRecord, read_search
from autoprune.reports.words import target_in_words, told_proposals
from autoprune.results.kept import FinishedTrial
from autoprune.results.run import MetricFigures
from autoprune.search.toy import LATENCY_RATIO
from autoprune.store.run_dir import RunDir
from autoprune.store.score import Metric, called, direction, shown_metric, told_merit
from autoprune.store.trials import EpisodeRow

TEMPLATE = "search.html.j2"
TRIALS_LISTED = 7


def write_search_page(run_dir: Path) -> Path:
    """Write `run_dir/search.html` and return its path; `InputError` names the file that is missing or broken."""
    search = read_search(run_dir)
    path = RunDir(run_dir).search_page
    write_page(
        path,
        TEMPLATE,
        {
            **search_parts(search),
            "charts": {name: Markup(svg) for name, svg in search_charts(search).items()},
            "environment": search.environment,
            "headline": _headline(search),
            "targets": _targets(search),
            "labels": list(_searches(search.episodes)),
            "folder": shlex.quote(str(run_dir)),
        },
    )
    return path


def search_parts(search: SearchRecord) -> dict[str, object]:
    """What the sections name that a run's page and a search's have in common, but the charts."""
    trials, tuner = _trials(search.episodes), _tuner(search)
    proposed = search.proposed.values()
    return {
        "search": search,
        "subject": _subject(search.config),
        "gone": [group.name for group in search.groups if not group.kept],
        "reward_in_words": _reward_in_words(search.config.search.reward),
        "proposed": told_proposals(proposed, tuner, search.config.nni.assessor) if proposed else None,
        "notes": {(f"{OF_NNI}{tuner}", trial.episode): _note(trial) for trial in proposed},
        "searches": len({(row.searcher, row.seed) for row in search.episodes}),
        "trials": len(trials),
        "best_trials": sorted(trials, key=lambda row: -row.reward)[:TRIALS_LISTED],
        "chosen": _chosen(search),
        "metric_name": search.episodes[0].score.main[0] if search.episodes else "",
        "shown_metric": _shown_metric,
    }


def search_charts(search: SearchRecord) -> dict[str, str]:
    """The charts that a search has data for, by name."""
    charts = {}
    if search.groups:
        charts["keep"] = keep_chart(search.groups)
    if search.episodes:
        searches = _searches(search.episodes)
        charts["reward"] = episode_chart(
            searches, lambda row: row.reward, name="reward", ylabel="reward", best_label="best so far"
        )
        name, metric = search.episodes[0].score.main
        charted = on_search_split(name, metric)
        charts["metric"] = episode_chart(
            searches, _charted, name="metric", ylabel=charted, best_label="best reward so far"
        )
        chosen, original = _chosen(search), search.original
        charts["trials"] = scatter_chart(
            {label: [_point(row) for row in _trials(rows)] for label, rows in searches.items()},
            chosen=_point(chosen) if chosen else None,
            original=(original.predicted_latency_ms, (100 if metric.is_share else 1) * original.metric)
            if original
            else None,
            ylabel=charted,
        )
    return charts


def _headline(search: SearchRecord) -> str:
    """The best reward of all trials, and that cut's metric and predicted latency beside the original's."""
    best, original = max(search.episodes, key=lambda row: row.reward), search.original
    name, metric = best.score.main
    trials = len(_trials(search.episodes))
    reward = f"{best.reward:.4f}".replace("-", "−")
    told = (
        f"Best reward {reward} of {trials} trial{'' if trials == 1 else 's'}: {told_merit(metric.merit, name, metric)}"
    )
    if original is None or original.predicted_latency_ms == 0:
        return f"{told} at {best.predicted_latency_ms:.3f} ms as predicted"
    share = best.predicted_latency_ms / original.predicted_latency_ms
    before = shown_metric(original.metric, is_share=metric.is_share)
    return f"{told} (the original: {before}) at {share:.2f} of its predicted latency"


def _subject(config: RunConfig) -> str:
    """What was searched."""
    return "the toy" if config.problem == "toy" else f"{config.model.name} on {config.data.name}"


def _targets(search: SearchRecord) -> list[str]:
    """The toy has a target of its own."""
    toys = (TargetConfig(metric="latency", max_ratio=LATENCY_RATIO),)
    name, metric = search.episodes[0].score.main
    return [
        target_in_words(target, called(name), higher_is_better=metric.higher_is_better, energy="estimated")
        for target in (toys if search.config.problem == "toy" else search.config.target)
    ]


def _note(trial: FinishedTrial) -> str:
    """Of a proposal, in a table."""
    return ", ".join(["clipped"] * trial.was_clipped + ["stopped"] * trial.was_stopped) or "–"


def _reward_in_words(reward: RewardConfig) -> str:
    """What a search was after, for people who know no configuration."""
    if reward.form == "amc":
        return f"The reward is minus the share of wrong answers times the logarithm of the {reward.cost}."
    if ":" in reward.form:
        return f"The reward is {reward.form}, of a candidate's score and {reward.cost}."
    by_name = {
        "divergence": "minus the divergence of the cut's answers from the original's",
        "top1": "the share of right answers",
    }
    accuracy = by_name.get(reward.accuracy, f"{reward.accuracy}, minus it where lower values are better")
    if reward.form == "weighted":
        return (
            f"The reward is {accuracy}, less {reward.cost_weight:g} times the share of the {reward.cost} that is left."
        )
    return f"The reward is {accuracy}."


def on_search_split(name: str, metric: Metric | MetricFigures) -> str:
    """What stands at an axis."""
    return f"{name} on the search split{' (%)' if metric.is_share else ''}{direction(metric.higher_is_better)}"


def _searches(episodes: Sequence[EpisodeRow]) -> dict[str, list[EpisodeRow]]:
    """The episodes of each search, by what it is called in a legend."""
    by_search = groupby(episodes, key=lambda row: (row.searcher, row.seed))
    return {f"{searcher}, seed {seed}": list(rows) for (searcher, seed), rows in by_search}


def _trials(episodes: Sequence[EpisodeRow]) -> list[EpisodeRow]:
    """The first episode of each policy: one that is asked for again is the same trial."""
    return list({row.policy: row for row in reversed(episodes)}.values())[::-1]


def _chosen(search: SearchRecord) -> EpisodeRow | None:
    """The first episode that asked for the chosen policy, if one did."""
    return next((row for row in search.episodes if json.loads(row.policy) == search.chosen), None)


def _point(row: EpisodeRow) -> tuple[float, float]:
    return row.predicted_latency_ms, _charted(row)


def _charted(row: EpisodeRow) -> float:
    """The main metric, a share in percent."""
    metric = row.score.main[1]
    return 100 * metric.value if metric.is_share else metric.value


def _shown_metric(row: EpisodeRow) -> str:
    metric = row.score.main[1]
    return shown_metric(metric.value, is_share=metric.is_share)


def _tuner(search: SearchRecord) -> str:
    """The tuner of NNI's whose proposals were scored, as the episodes have it."""
    named = (row.searcher for row in search.episodes if row.searcher.startswith(OF_NNI))
    return next(named, "").removeprefix(OF_NNI)

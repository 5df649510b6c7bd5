"""The report is built from real run directories: a trial store, a policy, a configuration and a result."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from judging_for_tests import scored
from pydantic import TypeAdapter
from rich.console import Console
from torch import nn

from autoprune.adaptive.figures.schema import AdaptiveResult, ClassFigures, RouteFigures
from autoprune.adaptive.report import page as adaptive
from autoprune.adaptive.report.charts import share_chart
from autoprune.cli import summary
from autoprune.config import RunConfig
from autoprune.config.file import dump_config, parse_config
from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.files import read_json, write_json, write_text
from autoprune.prediction.latency_fit import LatencyFit
from autoprune.prediction.latency_model import LATENCY, MeasuredLatency
from autoprune.reports.drawing import MAX_LABEL_CHARACTERS, shorten
from autoprune.reports.headline import headline, slow_calls, verdict
from autoprune.reports.record import read_run
from autoprune.reports.run import _charts, _drop_cells, comparison_rows, summary_table, unmet_drop, write_report
from autoprune.results import kept as results_kept
from autoprune.results.kept import FRAME, FinetuneFrame
from autoprune.results.run import DropTrial, parse_result
from autoprune.search.prepare import ORIGINAL, OriginalPoint
from autoprune.space.policy import PruningPolicy, save_policy
from autoprune.store.kept import Kept
from autoprune.store.trials import Episode, TrialStore
from autoprune.training.train import EpochLog

GROUPS = {"stem": (12, 16), "layer1.0.conv1": (8, 16), "layer2.0.conv1": (16, 32)}
ADAPTIVE = {
    "test_accuracy": 0.93,
    "latency_ms_mean": 0.2,
    "latency_ratio": 0.4,
    "level_share": [0.7, 0.2, 0.1],
    "static_at_equal_accuracy": {
        "model": "pruned",
        "test_accuracy": 0.93,
        "latency_ms_mean": 0.25,
        "latency_ratio": 0.8,
    },
}
FINETUNE = (EpochLog(1, 0.52, 0.918, 0.04), EpochLog(2, 0.41, 0.926, 0.02), EpochLog(3, 0.36, 0.931, 0.001))


def make_result(*, speedup: float = 2.11, pruned_accuracy: float = 0.9331, target_met: bool = True) -> dict[str, Any]:
    original = {
        "test_accuracy": 0.9362,
        "params": 272186,
        "macs": 31_200_000,
        "latency_ms_p50": 0.6123,
        "latency_ms_p95": 0.66,
        "latency_ms_quiet": 0.6,
        "energy_mj": 3.1,
        "energy_source": "estimated",
        "onnx_bytes": 1_100_000,
        "peak_rss_bytes": 61_000_000,
    }
    pruned = original | {
        "test_accuracy": pruned_accuracy,
        "params": 103_431,
        "macs": 12_480_000,
        "latency_ms_p50": 0.6123 / speedup,
        "latency_ms_p95": 0.33,
        "latency_ms_quiet": 0.6 / speedup,
        "energy_mj": 1.55,
        "onnx_bytes": 440_000,
        "peak_rss_bytes": 55_000_000,
    }
    return {
        "schema": 1,
        "original": original,
        "pruned": pruned,
        "ratios": {
            "params": 0.38,
            "macs": 0.4,
            "latency": 1 / speedup,
            "energy": 0.5,
            "speedup": speedup,
            "speedup_ci95": [speedup - 0.05, speedup + 0.06],
            "speedup_quiet": speedup,
        },
        "checks": {"onnx_parity_max_abs": 1.3e-6, "target_met": target_met},
        "search": {
            "searcher": "ddpg",
            "evaluations": 4,
            "wall_s": 140.2,
            "seed": 7,
            "proxy_rank_correlation": None,
        },
        "adaptive": None,
        "environment": {"autoprune": "0.1.0", "onnxruntime": "1.32.0"},
    }


def add_episodes(
    run_dir: Path, policies: list[tuple[dict[str, int], float]], *, searcher: str = "ddpg", seed: int = 7
) -> None:
    """Episodes with the reward given; the latency predicted is a hundredth of a millisecond per channel."""
    store = TrialStore(run_dir / "trials.sqlite")
    for number, (channels, reward) in enumerate(policies, start=1):
        policy, total = PruningPolicy.of(channels), sum(channels.values())
        store.add_trial("print", policy.key, [scored(-reward, 0.5, 0.9 + reward, 500)], wall_s=0.5)
        costs = (total / 100, total / 20, 1000 * total, 10 * total)
        store.add_episode("print", policy.key, Episode(searcher, seed, number, reward, *costs), look=0)


def make_run(
    run_dir: Path,
    *,
    groups: dict[str, tuple[int, int]] = GROUPS,
    episodes: int = 4,
    finetune: tuple[EpochLog, ...] = FINETUNE,
    ladders: dict[str, list[int]] | None = None,
    config: RunConfig | None = None,
    result: dict[str, Any] | None = None,
) -> Path:
    """A run directory as a finished run leaves it; the last episode evaluates the chosen policy."""
    chosen = {name: kept for name, (kept, _) in groups.items()}
    original = {name: before for name, (_, before) in groups.items()}
    write_text(run_dir / "config.yaml", dump_config(config or RunConfig()))
    write_json(run_dir / "result.json", result or make_result())
    save_policy(run_dir / "policy.json", PruningPolicy.of(chosen), model="resnet20", original=original)
    tried = [chosen | dict.fromkeys(chosen, 1 + step) for step in range(episodes - 1)]
    store = TrialStore(run_dir / "trials.sqlite")
    if episodes:
        add_episodes(run_dir, [(channels, -0.3 + 0.05 * step) for step, channels in enumerate([*tried, chosen])])
    if finetune:
        store.keep(results_kept.FINETUNE, finetune)
    if ladders is not None:
        ladders_of = {name: tuple(widths) for name, widths in ladders.items()}
        store.keep(LATENCY, MeasuredLatency({}, LatencyFit(0.0, 1.0), ladders_of))
    return run_dir


class Page(HTMLParser):
    """Collects what a browser would: elements, ids, text, and what it would fetch. Fails on unbalanced elements."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"elements left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.references.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(part for part in self.texts if part)


def report_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_headline_and_table_show_the_measured_figures_rounded(tmp_path: Path) -> None:
    text = report_of(make_run(tmp_path)).text
    assert "2.1× faster, 38% of the parameters, −0.3 points of test accuracy" in text
    assert "Test accuracy 93.62% 93.31% −0.31 points" in text
    assert "Latency, p50 0.612 ms 0.290 ms 0.47" in text
    assert "Latency, p95 0.660 ms 0.330 ms 0.50" in text
    assert "Speed-up (95% interval) 1× 2.11× 2.06 to 2.17" in text
    assert "Parameters 272,186 103,431 0.38" in text
    assert "MACs 31.20 M 12.48 M 0.40" in text
    assert "ONNX file 1.10 MB 0.44 MB 0.40" in text
    assert "Peak memory (RSS) 61.00 MB 55.00 MB 0.90" in text
    assert "Energy per inference (estimated) 3.1 mJ 1.55 mJ 0.50" in text
    assert "Target met latency at most 0.50 of the original; reached 0.47" in text
    assert "ddpg: 4 evaluations in 2 min 20 s, seed 7" in text
    assert "differ by at most 1.3e-06" in text
    assert "autoprune 0.1.0 onnxruntime 1.32.0" in text


def test_the_page_needs_no_other_file_and_runs_no_script(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path))
    assert page.references, "the charts refer to their own markers"
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not page.counts.keys() & {"script", "link", "img", "iframe"}


def test_charts_show_groups_trials_and_fine_tuning(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path, ladders={"stem": [4, 8, 12, 16]}))
    assert page.counts["svg"] == 6
    for name, (kept, before) in GROUPS.items():
        assert page.texts.count(name) == 2  # the chart and the table beside it
        assert f"{kept} / {before}" in page.texts
        assert f"{name} {before} {kept} {100 * kept / before:.0f}%" in page.text
    assert "predicted latency (ms)" in page.texts
    assert "chosen policy" in page.texts
    assert "4 episodes, 4 different policies" in page.text
    assert "The chosen policy is none of these trials" not in page.text
    assert "episode reward top1 predicted latency 4 (chosen) −0.1500 75.00% 0.360 ms 3 −0.2000" in page.text
    assert "3 epochs; the weights that did best" in page.text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    first = write_report(make_run(tmp_path / "a")).read_bytes()
    assert write_report(tmp_path / "a").read_bytes() == first
    assert write_report(make_run(tmp_path / "b")).read_bytes() == first


def test_names_and_configuration_are_data_not_markup(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script>&$x^2$'
    config = parse_config({"data": {"name": "imagefolder:</pre><script>"}}, where="test")
    page = report_of(make_run(tmp_path, groups={hostile: (8, 16), "a\x00b": (1, 2)}, config=config))
    assert "script" not in page.counts
    assert hostile in page.text
    assert shorten(hostile) in page.texts
    assert "imagefolder:</pre><script>" in page.text


@pytest.mark.parametrize("groups", [1, 60])
def test_any_number_of_groups(tmp_path: Path, groups: int) -> None:
    widths = {f"features.blocks.{index}.depthwise.conv": (5 + index % 7, 64) for index in range(groups)}
    page = report_of(make_run(tmp_path, groups=widths))
    assert sum(text.endswith(" / 64") for text in page.texts) == groups
    assert page.counts["tr"] == 11 + 1 + groups + 1 + 4


def test_a_run_without_episodes_and_fine_tuning_says_so(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path, episodes=0, finetune=()))
    assert page.counts["svg"] == 1
    assert "No episode was recorded in this run." in page.text
    assert "No fine-tuning was recorded in this run." in page.text


def test_a_run_with_one_episode(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path, episodes=1, finetune=FINETUNE[:1]))
    assert page.counts["svg"] == 6
    assert "1 episode, 1 different policy." in page.text
    assert "1 epoch;" in page.text


def test_several_searches_in_one_store_are_told_apart(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    add_episodes(run_dir, [({"stem": 2}, -0.2), ({"stem": 2}, -0.2)], searcher="random", seed=1)
    page = report_of(run_dir)
    assert "6 episodes, 5 different policies" in page.text
    assert "ddpg, seed 7: 4 (chosen)" in page.text
    assert "random, seed 1: 1" in page.text
    assert page.texts.count("ddpg, seed 7") == page.texts.count("random, seed 1") == 3


def test_a_chosen_policy_that_was_never_tried_is_not_marked(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    save_policy(run_dir / "policy.json", PruningPolicy.of({"stem": 16}), model="resnet20", original={"stem": 16})
    page = report_of(run_dir)
    assert "chosen policy" not in page.texts
    assert "(chosen)" not in page.text
    assert "The chosen policy is none of these trials." in page.text


def test_the_best_so_far_line_steps_with_the_reward(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=0)
    add_episodes(run_dir, [({"stem": width}, reward) for width, reward in ((1, -0.2), (2, -0.1), (3, -0.4), (4, -0.1))])
    write_report(run_dir)
    svg = re.search(
        r'<svg[^>]*aria-label="reward by episode.*?</svg>', (run_dir / "report.html").read_text(), re.DOTALL
    )
    assert svg is not None
    paths = [
        element.get("d", "") for element in ElementTree.fromstring(svg[0]).iter("{http://www.w3.org/2000/svg}path")
    ]
    lines = [re.findall(r"[ML] (\S+) (\S+)", path) for path in paths]
    (best,) = [line for line in lines if len(line) == 7]  # four steps drawn with their corners
    heights = [float(y) for _, y in best]
    assert heights == sorted(heights, reverse=True)  # SVG counts down from the top
    assert len(set(heights)) == 2


def test_targets_are_shown_in_their_own_units_and_estimates_named(tmp_path: Path) -> None:
    config = parse_config(
        {
            "target": [
                {"metric": "latency", "max_value": 250, "unit": "us"},
                {"metric": "energy", "max_ratio": 0.4},
                {"metric": "params", "max_value": 200000, "unit": "count"},
            ],
            "measure": {"allow_estimated_energy": True},
        },
        where="test",
    )
    text = report_of(make_run(tmp_path, config=config, result=make_result(target_met=False))).text
    assert "Target missed latency at most 250 us; reached 290.19 us" in text
    assert "energy (estimated) at most 0.40 of the original; reached 0.50" in text
    assert "params at most 200,000; reached 103,431" in text


def test_trials_of_how_much_can_be_cut(tmp_path: Path) -> None:
    """Of three searches the page shows the one whose policy was taken; a gain of accuracy is a drop below zero."""
    trials = [
        {
            "ratio": 0.5,
            "reached": 0.491,
            "search_accuracy": 0.9441,
            "drop": 0.0031,
            "drop_se": 0.0021,
            "accepted": False,
        },
        {"ratio": 0.7, "reached": 0.69, "search_accuracy": 0.9475, "drop": -0.0004, "drop_se": 0.002, "accepted": True},
        {"ratio": 0.6, "reached": 0.6, "search_accuracy": 0.947, "drop": 0.00001, "drop_se": 0.002, "accepted": False},
    ]
    trials[1]["kept"] = True
    result = make_result()
    result["search"]["max_drop_trials"] = trials
    config = parse_config({"target": {"metric": "latency", "max_drop": 0.0}}, where="test")
    run_dir = make_run(tmp_path, episodes=0, config=config, result=result)
    for number in (1, 2, 3):
        add_episodes(run_dir, [({"stem": 10 * number}, -0.1 / number)] * number, searcher=f"ddpg, trial {number}")
    page = report_of(run_dir)
    assert "Target met least latency at which the search split's accuracy falls by at most 0 points;" in page.text
    assert "reached 0.47 of the original, −0.04 points lost there" in page.text
    assert "1 0.500 0.491 94.41% 0.31 ± 0.21 loses too much 2 0.700" in page.text
    assert "2 0.700 0.690 94.75% −0.04 ± 0.20 holds (the result)" in page.text
    assert "3 0.600 0.600 94.70% 0.00 ± 0.20 loses too much" in page.text
    assert "2 episodes, 1 different policy." in page.text
    assert unmet_drop(parse_result(result, where="result")) is None


def test_a_run_that_found_no_cut_within_the_drop_says_what_is_lost() -> None:
    result = make_result(target_met=False)
    assert unmet_drop(parse_result(result, where="result")) is None
    trial = {"ratio": 0.5, "reached": 0.5, "search_accuracy": 0.9, "drop": 0.0104, "drop_se": 0.002, "accepted": False}
    result["search"]["max_drop_trials"] = [trial | {"kept": True}]
    said = unmet_drop(parse_result(result, where="result"))
    assert said is not None
    assert said.startswith("no trial stays within target.max_drop on the search split;")
    assert said.endswith("1.04 points lost")


def test_optional_figures_are_shown_when_they_are_there(tmp_path: Path) -> None:
    result = make_result() | {"adaptive": ADAPTIVE | {"more": 1}}
    result["search"] |= {"proxy_rank_correlation": 0.934, "proxy_candidates": 8}
    del result["environment"]
    text = report_of(make_run(tmp_path, result=result)).text
    assert "with that after a little fine-tuning, over its 8 best candidates: 0.93." in text
    assert (
        "Test accuracy 93.00% (−0.62 points), mean latency 0.200 ms: 0.40 of the original's, and 0.80 of that of the "
        "fastest static model whose accuracy cannot be told from it (pruned, 93.00%). Share of inputs by level, "
        "smallest first: 70%, 20%, 10%. adaptive.html has more." in text
    )
    assert "No environment was recorded." in text


def test_a_target_that_costs_the_accuracy_is_not_shown_as_good(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path, result=make_result(pruned_accuracy=0.5522)))
    assert "! Target met, accuracy lost" in page.text
    assert "✓" not in page.text


def test_calls_at_the_slow_end_that_take_longer_are_said(tmp_path: Path) -> None:
    result = make_result()
    result["pruned"]["latency_ms_p95"] = 0.72
    text = report_of(make_run(tmp_path, result=result)).text
    assert "One call in twenty takes longer than the original's: p95 is 0.720 ms, and was 0.660 ms." in text
    assert slow_calls(parse_result(make_result(), where="result")) is None


@pytest.mark.parametrize(
    ("low", "high", "meaning"),
    [
        (-0.0051, -0.0011, "the pruned model is less accurate"),
        (-0.0051, 0.0, "the two cannot be told apart, and a loss of up to 0.51 points is not excluded"),
        (-0.004, 0.002, "the two cannot be told apart, and a loss of up to 0.40 points is not excluded"),
        (0.0, 0.002, "the two cannot be told apart"),
        (0.001, 0.002, "the pruned model is more accurate"),
    ],
)
def test_accuracies_have_their_intervals(low: float, high: float, meaning: str, tmp_path: Path) -> None:
    result = make_result() | {
        "accuracy": {
            "images": 10_000,
            "original_ci95": [0.931, 0.941],
            "pruned_ci95": [0.928, 0.938],
            "change": -0.0031,
            "change_ci95": [low, high],
        }
    }
    text = report_of(make_run(tmp_path, result=result)).text
    assert "On these 10,000 test images the accuracy changes by −0.31 points (95% interval: " in text
    assert f"): {meaning}." in text
    assert "its 95% interval 93.1–94.1% 92.8–93.8%" in text


def test_a_branch_that_is_gone_is_explained(tmp_path: Path) -> None:
    groups = GROUPS | {"layer3.0.conv1": (0, 64)}
    text = report_of(make_run(tmp_path, groups=groups)).text
    assert "A group that is gone kept none: the branch that it lived in" in text
    assert "layer3.0.conv1 64 gone 0%" in text
    assert "0 / 64" not in text
    assert "A group that is gone" not in report_of(make_run(tmp_path / "whole")).text


def test_fine_tuning_has_its_frame(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    TrialStore(run_dir / "trials.sqlite").keep(FRAME, FinetuneFrame(0.95, 0.6, 12))
    page = report_of(run_dir)
    assert "3 epochs of 12: its time was over, and more may help; the weights" in page.text
    assert "Epoch 0 is the cut before any training, on the whole search split." in page.text
    assert {"pruned", "original"} <= set(page.texts)


def test_the_original_stands_among_the_trials(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    assert "original" not in report_of(run_dir).texts
    TrialStore(run_dir / "trials.sqlite").keep(ORIGINAL, OriginalPoint(0.7, 0.95))
    assert "original" in report_of(run_dir).texts


def test_the_code_on_a_page_runs(tmp_path: Path) -> None:
    """It is run as it stands, beside a file that a run would have exported."""
    info = DataInfo("test", ("a", "b"), 1, 8, 8, mean=(0.25,), std=(0.5,))
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    export_onnx(net, tmp_path / "export" / "model.onnx", info)
    given = {"shape": [1, 8, 8], "mean": [0.25], "std": [0.5], "classes": ["a", "b"]}
    run_dir = make_run(tmp_path, result=make_result() | {"input": given})
    assert "Load it and run it" in report_of(run_dir).text
    [code] = re.findall(r"<pre>(import .*?)</pre>", (run_dir / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    code = html.unescape(code)
    assert code.count("\n") == 5
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(logits.shape, float(logits[0, 0]))"],
        cwd=run_dir,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with torch.no_grad():
        expected = float(net(torch.full((1, 1, 8, 8), -0.5))[0, 0])
    assert shown.startswith("(1, 2) ")
    assert float(shown.split()[2]) == pytest.approx(expected, abs=1e-5)


def test_an_adaptive_page_says_what_its_headline_leaves_out() -> None:
    figures = RouteFigures(
        test_accuracy=0.93,
        latency_ms_mean=1.0,
        latency_ms_p50=1.0,
        latency_ms_p95=1.1,
        latency_ms_max=2.0,
        energy_mj=1.0,
        energy_source="estimated",
    )
    result = AdaptiveResult.model_construct(
        original=figures,
        adaptive=figures.model_copy(update={"latency_ms_mean": 0.4, "latency_ms_p95": 1.3}),
        latency_ratio=0.4,
        accuracy_change_ci95=(-0.002, 0.001),
        onnx_bytes=2_000_000,
        largest_level_onnx_bytes=1_000_000,
    )
    interval, slow, size = adaptive.caveats(result)
    assert "changes by −0.20 to +0.10 points (95% interval): the two cannot be told apart, and a loss of up" in interval
    assert slow == (
        "That is the mean; the hardest images take longer: one in twenty takes 1.300 ms or more (the original: "
        "1.100 ms), the slowest 2.000 ms (2.000 ms)."
    )
    assert size == "The file holds 2.00 MB, 2.00 times the largest level's."
    lost = result.model_copy(update={"adaptive": figures.model_copy(update={"test_accuracy": 0.9})})
    assert adaptive.headline(result) == "0.40 of the original's mean latency, ±0.00 points of test accuracy"
    assert adaptive.headline(lost) == "3.0 points of test accuracy lost: 0.40 of the mean latency"
    assert "take about as long: one in twenty" in adaptive.caveats(lost)[1]


def test_whatever_made_a_run_its_adaptive_model_is_told_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`autoprune apply` told nothing of it."""
    told: list[Path] = []
    monkeypatch.setattr(summary, "summarise_adaptive", told.append)
    summary.summarise(parse_result(make_result(), where="result"), tmp_path)
    assert not told
    summary.summarise(parse_result(make_result() | {"adaptive": ADAPTIVE}, where="result"), tmp_path)
    assert told == [tmp_path]
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html")] * 2


def test_energy_that_is_estimated_is_told_as_that() -> None:
    *_, row = comparison_rows(parse_result(make_result(), where="result"))
    assert (row.label, row.before, row.after, row.ratio) == (
        "Energy per inference (estimated)",
        "3.1 mJ",
        "1.55 mJ",
        "0.50",
    )


@pytest.mark.parametrize(
    ("speedup", "pruned_accuracy", "expected"),
    [
        (2.149, 0.9362, "2.1× faster, 38% of the parameters, ±0.0 points of test accuracy"),
        (1.02, 0.9411, "As fast as before, 38% of the parameters, +0.5 points of test accuracy"),
        (0.8, 0.9061, "3.0 points of test accuracy lost: 1.2× slower, 38% of the parameters"),
        (2.0, 0.5522, "38.4 points of test accuracy lost: 2.0× faster, 38% of the parameters"),
    ],
)
def test_headline_is_honest_in_every_direction(speedup: float, pruned_accuracy: float, expected: str) -> None:
    result = make_result(speedup=speedup, pruned_accuracy=pruned_accuracy)
    assert headline(parse_result(result, where="result")) == expected


def of_a_loss(pruned: float, *, is_share: bool = False) -> dict[str, Any]:
    """As `make_result`, of a task whose metric is better where it is lower; the original's is 0.05."""
    result = make_result() | {"metric": {"name": "miss", "higher_is_better": False, "is_share": is_share}}
    for figures, value in ((result["original"], 0.05), (result["pruned"], pruned)):
        figures |= {"test_accuracy": None, "test_metric": value}
    return result | {"accuracy": {
        "images": 100, "original_ci95": [0.04, 0.06], "pruned_ci95": [0.05, 0.08], "change": pruned - 0.05,
        "change_ci95": [-0.01, 0.02],
    }}  # fmt: skip


@pytest.mark.parametrize(
    ("pruned", "is_share", "expected"),
    [
        (0.04, False, "2.1× faster, 38% of the parameters, −0.010 (better) of test miss"),
        (0.06, False, "+0.010 (worse) of test miss: 2.1× faster, 38% of the parameters"),
        (0.053, True, "2.1× faster, 38% of the parameters, +0.3 points (worse) of test miss"),
        (0.09, True, "+4.0 points (worse) of test miss: 2.1× faster, 38% of the parameters"),
        (0.05, True, "2.1× faster, 38% of the parameters, ±0.0 points of test miss"),
    ],
)
def test_a_metric_of_which_lower_is_better_is_shown_as_it_is(
    pruned: float, is_share: bool, expected: str, tmp_path: Path
) -> None:
    result = of_a_loss(pruned, is_share=is_share)
    parsed = parse_result(result, where="result")
    assert headline(parsed) == expected
    assert verdict(parsed).text == ("! Target met, miss worse" if expected[0] == "+" else "✓ Target met")
    assert next(comparison_rows(parsed)).label == "Test miss, lower is better"
    logs = tuple(replace(log, search_accuracy=-0.06) for log in FINETUNE)
    page = report_of(make_run(tmp_path, result=result, finetune=logs)).text
    assert "images the miss changes by " in page
    assert "Miss on the search split" in page
    assert not re.search(r"Accuracy|test accuracy|accuracy (lost|changes)", page)
    record = read_run(tmp_path)
    charted = _charts(record)["finetune_accuracy"]
    assert f"miss on the search split{' (%)' if is_share else ''}, lower is better" in charted
    assert "−" not in charted.split("</desc>")[-1]  # no value is below 0


def test_a_trial_of_a_drop_shows_the_metric_as_it_is() -> None:
    drop = DropTrial(ratio=0.5, reached=0.5, search_accuracy=-0.06, drop=0.01, drop_se=0.0, accepted=True)
    metric = parse_result(of_a_loss(0.06, is_share=True), where="result").metric
    assert _drop_cells(drop, metric)[2] == "6.00%"


def test_summary_table_prints_before_after_and_ratio() -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(summary_table(parse_result(make_result(), where="result")))
    lines = [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in capture.get().splitlines()]
    assert "before after ratio" in lines
    assert "Test accuracy 93.62% 93.31% −0.31 points" in lines
    assert "Energy per inference (estimated) 3.1 mJ 1.55 mJ 0.50" in lines


def test_an_original_at_chance_is_told_in_result_report_and_terminal(tmp_path: Path) -> None:
    shape = {"shape": [1, 4, 4], "mean": [0.5], "std": [0.2], "classes": ["a", "b", "c"]}
    good = make_result() | {"input": shape}
    assert parse_result(good, where="result").warnings == ()
    poor = good | {"original": good["original"] | {"test_accuracy": 0.36}}
    parsed = parse_result(poor, where="result")
    (warning,) = parsed.as_json()["warnings"]
    assert warning.startswith("the original is right on 36.0% of the test images, hardly more than guessing among 3")
    assert warning[:70] in report_of(make_run(tmp_path, result=poor)).text
    console = Console(width=400, file=None)
    with console.capture() as capture:
        console.print(summary_table(parsed))
    assert f"warning: {warning}" in capture.get()


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "policy.json", "trials.sqlite"])
@pytest.mark.parametrize("content", [None, b"\x00\xffnot what it should be{"])
def test_a_missing_or_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    run_dir = make_run(tmp_path)
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(run_dir / name))):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()
    assert (run_dir / name).exists() == (content is not None)


def test_a_run_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such run directory"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"ratios": {"params": 0.5}}, "ratios.macs: Field required"),
        ({"original": make_result()["original"] | {"energy_source": "guessed"}}, "original.energy_source"),
        ({"original": make_result()["original"] | {"energy_source": None}}, "original.energy_source"),
        ({"pruned": make_result()["pruned"] | {"params": 0}}, "pruned.params"),
    ],
)
def test_a_result_that_breaks_the_schema_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run_dir = make_run(tmp_path, result=make_result() | change)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_report(run_dir)
    assert str(caught.value).startswith(str(run_dir / "result.json"))


@pytest.mark.parametrize("fact", ["finetune_log", "latency"])
def test_a_broken_fact_is_named(tmp_path: Path, fact: str) -> None:
    run_dir = make_run(tmp_path)
    TrialStore(run_dir / "trials.sqlite").keep(Kept(fact, TypeAdapter(list[dict[str, int]])), [{"epoch": 1}])
    with pytest.raises(InputError, match=f"trials.sqlite: table facts, row {fact!r}: value: "):
        write_report(run_dir)


def test_a_policy_that_keeps_more_than_there_was_is_refused(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    policy = read_json(run_dir / "policy.json")
    policy["groups"]["stem"]["of"] = 11
    write_json(run_dir / "policy.json", policy)
    with pytest.raises(InputError, match=r"policy.json: group stem keeps 12 of 11 channels"):
        write_report(run_dir)


def test_long_names_keep_both_ends() -> None:
    name = "backbone.encoder.stages.3.blocks.11.mlp.fc1"
    assert len(shorten(name)) == MAX_LABEL_CHARACTERS
    assert shorten(name) == "backbone.encode…cks.11.mlp.fc1"
    assert shorten("stem\n") == "stem\N{REPLACEMENT CHARACTER}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["a,b", "line\nbreak", "quo\"te's", "日本", "😀", "$x$", "<b>&amp;", "\x00\x1b[31m", " "]
)
def test_any_text_may_name_a_class_in_a_chart(name: str) -> None:
    one = ClassFigures(
        name=name, images=3, original_accuracy=0.5, adaptive_accuracy=0.5, latency_ms_mean=1.0, level_share=(1.0,)
    )
    drawn = "".join(ElementTree.fromstring(share_chart([one], (1.0,))).itertext())
    assert shorten(name).strip() in drawn

"""Comparisons of searchers: the figures by hand, and the command whole, on the toy and on a small real job."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from small_job import autoprune, done, started, wait_until_stopped, write_config

from autoprune.results.comparison import Final, Progress, Search, Spread, equal_time_s, reward_at, standings, verdicts
from autoprune.store.kept import Kept
from autoprune.store.trials import TrialStore


def search(
    searcher: str,
    seed: int,
    steps: list[tuple[float, float]],
    *,
    is_agent: bool = False,
    evaluations: int | None = None,
) -> Search:
    """`steps` are (elapsed seconds, best reward so far)."""
    curve = tuple(
        Progress(evaluations=number, elapsed_s=elapsed_s, best_reward=reward)
        for number, (elapsed_s, reward) in enumerate(steps, 1)
    )
    return Search(
        searcher=searcher,
        seed=seed,
        is_agent=is_agent,
        evaluations=len(steps) if evaluations is None else evaluations,
        wall_s=steps[-1][0],
        best_reward=steps[-1][1],
        best_top1=0.5,
        best_metric=None,
        predicted_latency_ratio=0.5,
        policy={"a": 1},
        curve=curve,
    )


AGENT = [
    search("ddpg", seed, [(1.0, -3.0), (2.0, -2.0), (6.0, last)], is_agent=True)
    for seed, last in ((0, -1.0), (1, -1.5))
]
CHANCE = [search("random", seed, [(0.5, -4.0), (1.0, -2.5), (2.0, last)]) for seed, last in ((0, -2.0), (1, -2.4))]
FEW = [search("uniform", 0, [(0.1, -5.0)])]


def final(test_accuracy: float, speedup: float = 2.0, *, on_views: float = 0.9) -> Final:
    return Final(
        test_accuracy=test_accuracy,
        search_views_accuracy=on_views,
        speedup=speedup,
        speedup_ci95=(1.9, 2.1),
        params_ratio=0.4,
    )


def test_equal_time_is_that_of_the_quickest_search_that_used_its_evaluations() -> None:
    searches = [*AGENT, *CHANCE, *FEW]
    assert equal_time_s(searches, max_evaluations=3) == 2.0
    assert equal_time_s(FEW, max_evaluations=3) == 0.1
    assert [reward_at(each, 2.0) for each in searches] == [-2.0, -2.0, -2.0, -2.4, -5.0]
    assert reward_at(AGENT[0], 0.9) is None


def test_standings_by_reward_by_hand() -> None:
    first, second, third = standings([*CHANCE, *FEW, *AGENT], [None] * 5, at_s=2.0)
    assert [standing.searcher for standing in (first, second, third)] == ["ddpg", "random", "uniform"]
    assert first.best_reward.mean == pytest.approx(-1.25)
    assert first.best_reward.std == pytest.approx(0.5 / 2**0.5)
    assert first.reward_at_equal_time == Spread(mean=-2.0, std=0.0)
    assert second.reward_at_equal_time == pytest.approx(Spread.of([-2.0, -2.4]))
    assert third.best_reward == Spread(mean=-5.0, std=0.0)
    assert (third.evaluations, first.test_accuracy, first.speedup) == (1, None, None)
    (early,) = standings(AGENT, [None, None], at_s=0.5)
    assert early.reward_at_equal_time is None


def test_the_final_accuracy_decides_where_there_is_one() -> None:
    searches = [*AGENT, *CHANCE]
    finals = [final(0.90), final(0.92, on_views=0.91), final(0.93, 2.2), final(0.935, 2.0)]
    ranked = standings(searches, finals, at_s=2.0)
    assert [standing.searcher for standing in ranked] == ["random", "ddpg"]
    assert ranked[0].speedup == pytest.approx(Spread.of([2.2, 2.0]))
    assert verdicts(ranked) == (
        "ddpg LOSES to random, the best that learns nothing, by 2.250 points of test accuracy; "
        "+0.500 points on the views of the search split",
    )


def test_verdicts_say_who_is_ahead_by_how_much_and_how_surely() -> None:
    assert verdicts(standings([*AGENT, *CHANCE], [None] * 4, at_s=2.0)) == (
        "ddpg ahead of random, the best that learns nothing, by 0.950 nats of reward",
    )
    near = [search("random", seed, [(1.0, reward)]) for seed, reward in ((0, -1.0), (1, -1.4))]
    assert verdicts(standings([*AGENT, *near], [None] * 4, at_s=1.0)) == (
        "ddpg LOSES to random, the best that learns nothing, by 0.050 nats of reward, within the spread of the seeds",
    )
    same = [search("random", 0, [(1.0, -1.25)])]
    assert verdicts(standings([*AGENT, *same], [None] * 3, at_s=1.0)) == (
        "ddpg level with random, the best that learns nothing",
    )
    assert verdicts(standings(AGENT, [None] * 2, at_s=1.0)) == ()


def test_the_toy_compared_whole(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    # In 60 evaluations the agent found the optimum with each of twelve seeds, random search with three of them.
    options = ("--seeds", "2", "-o", "search.max_evaluations=60", "--run-dir", folder)
    printed = done("compare", "toy", "--searchers", "ddpg,random,uniform", *options)
    assert printed.strip() == str(folder / "comparison.html")
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert [standing["searcher"] for standing in found["standings"]] == ["ddpg", "random", "uniform"]
    assert found["verdicts"][0].startswith("ddpg ahead of random")
    assert len(found["searches"]) == 6
    for each in found["searches"]:
        rewards = [step["best_reward"] for step in each["curve"]]
        assert rewards == sorted(rewards)
        assert rewards[-1] == each["best_reward"]
        assert each["curve"][-1]["evaluations"] == each["evaluations"] <= 60
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "ddpg ahead of random" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # it fetches nothing


def test_a_killed_comparison_goes_on_and_fine_tunes_its_winners(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", finetune={"epochs": 1})
    weights = tmp_path / "net.safetensors"
    done("train", config, "--out", weights)
    folder = tmp_path / "compared"
    command = ("compare", config, "-o", f"model.checkpoint={weights}", "--run-dir", folder)
    options = ("--searchers", "random,uniform", "--seeds", "2")

    with started(*command, *options, stops_at="fact:search random 0") as process:
        wait_until_stopped(process)
        process.kill()
        process.wait()
    stored = TrialStore(folder / "trials.sqlite").kept(Kept("search random 0", TypeAdapter(Search)))
    assert autoprune(*command, *options).returncode == 2  # there is work already
    done(*command, *options, "--resume")
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert stored is not None
    assert found["searches"][0] == stored.model_dump(mode="json")
    for each, measured in zip(found["searches"], found["finals"], strict=True):
        assert measured["test_accuracy"] > 0.5
        assert abs(measured["search_views_accuracy"] - measured["test_accuracy"]) < 0.1
        assert measured["params_ratio"] < 1
        assert each["searcher"] in ("random", "uniform")
    assert found["original_test_accuracy"] > 0.8
    assert not (folder / "state").exists()

    files = {file.name: file.stat().st_mtime_ns for file in (folder / "export").glob("*-1-epochs.onnx")}
    assert len(files) == len({(json.dumps(each["policy"]), each["seed"]) for each in found["searches"]})
    uniform = [
        measured
        for each, measured in zip(found["searches"], found["finals"], strict=True)
        if each["searcher"] == "uniform"
    ]
    assert len({each["speedup"] for each in uniform}) == 1  # one network, trained with two seeds
    done(*command, *options, "--resume")
    assert {file.name: file.stat().st_mtime_ns for file in (folder / "export").glob("*-1-epochs.onnx")} == files
    again = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert [each["test_accuracy"] for each in again["finals"]] == [each["test_accuracy"] for each in found["finals"]]


@pytest.mark.parametrize(
    ("names", "message"), [("ddpg,nobody", "unknown nobody; there are ddpg"), ("random,random", "each of them once")]
)
def test_names_that_are_no_searchers_are_refused(tmp_path: Path, names: str, message: str) -> None:
    finished = autoprune("compare", "toy", "--searchers", names, "--run-dir", tmp_path / "compared")
    assert finished.returncode == 2
    assert message in finished.stderr
    assert not (tmp_path / "compared").exists()

"""Runs that find the cheapest cut within `max_drop`, whole and killed, from the command line and from Python."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from problems_for_tests import ends
from small_job import HERE, autoprune, done, started, wait_for

import autoprune as package
from autoprune.config import AugmentConfig
from autoprune.config.file import load_config
from autoprune.data import DataInfo, ImageSplit, views
from autoprune.errors import ConfigError, TargetError
from autoprune.export.onnx_file import export_onnx
from autoprune.prediction.latency_model import LATENCY
from autoprune.results import kept
from autoprune.results.kept import VERDICT
from autoprune.results.max_drop import part_name
from autoprune.results.run import RunResult, parse_result
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.search.prepare import prepare
from autoprune.space.policy import load_policy
from autoprune.steps.final import FileJudge, target_met
from autoprune.steps.max_drop import cost_ratio, floor_ratio, problem_at
from autoprune.steps.subject import load_subject
from autoprune.store.trials import TrialStore
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.training.scores import Judge, merits_in_views

TRIALS = 4
NO_DROP = "target={metric: macs, max_drop: 0.0}"
# So little training that the deepest cuts of the small job's network lose accuracy.
LITTLE = ("search.repair=false", "search.min_keep=0.02", "finetune.epochs=2", "finetune.learning_rate=0.00001")


def options(*overrides: str) -> tuple[str, ...]:
    """Each key as it is said last."""
    last = {override.partition("=")[0]: override for override in overrides}
    return tuple(part for override in last.values() for part in ("-o", override))


SEARCH = ("search.agent=ddpg", "search.max_evaluations=6", f"search.max_drop_trials={TRIALS}")
OPTIONS = options(NO_DROP, *SEARCH, *LITTLE)


def rows(run_dir: Path, query: str) -> list[tuple[Any, ...]]:
    if not (run_dir / "trials.sqlite").is_file():
        return []
    with closing(sqlite3.connect(run_dir / "trials.sqlite", timeout=30)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # the table is just being made
            return []


def verdicts(run_dir: Path) -> int:
    return len(rows(run_dir, f"SELECT 1 FROM facts WHERE name LIKE '%: {VERDICT.name}'"))


def result_of(run_dir: Path) -> RunResult:
    return parse_result(json.loads((run_dir / "result.json").read_text()), where="result.json")


@pytest.fixture(scope="module")
def whole(small_config: Path) -> Path:
    run_dir = small_config.with_name("no-drop")
    printed = done("run", small_config, *OPTIONS, "--run-dir", run_dir, "--quiet")
    assert printed == f"{run_dir / 'report.html'}\n"
    return run_dir


def test_the_cheapest_trial_that_holds_is_the_result(whole: Path) -> None:
    result = result_of(whole)
    trials = result.search.max_drop_trials
    assert 1 < len(trials) <= TRIALS
    assert {trial.accepted for trial in trials} == {True, False}
    for trial in trials:
        assert trial.reached <= trial.ratio < 1
        assert trial.accepted == (trial.drop <= 0)
    kept = result.search.kept_trial
    assert kept is not None
    assert kept.accepted
    assert kept.reached == min(trial.reached for trial in trials if trial.accepted)
    assert [trial.kept for trial in trials].count(True) == 1
    # Twice in a row the limit is halved from what held, unless the floor is near.
    assert trials[0].ratio == 0.5
    assert trials[1].ratio == pytest.approx(trials[0].reached / 2)
    assert result.checks.target_met
    assert result.ratios.macs == pytest.approx(kept.reached)
    assert kept.reached < 1
    assert result.search.evaluations > 6  # of all searches; one has six at most


def test_the_files_are_those_of_the_trial_that_is_kept(whole: Path) -> None:
    """What `result.json` says of the search split, told again from the exported files."""
    result, config = result_of(whole), load_config(whole / "config.yaml")
    kept, data = result.search.kept_trial, load_subject(config).data
    assert kept is not None
    pruned = package.load_pruned(whole / "pruned", architecture=load_subject(config).model)
    assert Judge(data.search, data.info)(pruned) == kept.search_accuracy
    files = [whole / "export" / name for name in ("original.onnx", "model.onnx")]
    judge = FileJudge(data.info, files[0], OnnxRuntime())
    assert judge(files[1], data.search) == kept.search_accuracy
    shown = list(views(data.search.images, AugmentConfig(crop_padding=1, flip=True)))
    every = ImageSplit(torch.cat(shown), data.search.labels.repeat(len(shown)))
    original, exported = (judge(file, every) for file in files)
    assert original - exported == pytest.approx(kept.drop, abs=1.5 / len(every))  # an answer may be even
    channels = load_policy(whole / "policy.json").as_dict()
    assert all(pruned.get_submodule(name).weight.shape[0] == count for name, count in channels.items())
    assert not (whole / "state").exists()
    [(logs,)] = rows(whole, "SELECT value FROM facts WHERE name = 'finetune_log'")
    assert len(json.loads(logs)) == 2


def test_the_target_is_met_by_what_holds_and_costs_less(whole: Path) -> None:
    result, target = result_of(whole), load_config(whole / "config.yaml").target[0]
    cheaper, dearer = (result.original, result.pruned), (result.pruned, result.original)
    trials = tuple(trial.model_copy(update={"kept": not trial.accepted}) for trial in result.search.max_drop_trials)
    assert target_met(target, *cheaper, result.search)
    assert not target_met(target, *dearer, result.search)
    assert not target_met(target, result.original, result.original, result.search)
    assert not target_met(target, *cheaper, result.search.model_copy(update={"max_drop_trials": trials}))
    assert not target_met(target, *cheaper, result.search.model_copy(update={"max_drop_trials": ()}))


def test_each_search_is_noted_under_its_own_name(whole: Path) -> None:
    trials = result_of(whole).search.max_drop_trials
    names = {row[0] for row in rows(whole, "SELECT DISTINCT searcher FROM episodes")}
    assert names == {f"ddpg, trial {number}" for number in range(1, len(trials) + 1)}
    scored = rows(whole, "SELECT fingerprint, policy, look FROM trials")
    assert len(scored) == len(set(scored))
    assert {path.name for path in (whole / "logs").iterdir()} == {
        f"trial-{number}" for number in range(1, len(trials) + 1)
    }


def test_the_report_shows_the_trials_and_the_search_of_the_result(whole: Path) -> None:
    text = " ".join((whole / "report.html").read_text().split())
    trials = result_of(whole).search.max_drop_trials
    assert "Trials of how much can be cut" in text
    assert text.count("<td>loses too much</td>") == sum(not trial.accepted for trial in trials)
    assert text.count("<td>holds (the result)</td>") == 1
    assert "least macs at which the search split&#39;s accuracy falls by at most 0 points; reached" in text
    assert "The chosen policy is none of these trials" not in text
    number = [trial.kept for trial in trials].index(True) + 1
    [(episodes,)] = rows(whole, f"SELECT count(*) FROM episodes WHERE searcher LIKE '%, trial {number}'")
    assert f"{episodes} episode" in text


def test_a_run_killed_twice_ends_where_one_that_nothing_stopped_does(
    small_config: Path, whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    tunings = run_dir / "state" / "trial-2" / "state"
    run = ("run", small_config, *OPTIONS, "--run-dir", run_dir, "--quiet")
    with started(*run, stops_at="state:trial-2/state/*-finetune-0.pt") as process:
        wait_for(lambda: any(tunings.glob("*-finetune-0.pt")), process)
        process.kill()
        process.wait()
    assert verdicts(run_dir) == 1
    with started(*run, "--resume", stops_at=f"fact:{VERDICT.name}") as process:
        wait_for(lambda: verdicts(run_dir) == 2, process)
        process.kill()
        process.wait()
    assert not (run_dir / "result.json").exists()
    before = rows(run_dir, "SELECT * FROM trials ORDER BY id")
    judged = rows(
        run_dir, f"SELECT * FROM facts WHERE name LIKE '%: {VERDICT.name}' OR name LIKE '%: {kept.SEARCH.name}'"
    )

    done(*run, "--resume")
    assert rows(run_dir, "SELECT * FROM trials ORDER BY id")[: len(before)] == before
    assert set(judged) <= set(rows(run_dir, "SELECT * FROM facts"))
    ours, theirs = result_of(run_dir), result_of(whole)
    assert ours.search.max_drop_trials == theirs.search.max_drop_trials
    assert ours.search.evaluations == theirs.search.evaluations
    for name in ("policy.json", "pruned/structure.json", "pruned/model.safetensors", "agent/agent.onnx"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes(), name
    episodes = "SELECT searcher, seed, episode, policy, reward FROM episodes JOIN trials ON trials.id = trial_id"
    assert rows(run_dir, episodes) == rows(whole, episodes)
    finetune = "SELECT value FROM facts WHERE name = 'finetune_log'"
    assert rows(run_dir, finetune) == rows(whole, finetune)


def test_a_run_in_which_nothing_holds_says_so(small_config: Path, tmp_path: Path) -> None:
    """A second bound leaves so few weights that no trial can hold.

    The data have six classes: what a channel or two say of three is sometimes enough. How few weights there can be
    depends on the ladders, and so on the processor.
    """
    harder = ("model.checkpoint=null", f"data.name={HERE}:textures")
    config = load_config(small_config, [*harder, *LITTLE])
    subject = load_subject(config)
    problem = prepare(config, subject.model, subject.data).problem
    least = 1.02 * problem.predict(problem.floor_policy).params / problem.original_cost.params
    both = f"target=[{{metric: macs, max_drop: 0.0}}, {{metric: params, max_ratio: {least}}}]"
    arguments = options(both, *harder, *LITTLE, "search.max_drop_trials=2", "finetune.epochs=0")
    ended = autoprune("run", small_config, *arguments, "--run-dir", tmp_path / "run", "--quiet")
    assert ended.returncode == 0
    assert "no trial stays within target.max_drop on the search split" in " ".join(ended.stderr.split())
    result = result_of(tmp_path / "run")
    kept = result.search.kept_trial
    assert kept is not None
    assert kept.drop == min(trial.drop for trial in result.search.max_drop_trials) > 0
    assert not any(trial.accepted for trial in result.search.max_drop_trials)
    assert not result.checks.target_met
    assert result.ratios.macs < 1
    assert result.ratios.params <= least
    assert "Target missed" in (tmp_path / "run" / "report.html").read_text()


def test_a_policy_that_comes_back_is_not_fine_tuned_again(small_config: Path, tmp_path: Path) -> None:
    """With two widths for each of three groups, several limits have the same best policy."""
    few = options(NO_DROP, *LITTLE, "search.max_rungs=2", "search.max_drop_trials=6", "search.min_keep=0.01")
    done("run", small_config, *few, "-o", "search.agent=uniform", "--run-dir", tmp_path / "run", "--quiet")
    trials = result_of(tmp_path / "run").search.max_drop_trials
    tuned = {path.parent.name for path in (tmp_path / "run" / "logs").glob("*/finetune")}
    assert len(tuned) == len({trial.reached for trial in trials}) < len(trials)


def test_from_python(small_config: Path, tmp_path: Path) -> None:
    config = load_config(small_config, ["search.max_drop_trials=1", "finetune.epochs=1"])
    subject = load_subject(config)
    result = package.compress(
        subject.model,
        subject.data,
        test=subject.test,
        target={"metric": "params", "max_drop": 0.02},
        config=config,
        run_dir=tmp_path / "run",
    )
    kept = result.report.search.kept_trial
    assert kept is not None
    assert Judge(subject.data.search, subject.data.info)(result.model) == kept.search_accuracy
    assert result.report.checks.target_met == (kept.drop <= 0.02)
    assert result.report.ratios.params == pytest.approx(kept.reached)


@pytest.mark.parametrize("metric", ["latency", "macs"])
def test_limits_are_shares_of_the_originals_cost(small_config: Path, tmp_path: Path, metric: str) -> None:
    config = load_config(small_config, [f"target={{metric: {metric}, max_drop: 0.0}}"])
    target = config.drop_target
    assert target is not None
    subject, store = load_subject(config), TrialStore(tmp_path / "trials.sqlite")
    prepared = prepare(config.at_ratio(1.0), subject.model, subject.data, store=store)
    with pytest.raises(ConfigError, match=r"target\.max_drop: only `autoprune run`"):
        prepare(config, subject.model, subject.data)
    problem = prepared.problem
    floor = floor_ratio(problem, target)
    assert 0 < floor == cost_ratio(problem, ends(problem)[0], target) < 1
    known = (ends(problem)[0],)
    half = problem_at(prepared, config.at_ratio((1 + floor) / 2), store, known=known)
    (limit,) = half.limits
    assert (limit.metric, half.known) == (metric, (problem.floor_policy,))
    assert limit.max_value / problem.original_cost.of(limit.metric) == pytest.approx((1 + floor) / 2, rel=0.02)
    assert half.is_feasible(problem.floor_policy)
    assert not half.is_feasible(problem.full_policy)
    with pytest.raises(TargetError, match="is below the floor"):
        problem_at(prepared, config.at_ratio(0.9 * floor), store, known=())


def test_a_model_that_no_cut_makes_cheaper_is_refused(small_config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = options(NO_DROP, "search.min_keep=1")
    ended = autoprune("run", small_config, *arguments, "--run-dir", run_dir, "--quiet")
    assert ended.returncode == 2
    assert "target: no cut of this model has a lower macs" in ended.stderr
    assert not run_dir.exists()


def test_parts_of_a_store_share_scores_and_nothing_else(whole: Path) -> None:
    store = TrialStore(whole / "trials.sqlite")
    parts = [store.part(part_name(number)) for number in (1, 2)]
    episodes = [part.episodes() for part in parts]
    assert all(episodes)
    assert not {row.searcher for row in episodes[0]} & {row.searcher for row in episodes[1]}
    assert set(episodes[0]) | set(episodes[1]) <= set(store.episodes())
    assert parts[0].kept(VERDICT) == store.part("trial 1").kept(VERDICT) != parts[1].kept(VERDICT)
    assert parts[0].kept(LATENCY) is store.kept(VERDICT) is None
    assert store.kept(LATENCY) is not None
    assert parts[0].count() == store.count()


def test_right_answers_by_hand(tmp_path: Path) -> None:
    """A model whose logits are its two pixels: the larger one names the class."""
    images = torch.tensor([[3, 1], [1, 3], [2, 9], [9, 2]], dtype=torch.uint8).reshape(4, 1, 1, 2)
    split = ImageSplit(images, torch.tensor([0, 0, 1, 1]))
    info = DataInfo("hand", ("a", "b"), in_channels=1, height=1, width=2, mean=(0.0,), std=(1.0,))
    model = torch.nn.Flatten()
    assert Judge(split, info).each(model).values.tolist() == [True, False, True, False]
    assert Judge(split, info)(model) == 0.5
    augmentation = AugmentConfig(crop_padding=0, flip=True)
    mirrored = merits_in_views(model, split, augmentation, info, CLASSIFICATION, original=model)
    assert mirrored.tolist() == [[True, False, True, False], [False, True, False, True]]

    lopsided = ImageSplit(images[:3], torch.tensor([0, 0, 1]))
    export_onnx(model, tmp_path / "model.onnx", info)
    judge = FileJudge(info, tmp_path / "model.onnx", OnnxRuntime())
    assert judge(tmp_path / "model.onnx", lopsided) == pytest.approx(2 / 3)
    in_views = judge.in_views(tmp_path / "model.onnx", lopsided, augmentation)
    assert in_views == pytest.approx((2 / 3 + 1 / 3) / 2)

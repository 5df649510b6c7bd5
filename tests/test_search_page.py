"""The page of a search alone: of the toy, of what a tuner of NNI's proposed for it, and of models' searches."""

import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from rights_for_tests import as_nobody
from test_report import Page, add_episodes, make_run, report_of

from autoprune.cli.main import main
from autoprune.config import RunConfig
from autoprune.config.file import parse_config
from autoprune.config.unused import Job
from autoprune.errors import InputError
from autoprune.jobs.search import save_best, search
from autoprune.nni.proposals import Proposals
from autoprune.nni.space import parameters_of
from autoprune.reports.search import write_search_page
from autoprune.reports.words import told_proposals
from autoprune.results.kept import NNI_TRIALS, SEARCH, FinishedTrial
from autoprune.results.run import SearchFigures
from autoprune.search.prepare import ENVIRONMENT, ORIGINAL, OriginalPoint
from autoprune.search.toy import toy_problem
from autoprune.space.decision import Policy
from autoprune.space.policy import PruningPolicy, save_policy
from autoprune.steps.context import problem_of
from autoprune.store.kept import Kept
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore

TOY = parse_config({"problem": "toy", "search": {"agent": "random", "max_evaluations": 12}}, where="test")
BY_TPE = parse_config({"problem": "toy", "nni": {"tuner": "TPE"}}, where="test")
FLOOR, MIDDLE, FULL = (0, 0, 0, 0), (1, 1, 1, 1), (4, 4, 4, 4)  # that of all widths alone misses the target


def page_of(run_dir: Path) -> Page:
    return Page(write_search_page(run_dir).read_text(encoding="utf-8"))


def searched_by_nni(run_dir: Path, proposals: Sequence[Policy], *, ended_early: Sequence[int] = ()) -> Path:
    """What an experiment of NNI's on the toy leaves, each proposal a trial."""
    with problem_of(BY_TPE, RunDir(run_dir), Job("nni")) as (place, problem, _):
        desk = Proposals(problem, place.store, BY_TPE.nni.searcher, BY_TPE.seed, len(proposals))
        for number, proposed in enumerate(proposals):
            booking = desk.book(f"trial{number}", parameters_of(problem.decisions, proposed))
            score = problem.evaluate(booking.policy).score
            if number in ended_early:
                desk.leave(booking, score)
                desk.stopped_by_assessor(booking.trial)
            else:
                desk.finish(booking, score)
        save_best(problem, desk.result(wall_s=1.0).best, place)
    return run_dir


def model_search(run_dir: Path, config: RunConfig | None = None) -> Path:
    """As `autoprune search` leaves it, of the network of tests/test_report.py."""
    make_run(run_dir, finetune=(), config=config)
    (run_dir / "result.json").unlink()
    return run_dir


def test_a_search_of_the_toy(tmp_path: Path) -> None:
    best = search(TOY, tmp_path / "run", resume=False)
    page = page_of(tmp_path / "run")
    title = "the toy: latency at most 0.45 of the original"
    assert f"{title}, searched with random, seed 0 · autoprune" in page.texts
    assert f"autoprune · {title}" in page.text
    reward = f"{best.reward:.4f}".replace("-", "−")
    share = best.cost.predicted_latency_ms / toy_problem().original_cost.predicted_latency_ms
    assert (
        f"Best reward {reward} of 12 trials: accuracy {best.score.main[1].value:.2%} (the original: 90.91%) "
        f"at {share:.2f} of its predicted latency"
    ) in page.text
    assert "Nothing was fine-tuned, exported or timed yet." in page.text
    assert page.counts["svg"] == 4
    assert {"original", "chosen policy", "trial", "best so far"} <= set(page.texts)
    for name, kept in best.pruning.channels:
        assert re.search(rf"{name} \d+ {kept} \d+%", page.text)
    assert (
        "12 different policies. The toy has no model: top1 and latency are formulas. The reward is minus" in page.text
    )
    assert f"(chosen) {reward}" in page.text
    assert "proposal" not in page.texts
    assert "The toy has no model that a policy could be applied to." in page.text
    assert re.search(r"autoprune \S+ python \S+ torch \S+ onnxruntime \S+ runtime onnxruntime", page.text)
    assert all(reference.startswith("#") for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert not page.counts.keys() & {"script", "link", "img", "iframe"}


def test_what_a_tuner_proposed_beyond_the_target_is_told(tmp_path: Path) -> None:
    searched_by_nni(tmp_path / "run", [FLOOR, FULL, MIDDLE, FULL], ended_early=[2, 3])
    page = page_of(tmp_path / "run")
    assert "of 3 trials: " in page.text
    assert "searched with nni: TPE, seed 0" in page.text
    assert (
        "2 of 4 proposals of TPE, which knows no target, missed it and were brought within it (clipped); an assessor "
        "ended 2 trials early (stopped)."
    ) in page.text
    cells = dict(re.findall(r"(\d)(?: \(chosen\))? −\d\.\d+ \d+\.\d+% 0\.\d+ ms ([a-z ,]+|–)", page.text))
    assert {episode: note.strip() for episode, note in cells.items()} == {
        "1": "–",
        "2": "clipped",
        "3": "stopped",
    }


def trial(episode: int, *, was_clipped: bool, was_stopped: bool = False) -> FinishedTrial:
    return FinishedTrial(episode, PruningPolicy.of({"stem": 12}), 0, was_clipped, was_stopped)


@pytest.mark.parametrize(
    ("clipped", "stopped", "assessor", "told"),
    [
        (0, 0, None, "None of 3 proposals of GP, which knows no target, missed it"),
        (0, 0, "Medianstop",
         "None of 3 proposals of GP, which knows no target, missed it; Medianstop ended no trial early"),
        (1, 1, None,
         "1 of 3 proposals of GP, which knows no target, missed it and was brought within it (clipped); "
         "an assessor ended 1 trial early (stopped)"),
        (3, 2, "Curvefitting",
         "3 of 3 proposals of GP, which knows no target, missed it and were brought within it (clipped); "
         "Curvefitting ended 2 trials early (stopped)"),
    ],
)  # fmt: skip
def test_proposals_in_words(clipped: int, stopped: int, assessor: str | None, told: str) -> None:
    trials = [trial(number, was_clipped=number <= clipped, was_stopped=number <= stopped) for number in (1, 2, 3)]
    assert told_proposals(trials, "GP", assessor) == told


def test_a_finished_run_whose_search_was_of_nni_says_so(tmp_path: Path) -> None:
    config = parse_config({"nni": {"tuner": "TPE"}}, where="test")
    run_dir = make_run(tmp_path, config=config, episodes=0)
    add_episodes(run_dir, [({"stem": 4}, -0.3), ({"stem": 8}, -0.2)], searcher="nni: TPE", seed=0)
    trials = {"a": trial(1, was_clipped=True), "b": trial(2, was_clipped=False)}
    TrialStore(run_dir / "trials.sqlite").keep(NNI_TRIALS, trials)
    text = report_of(run_dir).text
    assert "1 of 2 proposals of TPE, which knows no target, missed it and was brought within it (clipped)" in text
    assert "predicted latency proposal 2 −0.2000 70.00% 0.080 ms – 1 −0.3000 60.00% 0.040 ms clipped" in text
    assert "dropped after fewer" not in text


def test_a_models_search_tells_how_to_go_on(tmp_path: Path) -> None:
    run_dir = model_search(tmp_path / "a search")
    store = TrialStore(run_dir / "trials.sqlite")
    store.keep(ORIGINAL, OriginalPoint(0.72, 0.95))
    store.keep(ENVIRONMENT, {"torch": "9.9"})
    page = page_of(run_dir)
    assert "resnet20 on fashion-mnist: latency at most 0.50 of the original" in page.text
    assert (
        "Best reward −0.1500 of 4 trials: accuracy 75.00% (the original: 95.00%) at 0.50 of its predicted latency"
        in page.text
    )
    assert "on at most 1,000 images of the search split" in page.text
    [command] = [text for text in page.texts if text.startswith("autoprune apply ")]
    assert shlex.split(command)[2:] == [
        f"{run_dir}/config.yaml",
        "--policy",
        f"{run_dir}/policy.json",
        "--run-dir",
        f"{run_dir}-applied",
    ]
    assert "is not the best trial's" not in page.text
    assert "torch 9.9" in page.text


def test_a_search_of_an_earlier_version_has_no_original(tmp_path: Path) -> None:
    page = page_of(model_search(tmp_path))
    assert "accuracy 75.00% at 0.360 ms as predicted" in page.text
    assert "original" not in page.texts
    assert "No environment was recorded." in page.text


def test_another_policy_than_the_best_trials_is_told(tmp_path: Path) -> None:
    run_dir = model_search(tmp_path)
    save_policy(run_dir / "policy.json", PruningPolicy.of({"stem": 3}), model="resnet20", original={"stem": 16})
    assert "The chosen policy, that of policy.json, is not the best trial's." in page_of(run_dir).text


def test_a_run_that_is_not_finished_goes_on(tmp_path: Path) -> None:
    run_dir = model_search(tmp_path)
    decided = SearchFigures(searcher="ddpg", evaluations=4, wall_s=1.0, seed=7)
    TrialStore(run_dir / "trials.sqlite").keep(SEARCH, decided)
    text = page_of(run_dir).text
    assert "or timed yet: the rest of the run is still to be done." in text
    assert "With the command that began this run, and --resume ." in text
    assert "autoprune apply" not in text


def test_targets_are_in_their_own_units(tmp_path: Path) -> None:
    targets = [
        {"metric": "latency", "max_value": 250, "unit": "us"},
        {"metric": "energy", "max_ratio": 0.4},
        {"metric": "params", "max_value": 200000, "unit": "count"},
    ]
    config = parse_config({"target": targets, "measure": {"allow_estimated_energy": True}}, where="test")
    told = "latency at most 250 us, energy (estimated) at most 0.40 of the original, params at most 200,000"
    assert told in page_of(model_search(tmp_path, config)).text


def test_the_command_writes_the_page_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = model_search(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run_dir)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{run_dir / 'search.html'}\n"
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize("name", ["config.yaml", "policy.json", "trials.sqlite"])
@pytest.mark.parametrize("content", [None, b"\x00\xffnot what it should be{"])
def test_a_missing_or_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    run_dir = model_search(tmp_path)
    (run_dir / name).unlink()
    if content is not None:
        (run_dir / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(run_dir / name))):
        write_search_page(run_dir)
    assert not (run_dir / "search.html").exists()
    assert (run_dir / name).exists() == (content is not None)


def test_a_search_that_is_not_over_and_one_without_trials_are_told(tmp_path: Path) -> None:
    run_dir = model_search(tmp_path / "stopped")
    (run_dir / "policy.json").unlink()
    with pytest.raises(InputError, match=r"policy.json: no such file: the search there is not over; go on with --res"):
        write_search_page(run_dir)
    make_run(tmp_path / "bare", episodes=0)
    with pytest.raises(InputError, match=r"trials.sqlite: holds no trial of a search"):
        write_search_page(tmp_path / "bare")


def test_broken_trials_of_nni_are_named(tmp_path: Path) -> None:
    run_dir = model_search(tmp_path)
    TrialStore(run_dir / "trials.sqlite").keep(Kept("nni_trials", TypeAdapter(list[int])), [1])
    with pytest.raises(InputError, match=r"trials.sqlite: table facts, row 'nni_trials': value: "):
        write_search_page(run_dir)


def test_a_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is not everyone's to read
        Path(folder).chmod(0o755)
        run_dir = model_search(Path(folder) / "run")
        run_dir.chmod(0o555)
        with as_nobody(), pytest.raises(SystemExit) as ended:
            main(["report", str(run_dir)])
        run_dir.chmod(0o755)
        said = capsys.readouterr().err
        assert ended.value.code == 1
        assert said.startswith(f"error: {run_dir}/")
        assert said.endswith(": Permission denied\n")
        assert said.count("\n") == 1

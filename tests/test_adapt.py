"""`autoprune adapt` from the command line on the small job: the files answer what the result says of them."""

import base64
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_job import autoprune, done, started, wait_for

from autoprune.adaptive.file.measurement import measure_by_image
from autoprune.adaptive.levels.choice import LEVELS, Candidates
from autoprune.adaptive.report.page import budget_rows, headline, read_adaptive
from autoprune.config import AugmentConfig
from autoprune.config.file import load_config
from autoprune.data import DataInfo, ImageSplit, load_test_split, normalise, views
from autoprune.errors import InputError
from autoprune.export.onnx_file import INPUT_NAME, OUTPUT_NAME
from autoprune.pruning.structure import load_pruned
from autoprune.results.run import parse_result
from autoprune.runtimes.onnxruntime import make_session
from autoprune.space.policy import load_policy
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore
from autoprune.training.scores import outputs_of

OPTIONS = (
    *("-o", "adaptive.max_ratios=[0.5, 0.8, 1.0]", "-o", "adaptive.max_levels=2", "-o", "adaptive.trial_epochs=1"),
    *("-o", "adaptive.router_rounds=2", "-o", "finetune.epochs=2"),
    *("-o", "search.min_keep=0.02"),
)


@pytest.fixture(scope="module")
def adapted(small_config: Path) -> Path:
    folder = small_config.with_name("adapted")
    done("adapt", small_config, *OPTIONS, "--run-dir", folder, "--quiet")
    return folder


def onnx_probabilities(file: Path, split: ImageSplit, info: DataInfo) -> np.ndarray:
    session = make_session(file, threads=1)
    logits = session.run([OUTPUT_NAME], {INPUT_NAME: normalise(split.images, info).numpy()})[0]
    return torch.from_numpy(logits).softmax(1).numpy()


def found_ratios(run_dir: RunDir) -> tuple[float, ...]:
    """The ratios under which policies of their own were found."""
    found = TrialStore(run_dir.trials).kept(LEVELS)
    assert found is not None
    return Candidates.of((0.5, 0.8, 1.0), found, {}).max_ratios


def test_the_result_is_what_the_files_do(adapted: Path, small_config: Path) -> None:
    run_dir = RunDir(adapted)
    result = read_adaptive(run_dir)
    config = load_config(small_config)
    test = load_test_split(config.data)
    info = load_subject(config).data.info
    original, adaptive = measure_by_image([run_dir.original_onnx, run_dir.adaptive_onnx], test, info, threads=1)
    labels = test.labels.numpy()
    assert result.original.test_accuracy == original.accuracy(labels)
    assert result.adaptive.test_accuracy == adaptive.accuracy(labels)
    assert result.level_share == tuple((np.bincount(adaptive.levels, minlength=2) / len(labels)).tolist())
    assert result.latency_ratio == result.adaptive.latency_ms_mean / result.original.latency_ms_mean
    assert result.adaptive.latency_ms_p50 <= result.adaptive.latency_ms_p95 <= result.adaptive.latency_ms_max
    # The level that answers is the level's own file's answer.
    single = measure_by_image([run_dir.level_onnx(0), run_dir.level_onnx(1)], test, info, threads=1)
    answers = np.stack([one.answers for one in single])
    assert np.array_equal(adaptive.answers, answers[adaptive.levels, np.arange(len(labels))])
    alone = [level.alone.test_accuracy for level in result.levels]
    assert alone == [one.accuracy(labels) for one in single]
    # The smaller level is nested in the larger one.
    small, large = (level.channels for level in result.levels)
    assert all(small[name] <= large[name] for name in large)
    assert small != large
    assert {point.router for point in result.curve_on_search} == {"cascade", "learned"}
    assert result.chosen_on_search in result.curve_on_search
    assert result.oracle_on_search.search_accuracy >= max(level.on_search.search_accuracy for level in result.levels)
    assert (result.agreement.images, result.agreement.different_answers) == (len(labels), 0)
    assert result.agreement.largest_logit_difference < 1e-4
    kept = result.mixtures[0].max_ratios if result.mixtures else found_ratios(run_dir)
    assert [level.is_original for level in result.levels] == [False, 1.0 in kept]
    assert set(result.decision_ms) == {"cascade", "learned"}
    assert all(0 <= value < original.latency_ms_mean for value in result.decision_ms.values())
    assert result.onnx_bytes == run_dir.adaptive_onnx.stat().st_size
    assert result.adaptive.energy_source == "estimated"
    for number, one in enumerate(result.classes):
        own = labels == number
        assert (one.name, one.images) == (info.classes[number], own.sum())
        assert one.adaptive_accuracy == (adaptive.answers[own] == number).mean()
        assert one.level_share == tuple((np.bincount(adaptive.levels[own], minlength=2) / own.sum()).tolist())


def test_evaluate_finds_what_the_result_says(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    run_dir = RunDir(adapted)
    result = read_adaptive(run_dir)
    files = (run_dir.original_onnx, run_dir.adaptive_onnx, run_dir.level_onnx(0))
    found = json.loads(done("evaluate", small_config, *files, "--json", "-", "--quiet"))
    assert (found["kind"], found["schema"], found["split"], found["images"]) == ("evaluation", 1, "test", 240)
    original, adaptive, small = found["files"]
    assert original["accuracy"] == result.original.test_accuracy
    assert adaptive["accuracy"] == result.adaptive.test_accuracy
    assert small["accuracy"] == result.levels[0].alone.test_accuracy
    assert tuple(adaptive["level_share"]) == result.level_share
    assert (original["level_share"], small["level_share"]) == (None, None)
    shown = done("evaluate", small_config, *files, "--split", "search", "--json", tmp_path / "found.json", "--quiet")
    assert "150 images of" in shown
    assert all(text in shown for text in ("adaptive.onnx", "mean latency", "answered by level", "change, points"))
    assert json.loads((tmp_path / "found.json").read_text())["split"] == "search"


def test_evaluate_refuses_what_does_not_fit(adapted: Path, small_config: Path) -> None:
    file = RunDir(adapted).original_onnx
    for arguments, message in (
        ((small_config, "nothing.onnx"), "nothing.onnx: no such file"),
        ((small_config, file, "--split", "train"), "--split train: must be test or search"),
        (("toy", file), "problem: toy has no images"),
        (("fashion_mnist_resnet20", file), "takes images of (1, 16, 16), fashion-mnist has (1, 28, 28)"),
    ):
        ended = autoprune("evaluate", *arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert message in ended.stderr


def test_routers_are_compared_on_the_test_split_at_points_chosen_on_the_search_split(
    adapted: Path, small_config: Path
) -> None:
    run_dir, config = RunDir(adapted), load_config(small_config)
    result = read_adaptive(run_dir)
    test, info = load_test_split(config.data), load_subject(config).data.info
    budgets = sorted({one.budget_ms for one in result.budgets})
    cheapest = min(point.estimated_latency_ms for point in result.curve_on_search)
    assert all(cheapest <= budget for budget in budgets)
    # Every accuracy lies between those of an answer that is never and one that is always right.
    answers = np.stack([onnx_probabilities(run_dir.level_onnx(level), test, info).argmax(1) for level in range(2)])
    right = answers == test.labels.numpy()
    for one in result.budgets:
        assert right.all(0).mean() <= one.test_accuracy <= right.any(0).mean()
    rows = budget_rows(result)
    assert [budget for budget, _, _ in rows] == [f"{budget:.3f} ms" for budget in budgets]
    assert all(cascade in run_dir.adaptive_report.read_text() for _, cascade, _ in rows)


def test_the_levels_are_the_best_mixture_of_those_tried(adapted: Path) -> None:
    result = read_adaptive(RunDir(adapted))
    tried = [mixture.max_ratios for mixture in result.mixtures]
    kept = found_ratios(RunDir(adapted))
    if len(kept) == 2:  # a noisy table of latencies: one policy under two ratios
        assert tried == []
        return
    assert sorted(tried) == [(0.5, 0.8), (0.5, 1.0), (0.8, 1.0)]
    best = result.mixtures[0]
    assert best.holds >= max(mixture.holds for mixture in result.mixtures)
    if best.holds:
        assert best.estimated_latency_ratio == min(m.estimated_latency_ratio for m in result.mixtures if m.holds)


def test_the_report_shows_what_was_measured_and_its_pictures(adapted: Path) -> None:
    run_dir = RunDir(adapted)
    result = read_adaptive(run_dir)
    page = run_dir.adaptive_report.read_text()
    assert headline(result) in html.unescape(page)
    for level in result.levels:
        assert f"{level.alone.latency_ms_mean:.3f} ms" in page
    examples = [*result.easy, *result.hard]
    assert examples
    for example in examples:
        encoded = base64.b64encode((run_dir.examples / example.picture).read_bytes()).decode()
        assert f"data:image/png;base64,{encoded}" in page
    assert "https://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    run_dir.adaptive_report.unlink()
    assert str(run_dir.adaptive_report) in done("report", adapted)
    assert run_dir.adaptive_report.read_text() == page


def test_a_picture_is_the_image_and_only_a_name(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(adapted, copied)
    result = json.loads((copied / "adaptive.json").read_text())
    test = load_test_split(load_config(small_config).data)
    first = result["easy"][0]["picture"]
    place = int(first.removesuffix(".png").rpartition("-")[2])
    assert np.array_equal(np.asarray(Image.open(copied / "examples" / first)), test.images[place, 0].numpy())
    (tmp_path / "secret.png").write_bytes(b"not to be shown")
    result["easy"][0]["picture"] = "../../secret.png"
    (copied / "adaptive.json").write_text(json.dumps(result))
    ended = autoprune("report", copied)
    assert ended.returncode == 2
    assert "secret.png: cannot be read" in " ".join(ended.stderr.split())


def test_a_finished_one_is_read_back_and_another_configuration_refused(adapted: Path, small_config: Path) -> None:
    before = (adapted / "adaptive.json").read_bytes()
    again = done("adapt", small_config, *OPTIONS, "--run-dir", adapted, "--resume", "--quiet")
    assert str(adapted / "adaptive.html") in again
    assert (adapted / "adaptive.json").read_bytes() == before
    other = autoprune("adapt", small_config, "--run-dir", adapted, "--resume")
    assert other.returncode == 2
    assert "the run there has another configuration" in " ".join(other.stderr.split())


def test_a_killed_one_goes_on_to_the_same_levels(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = ("adapt", small_config, *OPTIONS, "--run-dir", folder, "--quiet")
    with started(*arguments) as process:
        wait_for(lambda: (folder / "state" / "levels.pt").is_file(), process)
        process.kill()
    done(*arguments, "--resume")
    whole, resumed = (json.loads((one / "adaptive.json").read_text()) for one in (adapted, folder))
    assert whole["mixtures"] == resumed["mixtures"]
    for key in ("channels", "on_search"):
        values = [[level[key] for level in one["levels"]] for one in (whole, resumed)]
        for levels in values:
            for level in levels:
                level.pop("estimated_latency_ms", None)  # measured anew
        assert values[0] == values[1]


def test_another_operating_point_starts_from_the_levels_of_an_earlier_run(
    adapted: Path, small_config: Path, tmp_path: Path
) -> None:
    """Nothing is searched or trained: the levels are the same to the last bit, and faster ones may lose more."""
    folder = tmp_path / "faster"
    options = ("-o", f"adaptive.levels_from={adapted}", "-o", "adaptive.max_drop=0.9")
    done("adapt", small_config, *OPTIONS, *options, "--run-dir", folder, "--quiet")
    before, after = read_adaptive(RunDir(adapted)), read_adaptive(RunDir(folder))
    assert [level.channels for level in after.levels] == [level.channels for level in before.levels]
    assert [level.alone.test_accuracy for level in after.levels] == [
        level.alone.test_accuracy for level in before.levels
    ]
    weights = [RunDir(root).level(0) / "model.safetensors" for root in (adapted, folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert after.level_share[0] == 1.0
    assert after.agreement.different_answers == 0
    assert TrialStore(RunDir(folder).trials).kept(LEVELS) is None
    third = tmp_path / "third"  # from a run that has taken its levels over itself
    done("adapt", small_config, *OPTIONS, "-o", f"adaptive.levels_from={folder}", "--run-dir", third, "--quiet")
    assert read_adaptive(RunDir(third)).agreement.different_answers == 0


def test_levels_to_start_from_that_do_not_fit_are_refused_before_any_work(
    adapted: Path, small_config: Path, tmp_path: Path
) -> None:
    incomplete = tmp_path / "incomplete"
    shutil.copytree(adapted, incomplete)
    shutil.rmtree(incomplete / "levels")
    for start, options, message in (
        (tmp_path / "nowhere", (), "no finished run with levels"),
        (incomplete, (), "adaptive.json or levels/0 is missing"),
        (adapted, ("-o", "model.width=0.5"), "the run there has another model"),
        (adapted, ("-o", "data.search_images=90"), "the run there has another data"),
    ):
        arguments = (*OPTIONS, *options, "-o", f"adaptive.levels_from={start}", "--run-dir", tmp_path / "run")
        ended = autoprune("adapt", small_config, *arguments)
        assert ended.returncode == 2
        assert message in " ".join(ended.stderr.split())
        assert not (tmp_path / "run").exists()


def test_accuracies_on_the_search_split_are_over_ten_views_of_its_images(adapted: Path, small_config: Path) -> None:
    """Moved by a pixel, half of the padding (1), and mirrored; counted on the exported files."""
    result, config = read_adaptive(RunDir(adapted)), load_config(small_config)
    data = load_subject(config).data
    labels, images = data.search.labels, data.search.images
    shown = list(views(images, AugmentConfig(crop_padding=1, flip=True)))
    assert len(shown) == 10
    every = ImageSplit(torch.cat(shown), labels.repeat(10))
    for file, point in (
        (RunDir(adapted).original_onnx, result.original_on_search),
        *((RunDir(adapted).level_onnx(place), level.on_search) for place, level in enumerate(result.levels)),
    ):
        right = onnx_probabilities(file, every, data.info).argmax(1) == every.labels.numpy()
        assert point.search_accuracy == pytest.approx(right.mean(), abs=1.5 / len(every))  # an answer may be even


def test_a_kept_level_is_what_its_file_answers(adapted: Path, small_config: Path) -> None:
    config = load_config(small_config)
    subject = load_subject(config)
    level = load_pruned(RunDir(adapted).level(0), architecture=subject.model)
    test = load_test_split(config.data)
    expected = onnx_probabilities(RunDir(adapted).level_onnx(0), test, subject.data.info)
    found = outputs_of(level, test, subject.data.info).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bad_levels_are_refused_before_any_work(small_config: Path, tmp_path: Path) -> None:
    for ratios in ("[0.5]", "[0.6, 0.2]", "[0.5, 1.5]", "[0.5, 0.5]"):
        ended = autoprune("adapt", small_config, "-o", f"adaptive.max_ratios={ratios}", "--run-dir", tmp_path / "run")
        assert ended.returncode == 2
        assert "adaptive.max_ratios: must be 2 to 8 shares" in " ".join(ended.stderr.split())
    ended = autoprune("adapt", small_config, "-o", "adaptive.max_ratios=[0.0001, 1.0]", "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "is below the floor" in " ".join(ended.stderr.split())
    ended = autoprune("adapt", small_config, "-o", "model.checkpoint=null", "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "levels are taught by a trained model" in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_run_makes_one_beside_its_pruned_model(small_config: Path) -> None:
    folder = small_config.with_name("run-adaptive")
    options = (*OPTIONS[2:], *("-o", "adaptive.enabled=true", "-o", "search.agent=ddpg"))  # of other levels
    options += ("-o", "adaptive.max_ratios=[0.8, 1.0]")
    shown = " ".join(done("run", small_config, *options, "--run-dir", folder, "--quiet").split())
    assert shown.index("report.html") < shown.index("adaptive.html")
    result = parse_result(json.loads((folder / "result.json").read_text()), where="here")
    adaptive = read_adaptive(RunDir(folder))
    assert result.adaptive == adaptive.summary
    # Where the pruned model takes longer than the smaller level, it may be a level between that and the original.
    policy = load_policy(folder / "policy.json").as_dict()
    if adaptive.mixtures:
        assert len(adaptive.mixtures) == 4  # of three: each two of them, and all
        assert all(
            0.8 < max(set(mixture.max_ratios) - {1.0}) < 1.0 or 0.8 in mixture.max_ratios
            for mixture in adaptive.mixtures
        )
    assert all((level.channels == policy) == level.is_pruned for level in adaptive.levels)
    assert json.loads((folder / "agent" / "agent.json").read_text())["training"]["target"].startswith(
        "macs <= "
    )  # the run's own
    assert adaptive.pruned is not None
    assert adaptive.pruned.test_accuracy == result.pruned.test_accuracy
    assert adaptive.original.test_accuracy == result.original.test_accuracy
    run_dir = RunDir(folder)
    for place, level in enumerate(adaptive.levels):  # those that were there already are levels as they are
        if level.is_original:
            assert run_dir.level_onnx(place).read_bytes() == run_dir.original_onnx.read_bytes()
            assert level.alone.test_accuracy == adaptive.original.test_accuracy
        if level.is_pruned:
            assert run_dir.level_onnx(place).read_bytes() == run_dir.model_onnx.read_bytes()
            assert level.alone == adaptive.pruned
        assert level.is_original != (run_dir.level(place) / "structure.json").is_file()
    before = (folder / "adaptive.json").read_bytes()
    (folder / "result.json").unlink()  # as if it had been stopped between the two
    done("run", small_config, *options, "--run-dir", folder, "--resume", "--quiet")
    assert (folder / "adaptive.json").read_bytes() == before
    assert parse_result(json.loads((folder / "result.json").read_text()), where="here").adaptive == adaptive.summary


def test_a_run_refuses_levels_below_the_floor_before_it_searches(small_config: Path, tmp_path: Path) -> None:
    options = ("-o", "adaptive.enabled=true", "-o", "adaptive.max_ratios=[0.0001, 1.0]")
    ended = autoprune("run", small_config, *options, "--run-dir", tmp_path / "run")
    assert ended.returncode == 2
    assert "is below the floor" in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_result_that_is_none_is_refused(adapted: Path, small_config: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(adapted, copied)
    (copied / "adaptive.json").write_text("{}")
    ended = autoprune("adapt", small_config, *OPTIONS, "--run-dir", copied, "--resume")
    assert ended.returncode == 2
    assert "not an adaptive result of schema 3" in " ".join(ended.stderr.split())
    (copied / "adaptive.json").write_text("[]")
    with pytest.raises(InputError, match="not an adaptive result"):
        read_adaptive(RunDir(copied))

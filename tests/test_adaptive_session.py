"""Adaptive sessions: batches are answered as image by image, budgets are held, and bad input is an error."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from levels_for_tests import IMAGES
from models_for_tests import images_for
from routing_for_tests import answers_by_chance

from autoprune.adaptive.calibration import calibrations
from autoprune.adaptive.export import CALIBRATION_KEY, LEVEL_NAME, export_adaptive
from autoprune.adaptive.levels import Levels
from autoprune.adaptive.routing import LevelAnswers, by_confidence, follow, priced
from autoprune.adaptive.session import AdaptiveSession
from autoprune.errors import InputError
from autoprune.export.onnx_file import OUTPUT_NAME
from autoprune.measure.latency import make_session
from autoprune.policies.router import LearnedRouter, RouterSettings, train_router
from autoprune.policies.router_graph import CascadeNodes, LearnedNodes


@pytest.fixture(scope="module")
def router(level_answers: LevelAnswers) -> LearnedRouter:
    return train_router(
        answers_by_chance(400, seed=0),
        answers_by_chance(200, seed=1),
        seed=0,
        settings=RouterSettings(rounds=4, steps=30),
    )


@pytest.fixture(scope="module")
def adaptive(
    random_levels: Levels,
    level_files: list[Path],
    level_answers: LevelAnswers,
    router: LearnedRouter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A file whose default price sends the test's images to several levels."""
    price = next(
        float(price)
        for price in np.linspace(0.0, router.max_price, 40)
        if len(set(follow(router.at_price(float(price)), level_answers).final.tolist())) > 1
    )
    path = tmp_path_factory.mktemp("adaptive") / "adaptive.onnx"
    found = calibrations(follow(router.at_price(price), level_answers), level_answers)
    export_adaptive(level_files, LearnedNodes(router, price), path, cuts=random_levels.layer_cuts, calibration=found)
    return path


def all_images() -> np.ndarray:  # type: ignore[type-arg]
    return images_for("resnet20", IMAGES).numpy()


@pytest.mark.parametrize("batch", [1, 7, IMAGES])
def test_batches_are_answered_as_the_file_answers_image_by_image(adaptive: Path, batch: int) -> None:
    images = all_images()
    session = AdaptiveSession(adaptive)
    plain = make_session(adaptive, threads=1)
    singles = [plain.run([OUTPUT_NAME, LEVEL_NAME], {"images": image[None]}) for image in images]
    logits, levels_that_ran = [], []
    for start in range(0, IMAGES, batch):
        found = session.run(images[start : start + batch])
        logits.append(found.logits)
        levels_that_ran += found.levels.tolist()
    assert levels_that_ran == [int(single[1][0]) for single in singles]
    assert len(set(levels_that_ran)) > 1
    assert np.abs(np.concatenate(logits) - np.concatenate([single[0] for single in singles])).max() < 1e-3
    counted = session.counters
    assert counted.images == IMAGES
    assert counted.answered == tuple(np.bincount(levels_that_ran, minlength=3).tolist())
    assert counted.ran[0] == IMAGES
    assert all(ran >= answered for ran, answered in zip(counted.ran, counted.answered, strict=True))
    assert counted.latency_ms_mean > 0


def test_a_cascade_works_as_well_and_its_thresholds_move_with_the_price(
    level_files: list[Path], level_answers: LevelAnswers, tmp_path: Path
) -> None:
    path = tmp_path / "cascade.onnx"
    confidence = level_answers.probabilities[0].max(1)
    threshold = float(np.quantile(confidence, 0.4))
    export_adaptive(level_files[:2], CascadeNodes((threshold,)), path)
    for price in (None, 0.0, 0.3, 0.5, 0.7, 1.0, 9.0):
        expected = confidence < priced(threshold, 0.5 if price is None else price)
        assert AdaptiveSession(path, price=price).run(all_images()).levels.tolist() == expected.tolist()
    session = AdaptiveSession(path, latency_budget_ms=1000.0)
    session.run(all_images())
    assert session.price < 0.5


def test_the_price_goes_up_while_images_take_longer_than_the_budget_and_down_again(adaptive: Path) -> None:
    """A budget of ages, then one of next to nothing: set after opening, as no such budget can be asked for."""
    session = AdaptiveSession(adaptive, price=0.05, latency_budget_ms=1000.0)
    for _ in range(3):
        session.run(all_images())
    assert session.price < 0.05
    low = session.price
    session.latency_budget_ms = 1e-6
    for _ in range(60):
        session.run(all_images())
    assert session.price == session.max_price > low
    # At the highest price no more images run a larger level than at the lowest.
    dear, cheap = (AdaptiveSession(adaptive, price=price).run(all_images()).levels for price in (session.max_price, 0))
    assert dear.sum() <= cheap.sum()


def test_threads_share_a_session(adaptive: Path) -> None:
    session = AdaptiveSession(adaptive)
    expected = AdaptiveSession(adaptive).run(all_images()).levels.tolist()
    found: list[list[int]] = []

    def work() -> None:
        found.extend(session.run(all_images()).levels.tolist() for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 20
    assert session.counters.images == 20 * IMAGES


@pytest.fixture
def cascade(level_files: list[Path], level_answers: LevelAnswers, tmp_path: Path) -> Path:
    """Two levels; a half of the test's images run both."""
    path = tmp_path / "cascade.onnx"
    threshold = float(np.quantile(level_answers.probabilities[0].max(1), 0.5))
    named = level_answers.probabilities[0].argmax(1)
    labels = np.where(np.arange(IMAGES) % 5 == 0, (named + 1) % 4, named)  # a fifth of the smaller level's are wrong
    two = replace(level_answers, labels=labels).of_levels((0, 1))
    found = calibrations(follow(by_confidence((threshold,)), two), two)
    export_adaptive(level_files[:2], CascadeNodes((threshold,)), path, calibration=found)
    return path


def test_labels_that_arrive_later_move_images_to_larger_levels_or_back(cascade: Path) -> None:
    images, session = all_images(), AdaptiveSession(cascade)
    before = session.run(images)
    assert session.worth_of_going_on == (1.0, 1.0)
    for _ in range(20):
        session.learn(before, (before.logits.argmax(1) + 1) % 4)  # all of them wrong
    assert session.worth_of_going_on[0] > 1.2
    assert session.run(images).levels.sum() > before.levels.sum()
    for _ in range(200):
        session.learn(before, before.logits.argmax(1))  # all of them right after all
    assert session.worth_of_going_on[0] < 0.5
    assert session.run(images).levels.sum() < before.levels.sum()


def test_images_without_a_label_teach_nothing(cascade: Path) -> None:
    session = AdaptiveSession(cascade)
    found = session.run(all_images())
    session.learn(found, np.full(IMAGES, -1))
    assert session.worth_of_going_on == pytest.approx((1.0, 1.0))


def test_labels_that_do_not_fit_are_errors(cascade: Path, level_files: list[Path], tmp_path: Path) -> None:
    session = AdaptiveSession(cascade)
    found = session.run(all_images())
    for labels, message in (
        (np.zeros(IMAGES - 1, dtype=np.int64), "must be 60 whole numbers"),
        (np.zeros(IMAGES), "must be 60 whole numbers, got float64"),
        (np.full(IMAGES, 4), "must be -1 to 3, got 4 to 4"),
        (np.full(IMAGES, -2), "must be -1 to 3, got -2 to -2"),
    ):
        with pytest.raises(InputError, match=message):
            session.learn(found, labels)
    assert session.worth_of_going_on == (1.0, 1.0)
    silent = tmp_path / "silent.onnx"
    export_adaptive(level_files[:2], CascadeNodes((0.5,)), silent)
    with pytest.raises(InputError, match="says nothing of its levels' calibration"):
        AdaptiveSession(silent).learn(found, np.zeros(IMAGES, dtype=np.int64))
    lying = onnx.load(str(cascade))
    for text, message in (
        ("[1]", "are not the four shares"),
        ("{", "cannot be read"),
        ("[[0.1, 0.2, 0.3, 0.4]]", "of 1 levels and holds 2"),
    ):
        next(entry for entry in lying.metadata_props if entry.key == CALIBRATION_KEY).value = text
        onnx.save(lying, str(silent))
        with pytest.raises(InputError, match=message):
            AdaptiveSession(silent)


def test_bad_images_are_errors_and_nothing_is_counted(adaptive: Path) -> None:
    session = AdaptiveSession(adaptive)
    good = all_images()
    spoilt = good.copy()
    spoilt[3, 0, 0, 0] = np.nan
    for images, message in (
        (spoilt, "not finite"),
        (good[:0], "N of at least 1, got none"),
        (good[:, :, :4], r"got \(60, 1, 4, 8\)"),
        (good[0], r"got \(1, 8, 8\)"),
        (good.astype(np.float64), "got float64"),
        (good.tolist(), "got list"),
    ):
        with pytest.raises(InputError, match=message):
            session.run(images)
    assert session.counters.images == 0
    assert session.run(good).levels.shape == (IMAGES,)


def test_budgets_and_prices_that_cannot_be_are_refused(adaptive: Path) -> None:
    with pytest.raises(InputError, match="below what the smallest level takes here for one image"):
        AdaptiveSession(adaptive, latency_budget_ms=1e-6)
    with pytest.raises(InputError, match="price: must not be negative"):
        AdaptiveSession(adaptive, price=-0.1)


def test_files_that_are_no_adaptive_model_are_refused(level_files: list[Path], adaptive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx: no such file"):
        AdaptiveSession(tmp_path / "missing.onnx")
    with pytest.raises(InputError, match="no adaptive model; make one with `autoprune adapt`"):
        AdaptiveSession(level_files[0])
    cut_short = tmp_path / "short.onnx"
    cut_short.write_bytes(adaptive.read_bytes()[:1000])
    with pytest.raises(InputError, match="not an ONNX model"):
        AdaptiveSession(cut_short)
    lying = tmp_path / "lying.onnx"
    shutil.copy(adaptive, lying)
    model = onnx.load(str(lying))
    for entry in model.metadata_props:
        if entry.key == "levels":
            entry.value = "5"
    onnx.save(model, str(lying))
    with pytest.raises(InputError, match="holds 3 levels and says that there are 5"):
        AdaptiveSession(lying)

"""Adaptive sessions: batches are answered as image by image, budgets are held, and bad input is an error."""

import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from levels_for_tests import IMAGES
from models_for_tests import elastic_net, images_for, nested_levels
from routing_for_tests import answers_by_chance

from autoprune.adaptive.file.export import LEVEL_NAME, PRICE_NAME, export_adaptive
from autoprune.adaptive.file.session import AdaptiveSession
from autoprune.adaptive.levels.shared_weights import cuts_of_largest
from autoprune.adaptive.routing.calibration import CALIBRATION, calibrations
from autoprune.adaptive.routing.learner import RouterSettings, train_router
from autoprune.adaptive.routing.routers import Cascade, LearnedRouter, priced
from autoprune.adaptive.routing.routing import LevelAnswers, follow
from autoprune.errors import InputError
from autoprune.export.onnx_file import OUTPUT_NAME
from autoprune.runtimes.onnxruntime import make_session


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
    elastic = elastic_net("resnet20")
    cuts = cuts_of_largest(elastic, nested_levels(elastic))
    export_adaptive(level_files, router.at_price(price), path, cuts=cuts, calibration=found)
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
    export_adaptive(level_files[:2], Cascade((threshold,)), path)
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
    found = calibrations(follow(Cascade((threshold,)), two), two)
    export_adaptive(level_files[:2], Cascade((threshold,)), path, calibration=found)
    return path


def test_labels_that_arrive_later_move_images_to_larger_levels_or_back(cascade: Path) -> None:
    images, session = all_images(), AdaptiveSession(cascade)
    before = session.run(images)
    assert session.worth_of_going_on == (1.0, 1.0)
    for _ in range(20):
        found = session.run(images)
        session.learn(found, (found.logits.argmax(1) + 1) % 4)  # all of them wrong
    assert session.worth_of_going_on[0] > 1.2
    assert session.run(images).levels.sum() > before.levels.sum()
    for _ in range(200):
        found = session.run(images)
        session.learn(found, found.logits.argmax(1))  # all of them right after all
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
    export_adaptive(level_files[:2], Cascade((0.5,)), silent)
    with pytest.raises(InputError, match="says nothing of its levels' calibration"):
        AdaptiveSession(silent).learn(found, np.zeros(IMAGES, dtype=np.int64))
    lying = onnx.load(str(cascade))
    for text, message in (
        ("[1]", r"its calibration cannot be read \('0': Input should be an array"),
        ("{", "cannot be read"),
        ("[[0.1, 0.2, 0.3, 0.4]]", "of 1 levels and holds 2"),
    ):
        next(entry for entry in lying.metadata_props if entry.key == CALIBRATION.name).value = text
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
        (np.full_like(good, 200), "hold values from 200 to 200, where black is .* normalise them as "),
    ):
        with pytest.raises(InputError, match=message):
            session.run(images)
    assert session.counters.images == 0
    assert session.run(good).levels.shape == (IMAGES,)


def test_a_budget_below_the_smallest_level_is_refused(adaptive: Path) -> None:
    with pytest.raises(InputError, match="below what the smallest level takes here for one image"):
        AdaptiveSession(adaptive, latency_budget_ms=1e-6)


WRONG_NUMBERS = (math.nan, math.inf, -math.inf, -0.1, -1, "0.1", True, [0.1], 10**400, 1j)


@pytest.mark.parametrize("price", WRONG_NUMBERS)
def test_a_price_that_cannot_be_is_refused(adaptive: Path, price: object) -> None:
    with pytest.raises(InputError, match=r"^price: must be a finite number from 0 to 1e\+30, got "):
        AdaptiveSession(adaptive, price=price)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget_ms", [*WRONG_NUMBERS, 0, 0.0])
def test_a_budget_that_cannot_be_is_refused(adaptive: Path, budget_ms: object) -> None:
    message = "^latency_budget_ms: must be a finite number above 0, got "
    with pytest.raises(InputError, match=message):
        AdaptiveSession(adaptive, latency_budget_ms=budget_ms)  # type: ignore[arg-type]
    session = AdaptiveSession(adaptive, latency_budget_ms=1000.0)
    with pytest.raises(InputError, match=message):
        session.latency_budget_ms = budget_ms  # type: ignore[assignment]
    assert session.latency_budget_ms == 1000.0


@pytest.mark.parametrize("threads", [0, -1, 10**6, 10**30, 1.5, math.nan, "1", None, True])
def test_threads_that_cannot_be_are_refused(adaptive: Path, threads: object) -> None:
    with pytest.raises(InputError, match=f"^threads: must be a whole number from 1 to {os.cpu_count()}, got "):
        AdaptiveSession(adaptive, threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, 3, b"adaptive.onnx"])
def test_a_path_that_is_none_is_refused(path: object) -> None:
    with pytest.raises(InputError, match=r"^path: must be a file's name, got "):
        AdaptiveSession(path)  # type: ignore[arg-type]


def test_extreme_prices_are_as_the_ends_of_the_range(adaptive: Path) -> None:
    images = all_images()
    at_the_top = AdaptiveSession(adaptive, price=AdaptiveSession(adaptive).max_price).run(images).levels.tolist()
    assert AdaptiveSession(adaptive, price=1e30).run(images).levels.tolist() == at_the_top
    at_the_bottom = AdaptiveSession(adaptive, price=0).run(images).levels.tolist()
    assert AdaptiveSession(adaptive, price=5e-324).run(images).levels.tolist() == at_the_bottom


def test_answers_do_not_depend_on_the_chunks(adaptive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.concatenate([all_images()] * 6)  # more than a chunk
    whole = AdaptiveSession(adaptive).run(images)
    monkeypatch.setattr("autoprune.adaptive.file.session.CHUNK_IMAGES", (7, 7))
    session = AdaptiveSession(adaptive)
    found = session.run(images)
    assert found.levels.tolist() == whole.levels.tolist()
    assert found.by_level.tolist() == whole.by_level.tolist()
    assert np.abs(found.logits - whole.logits).max() < 1e-3
    assert session.counters.images == len(images)
    assert session.counters.ran == tuple((found.by_level >= 0).sum(1).tolist())


MANY_IMAGES = """
import sys
import numpy as np
from autoprune.adaptive.file.session import AdaptiveSession
from autoprune.measure.memory import peak_rss_bytes

session = AdaptiveSession(sys.argv[1], price=0)
images = np.random.default_rng(0).standard_normal((20_000, *session.input_shape), dtype=np.float32)
session.run(images[:256])
before = peak_rss_bytes()
assert session.run(images).levels.shape == (20_000,)
print((peak_rss_bytes() - before) / 2**20)
"""


def test_memory_does_not_grow_with_the_images(adaptive: Path) -> None:
    """At once they would take some hundred MiB; what may grow is what is answered, and how images are regrouped."""
    done = subprocess.run([sys.executable, "-c", MANY_IMAGES, adaptive], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("levels", "many", "its metadata levels: must be a whole number from 2 to 100, got 'many'"),
        ("levels", "-1", "its metadata levels: must be a whole number from 2 to 100, got -1"),
        ("levels", "1e30", "its metadata levels: must be a whole number from 2 to 100, got 1e"),
        ("levels", "2", "holds 3 levels and says that there are 2"),
        ("max_price", "NaN", "its metadata max_price: must be a finite number above 0 to "),
        ("max_price", "Infinity", "its metadata max_price: must be a finite number above 0 to "),
        ("max_price", "0", "its metadata max_price: must be a finite number above 0 to "),
        ("max_price", "dear", "its metadata max_price: must be a finite number above 0 to "),
        (CALIBRATION.name, "[[NaN, 0.1, 0.1, 0.1]]", "its calibration cannot be read "),
        (CALIBRATION.name, "[[0.1, 1.5, 0.1, 0.1]]", "its calibration cannot be read "),
        (CALIBRATION.name, "[[0.1, 0.5, 0.1, -3.0]]", "its calibration cannot be read "),
        (CALIBRATION.name, "[" * 100_000, "its calibration cannot be read "),
    ],
)
def test_metadata_out_of_range_are_refused(adaptive: Path, tmp_path: Path, key: str, value: str, message: str) -> None:
    lying = tmp_path / "lying.onnx"
    model = onnx.load(str(adaptive))
    next(entry for entry in model.metadata_props if entry.key == key).value = value
    onnx.save(model, str(lying))
    with pytest.raises(InputError) as caught:
        AdaptiveSession(lying)
    assert str(caught.value).startswith(f"{lying}: {message}")


def spoil_price(model: onnx.ModelProto) -> None:
    price = next(weight for weight in model.graph.initializer if weight.name == PRICE_NAME)
    price.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], dtype=np.float32), PRICE_NAME))


def drop_price(model: onnx.ModelProto) -> None:
    price = next(weight for weight in model.graph.initializer if weight.name == PRICE_NAME)
    model.graph.initializer.remove(price)


def drop_branches(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "If":
            del node.attribute[:]


def flatten_images(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[2:]


def drop_classes(model: onnx.ModelProto) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[1:]


def spoil_weights(model: onnx.ModelProto) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and weight.name != PRICE_NAME:
            values = np.full_like(onnx.numpy_helper.to_array(weight), np.nan)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_price, "its default price: must be a finite number from 0 to "),
        (drop_price, "no adaptive model as this version writes them"),
        (drop_branches, "no adaptive model as this version writes them"),
        (flatten_images, "takes images of (1,); must take float32 images of fixed size"),
        (drop_classes, "no adaptive model as this version writes them"),
        (spoil_weights, "level 0 answers NaN or infinity to a black image"),
    ],
)
def test_graphs_that_are_spoilt_are_refused_when_opened(
    adaptive: Path, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    spoilt = tmp_path / "spoilt.onnx"
    model = onnx.load(str(adaptive))
    spoil(model)
    onnx.save(model, str(spoilt))
    with pytest.raises(InputError) as caught:
        AdaptiveSession(spoilt)
    assert str(caught.value).startswith(f"{spoilt}: {message}")


def test_answers_of_another_session_teach_nothing(adaptive: Path, cascade: Path) -> None:
    session, other = AdaptiveSession(cascade), AdaptiveSession(adaptive)
    for answers in (other.run(all_images()), AdaptiveSession(cascade).run(all_images()), None):
        with pytest.raises(InputError, match="answers: must be what `run` of this session gave"):
            session.learn(answers, np.zeros(IMAGES, dtype=np.int64))  # type: ignore[arg-type]
    assert session.worth_of_going_on == (1.0, 1.0)


def test_a_label_is_learned_from_once(cascade: Path) -> None:
    session = AdaptiveSession(cascade)
    found = session.run(all_images())
    labels = found.logits.argmax(1)
    early = np.where(np.arange(IMAGES) < 10, labels, -1)
    session.learn(found, early)
    worth = session.worth_of_going_on
    with pytest.raises(InputError, match="those of 10 of these images were learned from before; give -1 for them"):
        session.learn(found, labels)
    assert session.worth_of_going_on == worth
    session.learn(found, np.where(early < 0, labels, -1))  # the others' may arrive later

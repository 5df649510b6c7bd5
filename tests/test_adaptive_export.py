"""The adaptive file: its answers are those of the level that the router picks, and levels that it skips do not run."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from levels_for_tests import IMAGES
from models_for_tests import images_for
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from routing_for_tests import answers_by_chance

from autoprune.adaptive.file.export import LEVEL_NAME, PricedRouter, export_adaptive
from autoprune.adaptive.levels.training import Levels
from autoprune.adaptive.routing.learner import RouterSettings, train_router
from autoprune.adaptive.routing.routers import Cascade, LearnedRouter
from autoprune.adaptive.routing.routing import LevelAnswers, follow
from autoprune.envs.router_observation import observation_size
from autoprune.errors import InputError
from autoprune.export.onnx_file import OUTPUT_NAME
from autoprune.runtimes.onnxruntime import make_session


def check_answers(file: Path, levels: Levels, answers: LevelAnswers, router: PricedRouter) -> None:
    """Image by image: the level that ran is the router's, the logits are that level's."""
    session = make_session(file, threads=1)
    images = images_for("resnet20", IMAGES)
    with torch.no_grad():
        logits = levels(images).transpose(0, 1).numpy()
    route = follow(router, answers)
    assert len(set(route.final.tolist())) > 1  # a router that always does the same would show nothing
    for place in range(IMAGES):
        found, level = session.run([OUTPUT_NAME, LEVEL_NAME], {"images": images[place : place + 1].numpy()})
        assert level.tolist() == [route.final[place]]
        assert np.abs(found[0] - logits[route.final[place], place]).max() < 1e-3


def test_a_cascade_in_a_file_runs_the_levels_that_it_runs_in_numpy(
    random_levels: Levels, level_answers: LevelAnswers, level_files: list[Path], tmp_path: Path
) -> None:
    thresholds = tuple(float(np.quantile(level_answers.probabilities[level].max(1), 0.6)) for level in range(2))
    path = tmp_path / "adaptive.onnx"
    export_adaptive(level_files, Cascade(thresholds), path)
    check_answers(path, random_levels, level_answers, Cascade(thresholds))
    model = onnx.load(str(path))
    assert [node.op_type for node in model.graph.node].count("If") == 2
    assert {entry.key: entry.value for entry in model.metadata_props}["levels"] == "3"
    # Each level once, and next to nothing else.
    assert path.stat().st_size < 1.1 * sum(file.stat().st_size for file in level_files) + 20_000


def random_router(seed: int, *, levels: int) -> LearnedRouter:
    """Weights so large that little differences between answers decide."""
    generator = np.random.default_rng(seed)
    sizes = [(8, observation_size(4, levels)), (levels, 8)]
    layers = tuple((generator.normal(0, 5, size), generator.normal(0, 5, size[0])) for size in sizes)
    as_float32 = tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers)
    return LearnedRouter(as_float32, classes=4, levels=levels, max_price=0.25)


@pytest.mark.parametrize("count", [2, 3])
def test_a_learned_router_in_a_file_decides_as_it_does_in_numpy(
    random_levels: Levels, level_answers: LevelAnswers, level_files: list[Path], tmp_path: Path, count: int
) -> None:
    routed = level_answers.of_levels(range(count))
    price = 0.05
    drawn = (random_router(seed, levels=count) for seed in range(1000))
    priced = (one.at_price(price) for one in drawn)
    router = next(one for one in priced if len(set(follow(one, routed).final.tolist())) > 1)
    path = tmp_path / "adaptive.onnx"
    export_adaptive(level_files[:count], router, path)
    check_answers(path, random_levels, routed, router)


def test_a_cascade_of_two_levels_in_a_file(
    random_levels: Levels, level_answers: LevelAnswers, level_files: list[Path], tmp_path: Path
) -> None:
    threshold = float(np.quantile(level_answers.probabilities[0].max(1), 0.4))
    path = tmp_path / "adaptive.onnx"
    export_adaptive(level_files[:2], Cascade((threshold,)), path)
    check_answers(path, random_levels, level_answers.of_levels((0, 1)), Cascade((threshold,)))
    outside = [node.op_type for node in onnx.load(str(path)).graph.node if not node.name.startswith("level_0./")]
    assert outside[-1] == "If"
    assert "Equal" not in outside  # the router's comparison is the condition


@pytest.mark.parametrize("pixels", [np.nan, np.inf])
def test_what_is_no_image_runs_the_smallest_level(pixels: float, level_files: list[Path], tmp_path: Path) -> None:
    """Neither confidence nor values can be compared then: no comparison holds, so that nothing larger runs."""
    router = train_router(
        answers_by_chance(400, seed=0),
        answers_by_chance(200, seed=1),
        seed=0,
        settings=RouterSettings(rounds=1, steps=5),
    )
    image = images_for("resnet20", 1).numpy()
    image[0, 0, 2, 2] = pixels
    routers: tuple[PricedRouter, ...] = (Cascade((1.01, 1.01)), router.at_price(0.0))
    for number, priced in enumerate(routers):
        path = tmp_path / f"{number}.onnx"
        export_adaptive(level_files, priced, path)
        assert make_session(path, threads=1).run([LEVEL_NAME], {"images": image})[0].tolist() == [0]


def test_a_file_takes_one_image_of_its_own_shape(level_files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "adaptive.onnx"
    export_adaptive(level_files, Cascade((0.5, 0.5)), path)
    session = make_session(path, threads=1)
    good = images_for("resnet20", 2).numpy()
    for images in (good, good[:0], good[:1, :, :4]):
        with pytest.raises(InvalidArgument, match="invalid dimensions for input: images"):
            session.run(None, {"images": images})


def test_a_file_that_does_not_tell_its_classes_is_refused(level_files: list[Path], tmp_path: Path) -> None:
    """As the exporter leaves it where a network works the shape out from its input."""
    unknown = tmp_path / "unknown.onnx"
    model = onnx.load(str(level_files[0]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    onnx.save(model, str(unknown))
    with pytest.raises(InputError, match=r"unknown\.onnx: logits is not of shape \(batch, classes\)"):
        export_adaptive([unknown, level_files[1]], Cascade((0.5,)), tmp_path / "adaptive.onnx")

"""The adaptive file: its answers are those of the level that the router picks, and levels that it skips do not run."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import elastic_net, images_for
from routing_for_tests import answers_by_chance
from test_levels import nested

from autoprune.adaptive_export import LEVEL_NAME, RouterNodes, export_adaptive
from autoprune.data import DataInfo
from autoprune.errors import InputError
from autoprune.export import OUTPUT_NAME, export_onnx
from autoprune.latency import make_session
from autoprune.levels import Levels
from autoprune.policies.router import LearnedRouter, RouterSettings, train_router
from autoprune.policies.router_graph import CascadeNodes, LearnedNodes
from autoprune.routing import LevelAnswers, Router, by_confidence, follow

INFO = DataInfo("random", tuple("abcd"), in_channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
IMAGES = 60


@pytest.fixture(scope="module")
def levels() -> Levels:
    elastic = elastic_net("resnet20")
    made = Levels(elastic, nested(elastic)).eval()
    made.recalibrate(images_for("resnet20", 32))
    return made


@pytest.fixture(scope="module")
def files(levels: Levels, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("levels")
    paths = [folder / f"{level}.onnx" for level in range(len(levels))]
    for level, path in enumerate(paths):
        export_onnx(levels.extracted(level), path, INFO)
    return paths


@pytest.fixture(scope="module")
def answers(levels: Levels) -> LevelAnswers:
    with torch.no_grad():
        logits = torch.stack(levels(images_for("resnet20", IMAGES)))
    probabilities = logits.softmax(2).numpy()
    return LevelAnswers(probabilities, np.zeros(IMAGES, dtype=np.int64), (1.0, 2.0, 4.0))


def check_answers(file: Path, levels: Levels, answers: LevelAnswers, router: Router, *, price: float | None) -> None:
    """Image by image: the level that ran is the router's, the logits are that level's."""
    session = make_session(file, threads=1)
    images = images_for("resnet20", IMAGES)
    with torch.no_grad():
        logits = torch.stack(levels(images)).numpy()
    route = follow(router, answers)
    assert len(set(route.final.tolist())) > 1  # a router that always does the same would show nothing
    fed = {} if price is None else {"price": np.array([price], dtype=np.float32)}
    for place in range(IMAGES):
        found, level = session.run([OUTPUT_NAME, LEVEL_NAME], {"images": images[place : place + 1].numpy()} | fed)
        assert level.tolist() == [route.final[place]]
        assert np.abs(found[0] - logits[route.final[place], place]).max() < 1e-3


def test_a_cascade_in_a_file_runs_the_levels_that_it_runs_in_numpy(
    levels: Levels, answers: LevelAnswers, files: list[Path], tmp_path: Path
) -> None:
    thresholds = tuple(float(np.quantile(answers.probabilities[level].max(1), 0.6)) for level in range(2))
    path = tmp_path / "adaptive.onnx"
    export_adaptive(files, CascadeNodes(thresholds), path)
    check_answers(path, levels, answers, by_confidence(thresholds), price=None)
    model = onnx.load(str(path))
    assert [node.op_type for node in model.graph.node].count("If") == 2
    assert {entry.key: entry.value for entry in model.metadata_props}["levels"] == "3"
    # Each level once, and next to nothing else.
    assert path.stat().st_size < 1.1 * sum(file.stat().st_size for file in files) + 20_000


def test_a_learned_router_in_a_file_decides_as_it_does_in_numpy_at_any_price(
    levels: Levels, answers: LevelAnswers, files: list[Path], tmp_path: Path
) -> None:
    router = train_router(answers_by_chance(400, seed=0), seed=0, settings=RouterSettings(rounds=4, steps=30))
    assert isinstance(router, LearnedRouter)
    price = next(
        price
        for price in np.linspace(0.0, router.max_price, 40)
        if len(set(follow(router.at_price(float(price)), answers).final.tolist())) > 1
    )
    nodes: RouterNodes = LearnedNodes(router, default_price=0.01)
    path = tmp_path / "adaptive.onnx"
    export_adaptive(files, nodes, path)
    check_answers(path, levels, answers, router.at_price(float(price)), price=float(price))
    # Without a price it takes its own.
    session = make_session(path, threads=1)
    route = follow(router.at_price(0.01), answers)
    images = images_for("resnet20", IMAGES).numpy()
    ran = [int(session.run([LEVEL_NAME], {"images": images[place : place + 1]})[0][0]) for place in range(IMAGES)]
    assert ran == route.final.tolist()


def test_a_file_that_is_no_level_is_refused(files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"broken\.onnx: not an ONNX model"):
        export_adaptive([files[0], broken], CascadeNodes((0.5,)), tmp_path / "adaptive.onnx")
    joined = tmp_path / "joined.onnx"
    export_adaptive(files[:2], CascadeNodes((0.5,)), joined)
    with pytest.raises(InputError, match="a level has images and logits"):
        export_adaptive([files[0], joined], CascadeNodes((0.5,)), tmp_path / "adaptive.onnx")

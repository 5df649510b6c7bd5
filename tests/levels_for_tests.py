"""Three nested levels with random weights: the levels, their files, and what they answer to some images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models_for_tests import elastic_net, images_for, nested_levels
from routing_for_tests import judged_by_labels

from autoprune.adaptive.levels.training import Levels
from autoprune.adaptive.routing.routing import LevelAnswers
from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx

INFO = DataInfo("random", tuple("abcd"), in_channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
IMAGES = 60


@pytest.fixture(scope="session")
def random_levels() -> Levels:
    elastic = elastic_net("resnet20")
    made = Levels(elastic, nested_levels(elastic)).eval()
    made.recalibrate(images_for("resnet20", 32))
    return made


@pytest.fixture(scope="session")
def level_files(random_levels: Levels, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("levels")
    paths = [folder / f"{level}.onnx" for level in range(len(random_levels))]
    for level, path in enumerate(paths):
        export_onnx(random_levels.extracted(level), path, INFO)
    return paths


@pytest.fixture(scope="session")
def level_answers(random_levels: Levels) -> LevelAnswers:
    with torch.no_grad():
        logits = random_levels(images_for("resnet20", IMAGES)).transpose(0, 1)
    probabilities = logits.softmax(2).numpy()
    return judged_by_labels(probabilities, np.zeros(IMAGES, dtype=np.int64), (1.0, 2.0, 4.0))

"""What docs/nni.md tells to configure is what NNI and autoprune take."""

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprune.config import NniConfig

nni: Any = pytest.importorskip("nni")
PAGE = Path(__file__).parents[1] / "docs" / "nni.md"
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]


def test_nni_takes_the_experiment_for_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("search_space.json").write_text('{"conv1": {"_type": "quniform", "_value": [0, 4, 1]}}')
    (told,) = [block for block in BLOCKS if block.get("trainingService", {}).get("platform") == "frameworkcontroller"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI's own
        config = nni.experiment.ExperimentConfig(**told)
        config.validate()
    (role,) = config.canonical_copy().training_service.task_roles
    assert role.command.startswith("autoprune nni trial demo --run-dir runs/mine")


def test_we_take_the_machines() -> None:
    (told,) = [block["nni"] for block in BLOCKS if block.get("nni", {}).get("platform") == "remote"]
    assert len(NniConfig.model_validate(told).machines) == 2


def test_nni_finds_our_tuner_by_the_name_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.tools.package_utils import create_customized_class_instance

    from autoprune.nni.tuner import AgentTuner

    example = PAGE.parents[1] / "examples" / "nni" / "config_agent.yml"
    told = yaml.safe_load(example.read_text("utf-8"))["tuner"]
    (block,) = [block["tuner"] for block in BLOCKS if "className" in block.get("tuner", {})]
    assert block["className"] == told["className"] == "autoprune.nni.AgentTuner"
    monkeypatch.setattr(sys, "path", [*sys.path])  # NNI adds to it
    made = create_customized_class_instance(told)
    assert isinstance(made, AgentTuner)

"""`autoprune.compress` and what importing the package costs, from Python."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from models_for_tests import counted
from small_job import HERE, net
from torch import nn

import autoprune
from autoprune.config.file import load_config
from autoprune.data import ImageSplit, SearchData, load_search_data
from autoprune.errors import InputError
from autoprune.foundation import progress
from autoprune.models import load_weights
from autoprune.space.policy import load_policy
from autoprune.steps.subject import load_subject


def test_import_is_light() -> None:
    code = "import sys, autoprune; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); print(dir(autoprune))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(AttributeError, match="has no attribute 'decompress'"):
        autoprune.decompress  # noqa: B018


class Quiet(nn.Sequential):
    """Its `train` returns nothing, as people's often do who freeze a part in it; so `eval` returns nothing, too."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def test_compress_from_python(small_config: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    config = load_config(small_config)
    subject = load_subject(config)
    model = Quiet(*net(3))
    load_weights(model, str(small_checkpoint))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = config.model_copy(update={"finetune": config.finetune.model_copy(update={"epochs": 1})})
    target = [{"metric": "macs", "max_ratio": 0.6}, {"metric": "params", "max_value": 40_000, "unit": "count"}]

    def compress(data: SearchData, *, resume: bool = False) -> autoprune.Result:
        return autoprune.compress(
            model,
            data,
            test=subject.test,
            target=target,
            run_dir=tmp_path / "run",
            config=settings,
            resume=resume,
        )

    result = compress(subject.data)
    assert result.report.checks.target_met
    assert result.report.ratios.macs <= 0.6
    assert result.report.pruned.params <= 40_000
    assert counted(result.model, (1, 16, 16)) == (result.report.pruned.params, result.report.pruned.macs)
    assert result.policy == load_policy(result.paths.policy)
    assert not result.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert result.paths.report.is_file()

    again = compress(subject.data, resume=True)
    assert again.report == result.report
    images = torch.randn(4, 1, 16, 16)
    assert torch.equal(again.model(images), result.model(images))
    half = SearchData(subject.data.info, subject.data.train.select(torch.arange(200)), subject.data.search)
    with pytest.raises(InputError, match=r"the run there has another configuration \(data\.name\)"):
        compress(half, resume=True)


def test_compress_by_name(
    small_config: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_shown", True)
    settings = load_config(small_config, ["finetune.epochs=0"])
    result = autoprune.compress(
        f"{HERE}:net", f"{HERE}:bars", checkpoint=small_checkpoint, run_dir=str(tmp_path / "run"), config=settings
    )
    said = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines() if "without effect" in line]
    assert said == [
        "model.name, model.checkpoint, data.name",  # given as arguments
        "train.epochs, train.batch_size, train.augment.crop_padding",
        "train.learning_rate",
        "finetune.batch_size, finetune.learning_rate",
        "finetune.augment.crop_padding",
    ]
    assert yaml.safe_load(result.paths.config.read_text())["target"] == [
        {"metric": "macs", "max_ratio": 0.5, "max_value": None, "unit": None, "max_drop": None}
    ]
    assert result.report.checks.target_met
    assert math.isfinite(result.report.ratios.speedup)


def test_compress_refuses_half_of_what_it_needs(small_config: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    data = load_search_data(load_config(small_config).data)
    with pytest.raises(InputError, match="data given as SearchData needs a test split"):
        autoprune.compress(net(3), data, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="a model given as an object holds its weights"):
        autoprune.compress(net(3), "fashion-mnist", checkpoint=small_checkpoint, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="the test split has images of"):
        autoprune.compress(
            net(3), data, test=ImageSplit(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3)), run_dir=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_compress_refuses_models_and_settings_that_cannot_be(small_config: Path, tmp_path: Path) -> None:
    config = load_config(small_config)
    data = load_search_data(config.data)
    for made, part in ((net(3).bfloat16(), "torch.bfloat16; call .float()"), (net(3).to("meta"), "the meta device")):
        with pytest.raises(InputError, match=re.escape(part)):
            autoprune.compress(made, data, test=data.search, run_dir=tmp_path / "run", config=config)
    given = config.model_copy(update={"data": config.data.model_copy(update={"mean": (0.5,), "std": (0.5,)})})
    with pytest.raises(InputError, match=r"data\.mean, data\.std: data given as SearchData has these in its info"):
        autoprune.compress(net(3), data, test=data.search, run_dir=tmp_path / "run", config=given)
    assert list(tmp_path.iterdir()) == []

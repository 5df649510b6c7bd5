"""Weights come back bit for bit; broken, foreign and malicious files are refused and nothing in them is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models import ModelSpec, build_model, load_weights, save_weights
from autoprune.models.checkpoint import read_tensors


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(ModelSpec("resnet20", 10, 1, width=0.25))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_safetensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = net(0).to(memory_format=torch.channels_last)
    path = tmp_path / "deep" / "net.safetensors"
    save_weights(model, path, {"accuracy": "0.93"})
    other = net(1)
    assert not same(model.state_dict(), other.state_dict())
    load_weights(other, str(path))
    assert same(model.state_dict(), other.state_dict())
    with safetensors.safe_open(path, "pt") as stored:
        assert stored.metadata() == {"accuracy": "0.93"}
    assert [entry.name for entry in path.parent.iterdir()] == ["net.safetensors"]


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(model, str(tmp_path / "tied.safetensors"))
    assert model[1].weight is model[0].weight


def bare(tensors: dict[str, Tensor]) -> Any:
    return tensors


def under_state_dict(tensors: dict[str, Tensor]) -> Any:
    return {"epoch": 3, "state_dict": tensors}


def under_model(tensors: dict[str, Tensor]) -> Any:
    return {"model": tensors, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("wrap", [bare, under_state_dict, under_model])
def test_torch_files_are_read(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    model, other = net(0), net(1)
    torch.save(wrap(model.state_dict()), tmp_path / "net.pt")
    load_weights(other, str(tmp_path / "net.pt"))
    assert same(model.state_dict(), other.state_dict())


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path, new_format: bool) -> None:
    marker, path = tmp_path / "pwned", tmp_path / "net.pt"
    torch.save({"fc.weight": Evil(marker)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelError, match=r"net\.pt: corrupt checkpoint, or one that holds more than tensors"):
        read_tensors(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file is what it says
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
def test_whole_pickled_models_are_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match="holds more than tensors"):
        read_tensors(tmp_path / "net.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_truncated_and_broken_files_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save(net().state_dict(), path)
    else:
        save_weights(net(), path)
    whole = path.read_bytes()
    step = len(whole) // 40
    for content in [whole[:length] for length in range(0, len(whole), step)] + [b"\0" * 9000, b"text", b"\x80\x02."]:
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_weights(net(), str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 1}, {"state_dict": {"a": [1]}}, torch.zeros(2)])
def test_files_without_a_state_dict_are_told(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: holds no state dict of tensors"):
        read_tensors(tmp_path / "net.pt")


def test_weights_that_do_not_fit_are_told_and_leave_the_model(tmp_path: Path) -> None:
    path = str(tmp_path / "net.safetensors")
    save_weights(net(), Path(path))
    wide = build_model(ModelSpec("resnet20", 10, 1, width=0.5))
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(ModelError, match=r"bn1\.bias is \(4,\), the model wants \(8,\); .* in all\)"):
        load_weights(wide, path)
    assert same(before, wide.state_dict())
    with pytest.raises(
        ModelError, match=r"does not fit the model \(0\.bias missing; 0\.weight missing; bn1\.bias unex"
    ):
        load_weights(nn.Sequential(nn.Linear(2, 2)), path)


def test_a_missing_file_names_the_shipped_ones(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ModelError, match=r"no such checkpoint; .*shipped name \(.*resnet20-fashion-mnist"):
            load_weights(net(), str(missing))

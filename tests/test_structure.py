"""A pruned model on disk: what is read back computes the same, and a broken folder is named."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import SMALL_NETS, elastic_net, images_for, random_policy, same_state
from torch import nn

from autoprune.errors import AutopruneError, InputError, ModelError
from autoprune.models import ModelSpec
from autoprune.pruning.branches import Nothing
from autoprune.pruning.structure import STRUCTURE_FILE, WEIGHTS_FILE, load_pruned, save_pruned

SPEC = ModelSpec("resnet20", 4, 1, 0.25)


@pytest.mark.parametrize("name", SMALL_NETS)
def test_a_cut_is_read_back(name: str, tmp_path: Path) -> None:
    elastic = elastic_net(name)
    pruned = elastic.cut(random_policy(elastic, 0)).eval()
    save_pruned(tmp_path, pruned, None)
    original = SMALL_NETS[name].build()
    before = copy.deepcopy(original)
    loaded = load_pruned(tmp_path, architecture=original)
    assert same_state(original, before) and repr(original) == repr(before)  # its owner may need it yet
    assert not loaded.training
    assert same_state(loaded, pruned)
    assert repr(loaded) == repr(pruned)
    with torch.no_grad():
        assert torch.equal(loaded(images_for(name)), pruned(images_for(name)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    elastic = elastic_net("resnet20")
    save_pruned(tmp_path / "pruned", elastic.cut(random_policy(elastic, 0)), SPEC)
    return tmp_path / "pruned"


def test_a_built_in_model_is_rebuilt_from_its_name(folder: Path) -> None:
    elastic = elastic_net("resnet20")
    assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS_FILE, STRUCTURE_FILE]
    assert same_state(load_pruned(str(folder)), elastic.cut(random_policy(elastic, 0)))


def test_the_file_cannot_choose_code_to_run(folder: Path) -> None:
    """`os:abort` is a callable of an installed package: as a factory it would end this process."""
    path = folder / STRUCTURE_FILE
    raw = json.loads(path.read_text())
    raw["model"]["name"] = "os:abort"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="factory os:abort; pass what it makes as architecture="):
        load_pruned(folder)


def test_a_model_given_as_an_object_is_asked_for_again(tmp_path: Path) -> None:
    save_pruned(tmp_path, elastic_net("flatten").original, None)
    with pytest.raises(InputError, match=rf"{STRUCTURE_FILE}: the model was given as an object; pass .* architecture="):
        load_pruned(tmp_path)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((folder / STRUCTURE_FILE).read_text())
    change(raw)
    (folder / STRUCTURE_FILE).write_text(json.dumps(raw))


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], type[AutopruneError], str]] = {
    "another schema": (lambda raw: raw.update(schema=2), InputError, "schema 2 is not supported"),
    "no schema": (lambda raw: raw.pop("schema"), InputError, "not the structure of a pruned model"),
    "no layers": (lambda raw: raw.pop("layers"), InputError, "not the structure of a pruned model"),
    "layers of text": (lambda raw: raw.update(layers="all"), InputError, "not the structure of a pruned model"),
    "no model": (lambda raw: raw.pop("model"), InputError, "not the structure of a pruned model"),
    "half a model": (lambda raw: raw["model"].pop("width"), InputError, "not the structure of a pruned model"),
    "a wide model": (lambda raw: raw["model"].update(width="x"), InputError, "not the structure of a pruned model"),
    "unknown model": (
        lambda raw: raw["model"].update(name="resnet\x1b[31m"),
        ModelError,
        rf"{STRUCTURE_FILE}: model\.name=resnet\\x1b\[31m: unknown",
    ),
    "layer unknown": (
        lambda raw: raw["layers"].update(conv9={"out_channels": 1, "in_channels": 1}),
        ModelError,
        "layer conv9 does not fit",
    ),
    "layer without weights": (
        lambda raw: raw["layers"].update({"layer1": {"out_channels": 1, "in_channels": 1}}),
        ModelError,
        "layer layer1 does not fit",
    ),
    "layer too large": (
        lambda raw: raw["layers"]["conv1"].update(out_channels=10**12),
        ModelError,
        "layer conv1 does not fit",
    ),
    "layer empty": (lambda raw: raw["layers"]["conv1"].update(out_channels=0), ModelError, "layer conv1 does not fit"),
    "layer left out": (lambda raw: raw["layers"].pop("conv1"), ModelError, rf"{WEIGHTS_FILE}: does not fit the model"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_structure_is_named(case: str, folder: Path) -> None:
    change, kind, message = BROKEN[case]
    if case == "layer left out":  # its full shape must differ from the pruned one
        assert load_pruned(folder).get_parameter("conv1.weight").shape[0] < 4
    edit(folder, change)
    with pytest.raises(kind, match=message):
        load_pruned(folder)


@pytest.mark.parametrize("value", [None, 5, b"x", ""])
def test_what_is_no_folder_or_model_is_named(value: Any, folder: Path) -> None:
    with pytest.raises(InputError, match=r"^folder: "):
        load_pruned(value)
    if value is not None:
        with pytest.raises(InputError, match=r"^architecture: must be the model before it was pruned, an nn"):
            load_pruned(folder, architecture=value)


def test_broken_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{STRUCTURE_FILE}: no such file"):
        load_pruned(tmp_path / "nowhere")
    weights = folder / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE}: corrupt"):
        load_pruned(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE}: no such"):
        load_pruned(folder)
    (folder / STRUCTURE_FILE).write_text("{")
    with pytest.raises(InputError, match=rf"{STRUCTURE_FILE}: not valid JSON"):
        load_pruned(folder)


def test_weights_of_another_cut_are_refused(folder: Path, tmp_path: Path) -> None:
    save_pruned(tmp_path / "full", elastic_net("resnet20").original, SPEC)
    (tmp_path / "full" / WEIGHTS_FILE).replace(folder / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="does not fit the model"):
        load_pruned(folder)


def test_a_grouped_convolution_cannot_lose_inputs(tmp_path: Path) -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    save_pruned(tmp_path, grouped, None)
    edit(tmp_path, lambda raw: raw["layers"]["0"].update(in_channels=3))
    with pytest.raises(ModelError, match="layer 0 does not fit the architecture"):
        load_pruned(tmp_path, architecture=grouped)


def test_another_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="does not fit the architecture"):
        load_pruned(folder, architecture=nn.Sequential(nn.Conv2d(1, 4, 3)))


def test_a_cut_layer_inside_one_that_is_gone_is_read(tmp_path: Path) -> None:
    """As a file may say that was written by hand."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1))
            self.head = nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers: torch.Tensor = self.head((images + self.block(images)).mean((2, 3)))
            return answers

    model = Residual()
    model.block = Nothing()  # type: ignore[assignment]
    save_pruned(tmp_path, model, None)
    path = tmp_path / STRUCTURE_FILE
    written = json.loads(path.read_text(encoding="utf-8"))
    written["layers"]["block.0"] = {"out_channels": 2, "in_channels": 3}
    path.write_text(json.dumps(written), encoding="utf-8")
    read = load_pruned(tmp_path, architecture=Residual())
    assert isinstance(read.block, Nothing)

"""`autoprune.compress` given what cannot be: an `InputError` that names the argument, before any work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_job import CONFIG, HERE, net
from torch import nn

import autoprune
from autoprune.config.file import parse_config
from autoprune.data import ImageSplit, SearchData, load_search_data, load_test_split
from autoprune.errors import InputError, RunError, cut, shown

SETTINGS = parse_config(CONFIG, where="small")
DATA, TEST = load_search_data(SETTINGS.data), load_test_split(SETTINGS.data)


def labelled(split: ImageSplit, label: int) -> ImageSplit:
    labels = split.labels.clone()
    labels[0] = label
    return ImageSplit(split.images, labels)


def lower(split: ImageSplit) -> ImageSplit:
    return ImageSplit(split.images[:, :, :8], split.labels)


def empty(split: ImageSplit) -> ImageSplit:
    return split.select(torch.arange(0))


def info(**changes: Any) -> SearchData:
    return replace(DATA, info=replace(DATA.info, **changes))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return net(3)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(3, 3))


def sparse() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    model[1].weight = nn.Parameter(model[1].weight.detach().to_sparse(), requires_grad=False)
    return model


def complex_buffer() -> nn.Module:
    model = net(3)
    model.register_buffer("phase", torch.zeros(3, dtype=torch.complex64))
    return model


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "must be a trained nn.Module or the name of a model, got None"),
    "a class": (lambda: nn.Linear, "Linear is a class; give a trained instance of it"),
    "a function": (lambda: net, "must be a trained nn.Module"),
    "a number": (lambda: 3, "must be a trained nn.Module"),
    "weights alone": (lambda: net(3).state_dict(), "must be a trained nn.Module"),
    "bfloat16": (lambda: net(3).bfloat16(), "0.weight is torch.bfloat16; call .float() on the model"),
    "half": (lambda: net(3).half(), "0.weight is torch.float16; call .float()"),
    "double": (lambda: net(3).double(), "0.weight is torch.float64; call .float()"),
    "meta": (on_meta, "0.weight is on the meta device and holds no values"),
    "lazy": (lazy, "0.weight has no values yet"),
    "sparse": (sparse, "1.weight is sparse"),
    "complex": (complex_buffer, "phase is torch.complex64; only float32"),
    "empty": (lambda: "", "model.name=: unknown; built in are"),
    "long": (lambda: "x" * 100_000, "too long for a path"),
    "no home": (lambda: "~no-such-user/x.py:f", "is no home folder here"),
    "zero byte": (lambda: "a\0b", "holds a zero byte"),
    "unknown": (lambda: "resnet21", "unknown; built in are"),
}

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "data none": ({"data": None}, "data: must be the name of a data set or a SearchData"),
    "data number": ({"data": 5}, "data: must be the name"),
    "data empty": ({"data": ""}, "data.name=: unknown"),
    "data no home": ({"data": "imagefolder:~no-such-user/x"}, "data.name: "),
    "data tensors": ({"data": (DATA.train.images, DATA.train.labels)}, "data: must be the name"),
    "test text": ({"test": "x"}, "test: must be an ImageSplit"),
    "test none": ({"test": None}, "test: data given as SearchData needs a test split"),
    "test empty": ({"test": empty(TEST)}, "test: the test split must hold images with labels in 0..2, got no images"),
    "test label": ({"test": labelled(TEST, 7)}, "test: the test split must hold images with labels in 0..2, got 0..7"),
    "test shape": ({"test": lower(TEST)}, "test: the test split has images of (1, 8, 16)"),
    "target text": ({"target": "half"}, "target: must be a bound such as"),
    "target number": ({"target": 0.5}, "target: must be a bound"),
    "target no bounds": ({"target": []}, "target: must be a bound"),
    "target nothing": ({"target": {}}, "target.0.metric: is required"),
    "target of text": ({"target": ["half"]}, "target: must hold bounds"),
    "target object": ({"target": object()}, "target: must be a bound"),
    "target nan": ({"target": {"metric": "macs", "max_ratio": float("nan")}}, "target.0.max_ratio: must be a finite"),
    "target tiny": ({"target": {"metric": "macs", "max_ratio": 1e-320}}, "target.0.max_ratio: must be"),
    "target keys": ({"target": {1: 2}}, "target.0: unknown key 1"),
    "run_dir none": ({"run_dir": None}, "run_dir: must be the folder"),
    "run_dir number": ({"run_dir": 5}, "run_dir: must be the folder"),
    "run_dir bytes": ({"run_dir": b"x"}, "run_dir: must be the folder"),
    "run_dir empty": ({"run_dir": ""}, "run_dir: is empty"),
    "run_dir long": ({"run_dir": "x" * 5000}, "run_dir: "),
    "run_dir no home": ({"run_dir": "~no-such-user/x"}, "run_dir: "),
    "run_dir under a device": (
        {"run_dir": "/dev/null/x"},
        "run_dir: /dev/null/x cannot be made: /dev/null is no folder",
    ),
    "run_dir device": ({"run_dir": "/dev/null"}, "/dev/null: is a file, not a folder; choose another run_dir"),
    "run_dir not writable": ({"run_dir": "/proc/x"}, "run_dir: /proc/x cannot be written"),
    "config mapping": ({"config": {}}, "config: must be a RunConfig"),
    "config name": ({"config": "demo"}, "config: must be a RunConfig"),
    "config toy": ({"config": SETTINGS.model_copy(update={"problem": "toy"})}, "config: problem: toy"),
    "config changed": (
        {"config": SETTINGS.model_copy(update={"seed": -1})},
        "seed: must be greater than or equal to 0",
    ),
    "checkpoint of an object": ({"checkpoint": "x"}, "checkpoint: a model given as an object"),
    "checkpoint number": ({"model": "resnet20", "checkpoint": 5}, "checkpoint: must be the path"),
    "checkpoint empty": ({"model": "resnet20", "checkpoint": ""}, "checkpoint: is empty"),
    "checkpoint missing": ({"model": f"{HERE}:net", "checkpoint": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
    "resume": ({"resume": "yes"}, "resume: must be True or False"),
}


# Data that cannot be: refused where it is made, or at the latest where it is given.
WRONG_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "train label above": (lambda: replace(DATA, train=labelled(DATA.train, 3)), "train"),
    "train label below": (lambda: replace(DATA, train=labelled(DATA.train, -1)), "train"),
    "search label": (lambda: replace(DATA, search=labelled(DATA.search, 9)), "search"),
    "no search images": (lambda: replace(DATA, search=empty(DATA.search)), "search"),
    "no train images": (lambda: replace(DATA, train=empty(DATA.train)), "train"),
    "search shape": (lambda: replace(DATA, search=lower(DATA.search)), "search"),
    "train shape": (lambda: replace(DATA, train=lower(DATA.train)), "train"),
    "search none": (lambda: replace(DATA, search=None), "search"),
    "few search images": (lambda: replace(DATA, search=DATA.search.select(torch.arange(2))), "search_images"),
    "std zero": (lambda: info(std=(0.0,)), "std"),
    "std nan": (lambda: info(std=(float("nan"),)), "std"),
    "mean infinite": (lambda: info(mean=(float("inf"),)), "mean"),
    "three means": (lambda: info(mean=(0.0, 0.0, 0.0)), "mean"),
    "one class": (lambda: info(classes=("a",)), "class|labels"),
    "a text of classes": (lambda: info(classes="abc"), "classes"),
    "no info": (lambda: replace(DATA, info=None), "info"),
    "height": (lambda: info(height=8), "1, 8, 16"),
    "height zero": (lambda: info(height=0), "height"),
}


def refused(folder: Path, **changes: Any) -> str:
    run_dir = folder / "run"
    given = {"model": net(3), "data": DATA, "test": TEST, "run_dir": run_dir, "config": SETTINGS, **changes}
    with pytest.raises(InputError) as caught:
        autoprune.compress(**given)
    assert list(folder.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_cannot_be_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, word = WRONG_DATA[case]
    with pytest.raises(InputError, match=word):
        autoprune.compress(net(3), make(), test=TEST, run_dir=tmp_path / "run", config=SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_none(case: str, tmp_path: Path) -> None:
    make, message = MODELS[case]
    said = refused(tmp_path, model=make())
    assert "model" in said
    assert message in said


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model(tmp_path: Path) -> None:
    assert "model: is a TorchScript module" in refused(tmp_path, model=torch.jit.script(net(3)))


@pytest.mark.parametrize("case", OTHERS)
def test_other_arguments(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes, message = OTHERS[case]
    assert message in refused(tmp_path, **changes)


def test_a_refused_call_changes_nothing(tmp_path: Path) -> None:
    model = net(3).bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused(tmp_path, model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_messages_are_cut_and_keep_both_ends() -> None:
    message = str(InputError(f"field: {'x' * 100_000}; choose another"))
    assert len(message) < 2100
    assert message.startswith("field: xx")
    assert "; choose another (" in message
    assert str(RunError("short")) == "short"
    assert cut("abc", 3) == "abc"
    assert len(shown([1] * 100_000)) < 250


def test_what_has_no_repr_is_shown_by_its_type() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError

    assert shown(Shy()) == "a Shy that cannot be shown"
    assert shown(10**5000) == "a int that cannot be shown"

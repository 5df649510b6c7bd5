"""Weights come back bit for bit; broken, foreign and malicious files are refused and nothing in them is run."""

import argparse
import gzip
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from autoprune.errors import ModelError
from autoprune.foundation import progress
from autoprune.models import ModelSpec, build_model, load_weights, save_weights, tensor_state
from autoprune.models.checkpoint import extra_state_left_out
from autoprune.models.stated_accuracy import stated_accuracy


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
        load_weights(net(), str(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file is what it says
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
def test_whole_pickled_models_are_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match="holds more than tensors"):
        load_weights(net(), str(tmp_path / "net.pt"))


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
        load_weights(net(), str(tmp_path / "net.pt"))


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


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def changed(tensors: dict[str, Tensor], **new: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """With the tensors of these names (`_` for `.`) made anew."""
    return {name: new.get(name.replace(".", "_"), lambda value: value)(value) for name, value in tensors.items()}


def loaded(content: Any, path: Path, *, key: str | None = None, model: nn.Module | None = None) -> nn.Module:
    torch.save(content, path)
    model = net(1) if model is None else model
    load_weights(model, str(path), key=key)
    return model


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "_orig_mod.module.model."]
)
def test_prefixes_of_wrappers_are_read_as_if_absent(tmp_path: Path, prefix: str) -> None:
    model = net()
    content = {"epoch": 3, "state_dict": prefixed(prefix, model.state_dict())}
    assert same(loaded(content, tmp_path / "net.pt").state_dict(), model.state_dict())


def test_wrappers_inside_a_model_and_around_it_are_read_as_if_absent(tmp_path: Path) -> None:
    state = net().state_dict()
    inside = {name.replace("layer1.", "layer1.module.").replace("fc.", "fc._orig_mod."): state[name] for name in state}
    assert same(loaded(inside, tmp_path / "net.pt").state_dict(), state)
    wrapped = loaded(state, tmp_path / "net.pt", model=nn.DataParallel(net(1)))
    assert same(wrapped.state_dict(), prefixed("module.", state))


def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    other = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    for prefix in ("", "module."):
        loaded(prefixed(prefix, model.state_dict()), tmp_path / "net.pt", model=other)
        assert same(other.state_dict(), model.state_dict())


class Arguments(argparse.Namespace):
    """As scripts have them, but of a class of their own."""


BESIDE = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, names=["a"]),
    "best": np.float64(0.9),
    "random": np.arange(5, dtype=np.uint32),
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
    "loss": torch.tensor(0.5),
}


@pytest.mark.parametrize(
    "names",
    [
        "state_dict",
        "model",
        "net",
        "model_state_dict",
        "ema",
        "model_ema",
        "state_dict_ema",
        "weights",
        "mine.deep.set",
    ],
)
def test_sets_are_found_under_their_names_beside_plain_values(tmp_path: Path, names: str) -> None:
    content: Any = net().state_dict()
    for name in reversed(names.split(".")):
        content = {name: content}
    assert same(loaded(BESIDE | content, tmp_path / "net.pt").state_dict(), net().state_dict())


def test_weights_beside_plain_values_on_one_level(tmp_path: Path) -> None:
    assert same(loaded({"epoch": 3, **net().state_dict()}, tmp_path / "net.pt").state_dict(), net().state_dict())


def test_of_two_sets_the_one_taken_is_said_and_a_key_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_shown", True)
    path = tmp_path / "net.pt"
    plain, averaged = net(2).state_dict(), net(3).state_dict()
    content = {"model_ema": {"decay": 0.9, "module": averaged}, "model": prefixed("module.", plain)}
    assert same(loaded(content, path).state_dict(), plain)
    said = capsys.readouterr().err
    assert f"{path}: weights under 'model' are taken; 'model_ema.module' is there too: model.checkpoint_key" in said
    for key, expected in (("model", plain), ("model_ema", averaged), ("model_ema.module", averaged)):
        assert same(loaded(content, path, key=key).state_dict(), expected)
        assert capsys.readouterr().err == ""
    for wrong in ("ema", "optimizer", ""):
        with pytest.raises(ModelError, match=rf"key='{wrong}': no weights .* there are model, model_ema\.module$"):
            loaded(content, path, key=wrong)
    with pytest.raises(ModelError, match=r"one set of weights without a name; leave model\.checkpoint_key \('ema'\)"):
        loaded(plain, path, key="ema")


def test_of_two_sets_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    content = {"model": {"other.weight": torch.zeros(3)}, "ema": net().state_dict()}
    assert same(loaded(content, tmp_path / "net.pt").state_dict(), net().state_dict())
    wide = build_model(ModelSpec("resnet20", 10, 1, width=0.5))
    with pytest.raises(ModelError, match=r"does not fit the model under 'ema' \(.*; it also holds 'model'"):
        loaded(content, tmp_path / "net.pt", model=wide)


def test_counters_are_left_out_and_a_missing_batch_count_is_zero(tmp_path: Path) -> None:
    state = net().state_dict()
    count = torch.zeros(1, dtype=torch.float64)
    counted = state | {"total_ops": count, "layer1.total_params": count, "n_averaged": torch.tensor(3)}
    assert same(loaded(prefixed("module.", counted), tmp_path / "net.pt").state_dict(), state)
    bare_state = {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}
    assert len(bare_state) < len(state)
    model = net(1)
    model.get_buffer("bn1.num_batches_tracked").fill_(7)
    assert same(loaded(bare_state, tmp_path / "net.pt", model=model).state_dict(), state)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What was said since the last call."""
    monkeypatch.setattr(progress, "_shown", True)
    return lambda: capsys.readouterr().err


@pytest.mark.parametrize("beginning", ["backbone.", "0.", "base_model.model.", "student._orig_mod.", "ema_model."])
def test_a_beginning_that_all_names_share_is_taken_off_and_said(
    tmp_path: Path, beginning: str, said: Callable[[], str]
) -> None:
    state = net().state_dict()
    content = {"state_dict": prefixed(beginning, state) | {"other.head.weight": torch.zeros(3)}}
    assert same(loaded(content, tmp_path / "net.pt").state_dict(), state)
    words = said()
    assert f"its names are read without '{beginning}'" in words
    assert "left out, as the model has none of that name: other.head.weight" in words


def test_the_numbers_of_a_sequence_may_have_a_number_before_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    loaded(prefixed("0.", model.state_dict()), tmp_path / "net.pt", model=other)
    assert same(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_a_training_keeps_beside_a_whole_set_is_left_out_and_said(
    tmp_path: Path, prefix: str, said: Callable[[], str]
) -> None:
    state = net().state_dict()
    beside = {"criterion.weight": torch.ones(3), "train_acc.tp": torch.zeros(2), "best_acc": torch.tensor(0.5)}
    for more in (beside, prefixed("ema_model.", net(2).state_dict())):
        assert same(loaded(prefixed(prefix, state) | more, tmp_path / "net.pt").state_dict(), state)
        assert f"left out, as the model has none of that name: {min(more)}, " in said()
    copies = prefixed("module.", net(2).state_dict())
    assert same(loaded(state | copies, tmp_path / "net.pt").state_dict(), state)
    assert "none of that name: module.bn1.bias" in said()


@pytest.mark.parametrize("name", ["conv1.bias", "layer1.9.conv1.weight", "head2.weight", "extra.conv1.weight"])
def test_weights_of_layers_that_the_model_lacks_are_not_left_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=rf"does not fit the model \({name} unexpected; 1 in all\)"):
        loaded(net().state_dict() | {name: torch.zeros(4)}, tmp_path / "net.pt")


def test_missing_and_unexpected_names_are_both_shown(tmp_path: Path) -> None:
    state = {name.replace("conv1", "first"): value for name, value in net().state_dict().items()}
    with pytest.raises(ModelError, match=r"\(conv1\.weight missing; \S+ missing; first\.weight unexpected; \S+ unex"):
        loaded(state, tmp_path / "net.pt")


def test_of_sets_under_unknown_names_a_key_must_choose(tmp_path: Path) -> None:
    path, first, second = tmp_path / "net.pt", net(2).state_dict(), net(3).state_dict()
    nested = {"teacher": first, "student": second}
    flat = prefixed("teacher.", first) | prefixed("student.", second)
    for content, at in ((nested, ""), (flat, ""), ({"state_dict": flat}, "state_dict.")):
        with pytest.raises(
            ModelError, match=rf"'{at}(teacher|student)', '{at}(student|teacher)': model\.checkpoint_key"
        ):
            loaded(content, path)
        assert same(loaded(content, path, key=f"{at}student").state_dict(), second)
    assert same(loaded(nested | {"model": second}, path).state_dict(), second)
    assert same(loaded({"optimizer": {"exp_avg": first}, "mine": second}, path).state_dict(), second)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


def test_tied_weights_of_which_one_was_saved_are_filled(tmp_path: Path, said: Callable[[], str]) -> None:
    model, other = Tied(), Tied()
    safetensors.torch.save_model(model, str(tmp_path / "net.safetensors"))
    load_weights(other, str(tmp_path / "net.safetensors"))
    assert same(other.state_dict(), model.state_dict())
    assert "second.weight is first.weight, to which the model ties it" in said()


def masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.random_unstructured(layer, "bias", amount=0.5)
    return layer


PARAMETRISED: list[Callable[[nn.Module], nn.Module]] = [
    masked,
    weight_norm,
    lambda layer: weight_norm(layer, dim=None),
    parametrizations.weight_norm,
    spectral_norm,
    parametrizations.spectral_norm,
]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("parametrise", PARAMETRISED)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(4, 4), (1, 4)),
        (lambda: nn.ConvTranspose2d(4, 4, 3), (1, 4, 5, 5)),
        (lambda: nn.Conv1d(2, 3, 3), (1, 2, 5)),
    ],
)
def test_parametrised_weights_are_baked_in_and_said(
    tmp_path: Path,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    parametrise: Callable[[nn.Module], nn.Module],
    said: Callable[[], str],
) -> None:
    model, other = nn.Sequential(parametrise(make())), nn.Sequential(make())
    images = torch.rand(shape)
    with torch.no_grad():
        next(model.parameters()).mul_(3)
    for _ in range(5):  # which spectral norms need
        model(images)
    loaded(prefixed("module.", model.eval().state_dict()), tmp_path / "net.pt", model=other)
    torch.testing.assert_close(other(images), model(images))
    assert "parametrised weights are baked in, as they act: " in said()


def test_parts_of_another_shape_are_not_multiplied_out(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**12)
    with pytest.raises(ModelError, match=r"0\.weight missing; 0\.weight_mask unexpected; 0\.weight_orig unexpected"):
        loaded(
            {"0.bias": torch.zeros(2), "0.weight_orig": huge, "0.weight_mask": huge},
            tmp_path / "net.pt",
            model=nn.Sequential(nn.Linear(2, 2)),
        )


def test_parametrised_weights_of_other_kinds_name_the_call_that_removes_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Tanh())
    with pytest.raises(
        ModelError, match=r"0\.parametrizations\.weight\.original unexpected; .*remove_parametrizations\("
    ):
        loaded(model.state_dict(), tmp_path / "net.pt", model=nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.timeout(20)
def test_files_that_hold_themselves_are_read_at_once(tmp_path: Path) -> None:
    itself: dict[str, Any] = net().state_dict() | {"weight": torch.zeros(1)}
    itself |= dict.fromkeys((f"k{number}" for number in range(400)), itself)
    torch.save(itself, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"does not fit the model \(weight unexpected; 1 in all\)$"):
        load_weights(net(), str(tmp_path / "net.pt"))
    del itself["weight"]
    assert same(loaded(itself, tmp_path / "net.pt").state_dict(), net().state_dict())
    assert same(loaded(itself, tmp_path / "net.pt", key="k7").state_dict(), net().state_dict())
    many = {f"epoch{number}": {"weight": torch.zeros(1)} for number in range(1001)}
    with pytest.raises(ModelError, match="holds more than 1000 sets of tensors"):
        loaded(many, tmp_path / "net.pt")


def test_names_are_escaped_and_cut_in_messages(tmp_path: Path, said: Callable[[], str]) -> None:
    state, path = net().state_dict(), tmp_path / "net.pt"
    for name, part in (("a\n\x1b[31m", r"'a\\n\\x1b\[31m' unexpected"), ("x" * 5000, r"'x{48} … x{48}' \(5,002 ch")):
        for content in (
            state | {name: torch.zeros(1)},
            {name: {"weight": torch.zeros(1)}, "model": {name: torch.zeros(1)}},
        ):
            with pytest.raises(ModelError, match=part.removesuffix(" unexpected")) as caught:
                loaded(content, path)
            assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    loaded({"\x1b[2J" + "k" * 5000: state, "model": state | {"n_averaged": torch.tensor(1)}}, path)
    assert r"'\x1b[2Jkkk" in (words := said()) and len(words) < 500


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([{"a": torch.zeros(1)}], r"a list of 1 values; save the one .*torch\.load\(FILE\)\[0\]"),
        ({"models": ({"a": torch.zeros(1)},)}, r"a tuple of 1 values; save .*torch\.load\(FILE\)\['models'\]\[0\]"),
        ({"ema": {"shadow_params": [torch.zeros(1)]}}, r"without their names \(shadow_params\); .*copy_to"),
        (torch.optim.Adam(nn.Linear(1, 1).parameters()).state_dict(), "the state of an optimizer; where the model"),
        ({0: torch.zeros(1)}, "under names that are no texts; where the model"),
        ({"a": np.zeros(1)}, r"NumPy arrays; .*torch\.from_numpy"),
        ({}, "nothing; where the model was made"),
        (None, "a NoneType alone; where the model"),
    ],
)
def test_what_a_file_holds_instead_of_weights_is_told(tmp_path: Path, content: object, part: str) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=rf"net\.pt: holds no state dict of tensors but .*{part}"):
        load_weights(net(), str(tmp_path / "net.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(progress, "_shown", True)
    model = loaded(net().to(dtype).state_dict(), tmp_path / "net.pt")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("fc.weight"), net().get_parameter("fc.weight").to(dtype).float())
    assert f"its {str(dtype).removeprefix('torch.')} weights are computed with in the model's float32" in (
        capsys.readouterr().err
    )


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of torch, on sparse, quantised and nested tensors
@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda weight: weight.to(torch.int8), "is int8, the model wants float32; save the weights of the float model"),
        (lambda weight: weight.to(torch.int32), "is int32, the model wants float32"),
        (lambda weight: weight > 0, "is bool, the model wants float32"),
        (lambda weight: weight.to(torch.complex64), "is complex64, the model wants float32"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "is float8_e4m3fn, the model wants float32"),
        (lambda weight: weight.to_sparse(), r"is no dense tensor \(sparse_coo\); call \.to_dense\(\)"),
        (lambda weight: weight.to_sparse_csr(), r"is no dense tensor \(sparse_csr\)"),
        (lambda weight: weight.to("meta"), "is a meta tensor, without values"),
        (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), r"is quantised \(qint8\)"),
        (lambda weight: torch.nested.nested_tensor([weight[0]]), "is no dense tensor"),
        (lambda weight: weight.double() * 1e300, "holds NaN or infinity"),
        (lambda weight: weight * torch.nan, "holds NaN or infinity"),
    ],
)
def test_what_cannot_be_weights_is_named_and_leaves_the_model(
    tmp_path: Path, make: Callable[[Tensor], Tensor], part: str
) -> None:
    model = net(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=rf"net\.pt: fc\.weight {part}"):
        loaded(changed(net().state_dict(), fc_weight=make), tmp_path / "net.pt", model=model)
    assert same(before, model.state_dict())


def test_a_variance_below_zero_is_named(tmp_path: Path) -> None:
    spoilt = changed(net().state_dict(), bn1_running_var=lambda variance: variance - 1.5)
    with pytest.raises(ModelError, match=r"bn1\.running_var is below zero, which no variance is"):
        loaded(spoilt, tmp_path / "net.pt")


class Remembering(nn.Module):
    """A layer with extra state, and a causal mask that holds -inf."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.extra = extra
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_that_is_a_tensor_is_saved_and_loaded(tmp_path: Path) -> None:
    model, other = Remembering(torch.tensor([1, 2])), Remembering(torch.zeros(0))
    for path in (tmp_path / "net.safetensors", tmp_path / "net.pt"):
        if path.suffix == ".pt":
            torch.save(prefixed("module.", model.state_dict()), path)
        else:
            save_weights(model, path)
        load_weights(other, str(path))
        assert torch.equal(other.extra, torch.tensor([1, 2]))
        assert torch.equal(other.fc.weight, model.fc.weight)
        assert torch.equal(other.get_buffer("mask"), model.get_buffer("mask"))


def test_extra_state_that_is_no_tensor_stays_the_models(tmp_path: Path) -> None:
    model, other = Remembering({"mine": 1}), Remembering({"mine": 2})
    save_weights(model, tmp_path / "net.safetensors")
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as stored:
        assert sorted(stored.keys()) == ["fc.bias", "fc.weight", "mask"]
    load_weights(other, str(tmp_path / "net.safetensors"))
    assert other.extra == {"mine": 2}
    assert torch.equal(other.fc.weight, model.fc.weight)
    loaded(model.state_dict(), tmp_path / "net.pt", model=other)
    assert other.extra == {"mine": 2}


def test_extra_state_of_another_model_is_left_out(tmp_path: Path) -> None:
    state = Remembering({"mine": 1}).state_dict()
    plain = nn.Module()
    plain.fc = nn.Linear(2, 2)
    plain.register_buffer("mask", torch.zeros(2, 2))
    loaded(state, tmp_path / "net.pt", model=plain)
    assert torch.equal(plain.fc.weight, state["fc.weight"])


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
def test_programs_and_pickled_objects_say_how_to_save_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(net(), path)
    with pytest.raises(ModelError, match=r"a pickled autoprune\.\S+CifarResNet\); .* torch\.save\(model\.state_dict\("):
        load_weights(net(), str(path))
    torch.save({"state_dict": net().state_dict(), "args": Arguments(lr=1)}, path)
    with pytest.raises(ModelError, match=r"holds more than tensors \(a pickled \S+Arguments\); .*state_dict\(\)"):
        load_weights(net(), str(path))
    torch.jit.trace(net(), torch.zeros(1, 1, 8, 8)).save(path)
    with pytest.raises(ModelError, match=r"holds more than tensors: it is a TorchScript program.*jit\.load\('net\.pt'"):
        load_weights(net(), str(path))


def test_safetensors_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    save_weights(net(), tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").rename(tmp_path / "net.bin")
    other = net(1)
    load_weights(other, str(tmp_path / "net.bin"))
    assert same(other.state_dict(), net().state_dict())


def test_a_torch_file_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.pt").rename(tmp_path / "net.safetensors")
    other = net(1)
    load_weights(other, str(tmp_path / "net.safetensors"))
    assert same(other.state_dict(), net().state_dict())
    assert stated_accuracy(tmp_path / "net.safetensors") is None


def numpy_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def numpy_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weight=np.ones(3))


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": 1}))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net.pt", b"1")


def tar(path: Path) -> None:
    path.with_name("inner").write_bytes(b"1")
    with tarfile.open(path, "w") as file:
        file.add(path.with_name("inner"))


def index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))


def program(path: Path) -> None:
    images = (torch.zeros(1, 2),)
    torch.export.save(torch.export.export(nn.Linear(2, 2), images), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (numpy_array, "is a NumPy array"),
        (numpy_archive, r"is a NumPy archive; make a state dict of it: torch\.save\("),
        (plain_pickle, r"is a pickle that torch\.save did not write"),
        (archive, r"is a zip archive, not weights; unpack it .* \(net\.pt\)"),
        (tar, "is a tar archive, not weights; unpack it"),
        (lambda path: path.write_bytes(gzip.compress(b"1" * 99)), "is a gzip archive, not weights; unpack it"),
        (index, r"index of weights that lie in 2 other files \(model-1\.safetensors, model-2\.saf\S+\); join them"),
        (program, r"is an exported program, which is never run; .*torch\.export\.load\('net\.pt'\)"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 99), "is an HDF5 file"),
        (lambda path: path.write_bytes(b""), "is empty; copy"),
        (lambda path: path.write_bytes(b"P"), r"is too short to hold weights; copy"),
        (lambda path: path.write_bytes(b"{" * 99), "is text, not weights"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "is a web page"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"0" * 99), "is cut off or damaged"),
        (lambda path: path.write_bytes(b"0" * 99), "is neither safetensors nor what torch.save writes"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning")
def test_files_of_other_kinds_are_told_with_the_way_out(
    tmp_path: Path, make: Callable[[Path], object], part: str
) -> None:
    path = tmp_path / "net.pt"
    make(path)
    with pytest.raises(ModelError, match=rf"net\.pt: .*{part}") as caught:
        load_weights(net(), str(path))
    assert "weights_only" not in str(caught.value) and "miniz" not in str(caught.value)


def test_records_that_unpack_to_more_than_the_file_are_refused_unread(tmp_path: Path) -> None:
    path, small = tmp_path / "net.pt", tmp_path / "small.pt"
    torch.save({"weight": torch.zeros(10_000)}, path)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as other:
        for name in file.namelist():
            other.writestr(name, file.read(name))
    with pytest.raises(ModelError, match=r"small\.pt: is compressed, which torch\.save never does"):
        load_weights(net(), str(small))
    with zipfile.ZipFile(path, "a") as file:
        file.filelist *= 3
        file.writestr("archive/more", b"")
    with pytest.raises(ModelError, match=r"net\.pt: is damaged: its records would need more bytes than the file has"):
        load_weights(net(), str(path))


@pytest.mark.parametrize("name", ["", " ", "x" * 5000, "~nobody/x", "~no-such-person/x", "/dev/null", "a\0b", "FIFO"])
def test_names_that_are_no_files_get_one_message(tmp_path: Path, name: str) -> None:
    if name == "FIFO":
        name = str(tmp_path / "fifo.pt")
        os.mkfifo(name)
    with pytest.raises(ModelError, match=r"give a file or a shipped name \(resnet20-fashion-mnist\)$") as caught:
        load_weights(net(), name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("extra", [torch.tensor([1, 2]), {"mine": 1}])
def test_an_exporter_sees_parameters_and_buffers_alone(extra: Any) -> None:
    model = nn.Sequential(Remembering(extra))
    with extra_state_left_out(model):
        assert list(model.state_dict()) == ["0.mask", "0.fc.weight", "0.fc.bias"]
    assert "0._extra_state" in model.state_dict()
    assert set(tensor_state(model)) == {"0.mask", "0.fc.weight", "0.fc.bias"} | (
        {"0._extra_state"} if isinstance(extra, Tensor) else set()
    )
    with pytest.raises(KeyError), extra_state_left_out(model):
        raise KeyError
    assert "0._extra_state" in model.state_dict()


@pytest.mark.parametrize("copied", ["teacher", "ema", "swa_model", "model_ema"])
@pytest.mark.parametrize("word", ["_orig_mod", "module"])
def test_a_copy_beside_weights_that_were_wrapped_inside_is_left_out(copied: str, word: str, tmp_path: Path) -> None:
    """Of a layer called as a wrapper is, too."""

    class Net(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.head = nn.Conv2d(4, 2, 1)

    trained, other, loaded = Net(0), Net(1), Net(2)
    wrapped = {name.replace("net.", f"net.{word}."): value for name, value in trained.state_dict().items()}
    path = tmp_path / "weights.pt"
    torch.save(wrapped | {f"{copied}.{name}": value for name, value in other.state_dict().items()}, path)
    load_weights(loaded, str(path))
    assert same(loaded.state_dict(), trained.state_dict())

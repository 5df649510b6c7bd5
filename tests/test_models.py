"""Built-in models by numbers worked out by hand; models of the user's own; what is no classifier of the data."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.errors import InputError, ModelError
from autoprune.models import ModelSpec, build_model, check_classifier
from autoprune.models.build import BUILT_IN


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "in_channels", "num_classes", "expected"),
    [
        # 9·16 + 32 | 6·(9·16² + 32) | 9·16·32 + 64 + 5·(9·32² + 64) + 16·32 + 64 | 9·32·64 + 128 + 5·(9·64² + 128)
        # + 32·64 + 128 | 64·10 + 10: 176 + 14,016 + 51,648 + 205,696 + 650
        ("resnet20", 1, 10, 272_186),
        ("resnet20", 3, 10, 272_474),  # two more input channels: 2·9·16
        ("resnet20", 3, 100, 278_324),  # 90 more classes: 90·65
        # as above with 18, 17 and 17 convolutions: 464 + 42,048 + 163,008 + 649,600 + 650
        ("resnet56", 3, 10, 855_770),
        # convolutions 1,728 + 36,864 + 73,728 + 147,456 + 294,912 + 2·589,824 + 1,179,648 + 5·2,359,296;
        # BatchNorm 2·4,224; linear 5,130
        ("vgg16_bn", 3, 10, 14_724_042),
        ("vgg16_bn", 1, 10, 14_722_890),  # two fewer input channels: 2·9·64
        # torchvision's has 3,504,872 with 1,000 classes; 990 fewer classes: 990·1,281
        ("mobilenet_v2", 3, 10, 2_236_682),
        ("mobilenet_v2", 1, 10, 2_236_106),  # two fewer input channels: 2·9·32
    ],
)
def test_parameters_by_hand(name: str, in_channels: int, num_classes: int, expected: int) -> None:
    assert params(build_model(ModelSpec(name, num_classes, in_channels))) == expected


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(("in_channels", "size"), [(1, 28), (3, 32)])
def test_models_classify_images_of_both_sizes(name: str, in_channels: int, size: int) -> None:
    model = build_model(ModelSpec(name, 7, in_channels, width=0.25))
    assert not model.training
    check_classifier(model, name, (in_channels, size, size), 7)
    with torch.no_grad():
        out = model(torch.randn(3, in_channels, size, size))
    assert out.shape == (3, 7)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("resnet20", "layer1", (2, 16, 32, 32)),
        ("resnet20", "layer2", (2, 32, 16, 16)),
        ("resnet56", "layer3", (2, 64, 8, 8)),
        ("vgg16_bn", "features", (2, 512, 2, 2)),
        ("mobilenet_v2", "blocks.2", (2, 24, 32, 32)),  # the first two strides of the original are 1 here
        ("mobilenet_v2", "head", (2, 1280, 4, 4)),
    ],
)
def test_shapes_inside_by_hand(name: str, module: str, expected: tuple[int, ...]) -> None:
    model = build_model(ModelSpec(name, 10, 3))
    shapes = []
    model.get_submodule(module).register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    assert shapes == [expected]


def test_depths_by_hand() -> None:
    for name, convolutions in (("resnet20", 19 + 2), ("resnet56", 55 + 2), ("vgg16_bn", 13), ("mobilenet_v2", 52)):
        model = build_model(ModelSpec(name, 10, 3))
        assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions


def test_width_scales_channels() -> None:
    half = build_model(ModelSpec("resnet20", 10, 1, width=0.5))
    assert half.get_submodule("conv1").weight.shape == (8, 1, 3, 3)
    assert half.get_submodule("fc").weight.shape == (10, 32)
    slim = build_model(ModelSpec("mobilenet_v2", 10, 1, width=0.1))
    assert min(module.out_channels for module in slim.modules() if isinstance(module, nn.Conv2d)) == 8


def test_builds_repeat_from_a_seed() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_model(ModelSpec("resnet20", 10, 1)).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


FACTORIES = """
import torch
from torch import nn

def all_three(num_classes, in_channels, width):
    hidden = int(4 * width)
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 16, hidden), nn.Linear(hidden, num_classes))

def none():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))

def not_a_model(num_classes):
    return "model"

def fails(num_classes):
    raise KeyError("weights")

def asks_more(num_classes, depth):
    ...
"""


@pytest.fixture
def factories(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return str(path)


def test_factories_get_what_they_name(factories: str) -> None:
    model = build_model(ModelSpec(f"{factories}:all_three", 5, 1, width=2.0))
    assert not model.training
    assert params(model) == 16 * 8 + 8 + 8 * 5 + 5
    check_classifier(model, "mine", (1, 4, 4), 5)
    check_classifier(build_model(ModelSpec(f"{factories}:none", 5, 1)), "mine", (1, 4, 4), 5)


@pytest.mark.parametrize(
    ("factory", "part"),
    [
        ("not_a_model", "the factory returned str, not an nn.Module"),
        ("fails", "the factory failed (KeyError: 'weights')"),
        ("asks_more", "missing 1 required positional argument: 'depth'"),
    ],
)
def test_faults_of_factories_are_told(factories: str, factory: str, part: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(ModelSpec(f"{factories}:{factory}", 5, 1))
    assert str(caught.value).startswith(f"model.name={factories}:{factory}: ")
    assert part in str(caught.value)


def test_unknown_names_list_the_known_ones(factories: str) -> None:
    with pytest.raises(ModelError, match=r"model\.name=resnet18: unknown; built in are resnet20, resnet56, vgg16_bn"):
        build_model(ModelSpec("resnet18", 10, 3))
    with pytest.raises(InputError, match=r"model\.name=.*has no callable 'missing'"):
        build_model(ModelSpec(f"{factories}:missing", 10, 3))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_models_of_other_libraries(library: str) -> None:
    """The real library where it is installed; where it is not, the message says how to get it."""
    if importlib.util.find_spec(library) is None:
        with pytest.raises(ModelError, match=rf"{library} is not installed; pip install 'autoprune\[vision\]'"):
            build_model(ModelSpec(f"{library}:resnet18", 10, 3))
        return
    model = build_model(ModelSpec(f"{library}:resnet18", 10, 3))
    assert params(model) == 11_689_512 - 990 * 513
    check_classifier(model, "resnet18", (3, 32, 32), 10)
    for name in ("no_such_model", "", "hf-hub:somebody/model", "local-dir:/", "fcn_resnet50", "x" * 5000):
        with pytest.raises(ModelError, match=rf"{library} cannot build it: of its .* classifiers none has") as caught:
            build_model(ModelSpec(f"{library}:{name}", 10, 3))
        assert len(str(caught.value)) < 600
    with pytest.raises(ModelError, match=r"near it are .*resnet18"):
        build_model(ModelSpec(f"{library}:resnet-18", 10, 3))
    if library == "torchvision":  # timm leaves the head out, which the data's check tells
        with pytest.raises(
            ModelError, match=r"model\.name=torchvision:resnet18: torchvision cannot build it \(.*negat"
        ):
            build_model(ModelSpec("torchvision:resnet18", -3, 3))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_first_import_of_a_library_works_beside_this_torch(library: str) -> None:
    """In a process of its own: a CPU build of torch makes the very first import of torchvision fail."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = f"from autoprune.models import ModelSpec, build_model; build_model(ModelSpec('{library}:resnet18', 10, 3))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_what_is_no_classifier_of_the_data_is_told() -> None:
    model = build_model(ModelSpec("resnet20", 10, 3, width=0.25))
    with pytest.raises(ModelError, match=r"net: does not take the data's images \(1, 28, 28\)"):
        check_classifier(model, "net", (1, 28, 28), 10)
    with pytest.raises(ModelError, match=r"which has 100 classes: it gives \(10,\) for each image"):
        check_classifier(model, "net", (3, 32, 32), 100)
    with pytest.raises(ModelError, match=r"it gives \(4, 32, 32\) for each image"):
        check_classifier(nn.Conv2d(3, 4, 1), "net", (3, 32, 32), 10)
    with pytest.raises(ModelError, match="it gives tuple for each image"):
        check_classifier(nn.LSTM(4, 4), "net", (3, 4), 10)  # type: ignore[arg-type]


def test_the_check_leaves_the_model_as_it_was() -> None:
    model = build_model(ModelSpec("resnet20", 10, 1, width=0.25)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_classifier(model, "net", (1, 28, 28), 10)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

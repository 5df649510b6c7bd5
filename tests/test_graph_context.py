"""What follows each layer in graphs that were really exported."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from models_for_tests import SMALL_NETS
from torch import Tensor, nn
from torch.nn import functional

from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.prediction.graph_context import epilogues
from autoprune.pruning.cost import layer_shapes


def context(model: nn.Module, input_shape: tuple[int, int, int], folder: Path) -> dict[str, tuple[str, ...]]:
    channels = input_shape[0]
    info = DataInfo("test", ("a", "b"), *input_shape, mean=(0.0,) * channels, std=(1.0,) * channels)
    file = folder / "model.onnx"
    export_onnx(model.eval(), file, info)
    layers = layer_shapes(model, input_shape)
    found = epilogues(onnx.load(str(file)), layers)
    assert list(found) == list(layers)
    return found


def of_small_net(name: str, folder: Path) -> dict[str, tuple[str, ...]]:
    net = SMALL_NETS[name]
    return context(net.build(), net.input_shape, folder)


def test_resnet20(tmp_path: Path) -> None:
    """A residual is fused into one of the two layers that it adds, or into the only one."""
    found = of_small_net("resnet20", tmp_path)
    shortcuts = [name for name in found if "shortcut" in name]
    assert len(shortcuts) == 2
    assert found.pop("conv1") == ("Relu",)
    assert found.pop("fc") == ()
    for shortcut in shortcuts:
        block = shortcut.split(".shortcut")[0]
        both = [found.pop(shortcut), found.pop(f"{block}.conv2")]
        assert sorted(both) == [(), ("Add", "Relu")]
    for name, epilogue in found.items():
        assert epilogue == (("Add", "Relu") if name.endswith("conv2") else ("Relu",))
    assert Counter(found.values()) == {("Relu",): 9, ("Add", "Relu"): 7}


def test_vgg16_bn(tmp_path: Path) -> None:
    """Pooling ends an epilogue."""
    found = of_small_net("vgg16_bn", tmp_path)
    assert found.pop("classifier") == ()
    assert list(found.values()) == [("Relu",)] * 13


def test_mobilenet_v2(tmp_path: Path) -> None:
    """Expansion and depthwise layers are clipped; a projection has no activation, but in some blocks a residual."""
    net = SMALL_NETS["mobilenet_v2"]
    model = net.build()
    found = context(model, net.input_shape, tmp_path)
    projections = 0
    for name, module in model.named_modules():
        if hasattr(module, "conv") and isinstance(module.conv, nn.Sequential):
            first, last = module.conv[0], [layer for layer in module.conv if isinstance(layer, nn.Conv2d)][-1]
            residual = (
                first.in_channels == last.out_channels
                and max(layer.stride[0] for layer in module.conv if isinstance(layer, nn.Conv2d)) == 1
            )
            index = next(index for index, layer in enumerate(module.conv) if layer is last)
            assert found.pop(f"{name}.conv.{index}") == (("Add",) if residual else ())
            projections += 1
    assert projections == 17
    assert found.pop("classifier") == ()
    assert set(found.values()) == {("Clip",)}


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(), ("Relu",)),
        (nn.ReLU6(), ("Clip",)),
        (nn.Sigmoid(), ("Sigmoid",)),
        (nn.Tanh(), ("Tanh",)),
        (nn.LeakyReLU(), ("LeakyRelu",)),
        (nn.Hardswish(), ("HardSwish",)),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), ("Relu", "Tanh")),
        (nn.SiLU(), ()),  # its input is used twice
        (nn.Identity(), ()),
        (nn.MaxPool2d(2), ()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_activations(activation: nn.Module, expected: tuple[str, ...], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), activation, nn.Conv2d(2, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 6, 6))
    assert context(model, (1, 6, 6), tmp_path) == {"0": expected, "2": (), "4": ()}


class Functional(nn.Module):
    """A convolution that no module makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.weight = nn.Parameter(torch.randn(2, 3, 1, 1))
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.conv2d(self.first(x), self.weight).mean((2, 3)))
        return logits


class Twice(nn.Module):
    """A layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(self.conv(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(("model", "conv"), [(Functional(), "first"), (Twice(), "conv")])
def test_a_graph_of_other_layers_falls_back(model: nn.Module, conv: str, tmp_path: Path) -> None:
    """The commonest epilogue, though nothing follows these layers."""
    assert context(model, (1, 6, 6), tmp_path) == {conv: ("Relu",), "head": ()}


class Tokens(nn.Module):
    """Linear layers on (N, T, C): a product and the sum of a bias; then a residual, an embedding and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, 4, 3, 3))
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.shifted = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.patches(x) + self.places)
        x = functional.relu6(self.shifted(x) + 3)
        x = x.flatten(2).transpose(1, 2)
        x = torch.relu(self.first(x))
        x = torch.tanh(self.second(x) + x)
        logits: Tensor = self.head(x.mean(1))
        return logits


def test_only_other_activations_are_residuals(tmp_path: Path) -> None:
    """Sums of biases, parameters and constants are none; after a linear layer a residual is never fused."""
    assert context(Tokens(), (1, 6, 6), tmp_path) == {
        "patches": ("Relu",),
        "shifted": ("Clip",),
        "first": ("Relu",),
        "second": ("Tanh",),
        "head": (),
    }


class Residuals(nn.Module):
    """Three ways to add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.doubled = (nn.Conv2d(channels, 2, 1) for channels in (1, 2, 2, 2))
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.sigmoid(self.left(x)) + torch.tanh(self.right(x))
        x = self.doubled(x)
        logits: Tensor = self.head((x + x).mean((2, 3)))
        return logits


def test_a_sum_of_two_activated_layers(tmp_path: Path) -> None:
    """It belongs to the later one; the sum of a layer with itself to none."""
    assert context(Residuals(), (1, 4, 4), tmp_path) == {
        "stem": ("Relu",),
        "left": ("Sigmoid",),
        "right": ("Tanh", "Add"),
        "doubled": (),
        "head": (),
    }

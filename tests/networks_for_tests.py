"""Small networks of the kinds that people have and that are easily cut wrong; each for inputs of its own.

`least` is the share of parameters that must go at keep=0.5, 0 where a network may stay whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from habits_for_tests import (
    Adapted,
    Answers,
    ByWidth,
    Inferring,
    Keeps,
    Logs,
    MaskedAnswers,
    Named,
    Sampled,
    Scales,
    Teaches,
    Together,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune


def images(channels: int = 2, size: int = 8) -> tuple[Tensor, ...]:
    return (torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1)),)


def unit(inputs: int, outputs: int, **given: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **given), nn.BatchNorm2d(outputs), nn.ReLU())


class Between(nn.Module):
    """A stem of 8 channels, something between, and a layer that reads `outputs` channels of it."""

    def __init__(self, between: Callable[[Tensor], Tensor], outputs: int = 8) -> None:
        super().__init__()
        self.between = between
        self.stem, self.read, self.head = unit(2, 8), unit(outputs, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.between(self.stem(x))).mean((2, 3)))


class OptionA(nn.Module):
    """The CIFAR ResNet of the paper: shortcuts take every second pixel and pad channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(2, 6)
        self.a1, self.a2 = unit(6, 6), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.b1, self.b2 = unit(6, 10, stride=2), nn.Sequential(nn.Conv2d(10, 10, 3, padding=1), nn.BatchNorm2d(10))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.a2(self.a1(x)) + x)
        x = torch.relu(self.b2(self.b1(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(x.mean((2, 3)))


class InPlace(nn.Module):
    """A residual block that adds in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = unit(2, 8), unit(8, 12), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.second(self.first(x))
        y += x
        return self.head(y.relu_().mean((2, 3)))


class Written(nn.Module):
    """A temporal shift: parts of a tensor are written over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.zeros_like(x)
        y[:, :2] = x[:, :2].flip(2)
        y[:, 2:] = x[:, 2:]
        return self.head(self.body(y).mean((2, 3)))


class Pyramid(nn.Module):
    """Three levels that are made alike, enlarged, added, and read by one shared head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(2, 6), unit(6, 10, stride=2)
        self.side_a, self.side_b, self.shared = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 8, 1), unit(8, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.side_b(self.b(a))
        a = self.side_a(a) + F.interpolate(b, scale_factor=2.0)
        return self.head(self.shared(a).mean((2, 3)) + self.shared(b).mean((2, 3)))


class Halves(nn.Module):
    """The block of a detector: a convolution's halves, of which one goes on, and all are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.m1, self.m2, self.leave = unit(2, 12), unit(6, 6), unit(6, 6), unit(24, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        parts.append(self.m1(parts[-1]))
        parts.append(self.m2(parts[-1]))
        return self.head(self.leave(torch.cat(parts, 1)).mean((2, 3)))


class Excited(nn.Module):
    """A gate from all channels to each, by one-by-one convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = unit(2, 12), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.read, self.head = unit(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(self.up(torch.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.read(x).mean((2, 3)))


class TiedPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = unit(2, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.read, self.head = unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(torch.relu(self.two(torch.relu(self.one(self.stem(x)))))).mean((2, 3)))


class Again(nn.Module):
    """One layer that runs four times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.read, self.head = unit(2, 8), unit(8, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(4):
            x = x + self.again(x)
        return self.head(self.read(x).mean((2, 3)))


class Bare(nn.Module):
    """Weights without layers: a convolution's, a scale for each channel, a position map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(2, 8)
        self.kernel = nn.Parameter(torch.randn(10, 8, 3, 3) * 0.2)
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(10) + 0.5), nn.Parameter(torch.rand(1, 10, 8, 8))])
        self.register_buffer("shift", torch.rand(10))
        self.read, self.head = unit(10, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.stem(x), self.kernel, padding=1)
        x = x * self.scales[0].view(1, -1, 1, 1) + self.scales[1] + self.shift[:, None, None]
        return self.head(self.read(torch.relu(x)).mean((2, 3)))


class Sequence(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], **given: Any) -> None:
        super().__init__()
        self.stem = unit(2, 6)
        self.rnn = cell(6 * 8, 9, batch_first=True, **given)
        self.head = nn.Linear(9 * (2 if given.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.stem(x).permute(0, 3, 1, 2).flatten(2))[0].mean(1))


class Tokens(nn.Module):
    """An embedding, a linear layer with a gate, and the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.gate = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(12, 16)
        self.down = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.down((F.silu(self.gate(x)) * self.up(x)).mean(1))


class Attends(nn.Module):
    """Queries, keys and values of one linear layer; a hidden layer after them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = nn.Conv2d(2, 16, 4, stride=4), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 40), nn.Linear(40, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return self.head((x + self.down(F.gelu(self.up(self.norm(x))))).mean(1))


class Signal(nn.Module):
    """Dilated causal 1-D convolutions with gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 10, 3)
        self.filter, self.gate = nn.Conv1d(10, 12, 2, dilation=2), nn.Conv1d(10, 12, 2, dilation=2)
        self.mix, self.head = nn.Conv1d(12, 10, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pad(x, (2, 0)))
        y = F.pad(x, (2, 0))
        x = x + self.mix(torch.tanh(self.filter(y)) * torch.sigmoid(self.gate(y)))
        return self.head(torch.relu(x).mean(2))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.ConvTranspose3d(6, 8, 2, stride=2), nn.ReLU(), nn.Conv3d(8, 10, 1), nn.AdaptiveAvgPool3d(1)),
            *(nn.Flatten(), nn.Linear(10, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ManyAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.names = (
            nn.Sequential(unit(2, 8), unit(8, 10)),
            nn.Conv2d(10, 4, 1),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        x = self.body(x) * scale[:, None, None, None]
        return {"boxes": self.boxes(x), "names": (self.names(x.mean((2, 3))), x.amax((2, 3)).sum(1))}


class OwnForward(nn.Conv2d):
    """A convolution whose filters are centred first."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def multiplied() -> nn.Module:
    """Three filters for each channel."""
    return nn.Sequential(
        *(unit(2, 6), nn.Conv2d(6, 18, 3, padding=1, groups=6), nn.BatchNorm2d(18), nn.ReLU(), unit(18, 10)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3)),
    )


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            *(wrap(nn.Conv2d(2, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 10, 3)), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), wrap(nn.Linear(10, 3))),
        )

    return build


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def crossed(x: Tensor) -> Tensor:
    """First halves and second halves change places, and pairs are then interleaved."""
    first, second = x.chunk(2, 1)
    return shuffled(torch.cat([second, first.flip(2)], 1), 4)


def pooled_and_back(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def blurred(x: Tensor) -> Tensor:
    """One kernel for each channel, made for as many as there are."""
    return F.conv2d(x, torch.tensor([[0.2, 0.5, 0.3]]).expand(x.shape[1], 1, 1, 3), groups=x.shape[1])


def warped(x: Tensor) -> Tensor:
    turn = torch.tensor([[[0.8, 0.3, 0.1], [-0.3, 0.8, 0.0]]]).expand(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(turn, list(x.shape), align_corners=False), align_corners=False)


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]] = images
    least: float = 0.0


CASES: dict[str, Case] = {
    "option A": Case(OptionA, least=0.4),
    "added in place": Case(InPlace, least=0.6),
    "written over": Case(Written),
    "pyramid": Case(Pyramid, least=0.55),
    "halves": Case(Halves, least=0.55),
    "excited": Case(Excited, least=0.6),
    "tied": Case(TiedPair, least=0.5),
    "again": Case(Again, least=0.5),
    "bare": Case(Bare, least=0.5),
    "GRU": Case(lambda: Sequence(nn.GRU), least=0.2),
    "LSTM both ways": Case(lambda: Sequence(nn.LSTM, bidirectional=True), least=0.2),
    "two RNNs": Case(lambda: Sequence(nn.RNN, num_layers=2), least=0.2),
    "tokens": Case(Tokens, lambda: (torch.arange(14).view(2, 7) % 20,), least=0.4),
    "attends": Case(Attends, least=0.2),
    "signal": Case(Signal, lambda: (torch.randn(2, 1, 30),), least=0.6),
    "volume": Case(Volume, lambda: (torch.randn(2, 1, 4, 4, 4),), least=0.5),
    "many answers": Case(ManyAnswers, lambda: (*images(), torch.rand(2)), least=0.3),
    "own forward": Case(lambda: nn.Sequential(unit(2, 8), OwnForward(8, 10, 3), nn.Flatten(), nn.Linear(640, 3))),
    "multiplied": Case(multiplied, least=0.5),
    "weight norm": Case(wrapped(parametrizations.weight_norm), least=0.5),
    "spectral norm": Case(wrapped(parametrizations.spectral_norm), least=0.5),
    "masked": Case(wrapped(lambda layer: prune.random_unstructured(layer, "weight", amount=0.2))),
    "shuffled": Case(lambda: Between(shuffled), least=0.6),
    "crossed": Case(lambda: Between(crossed), least=0.3),
    "turned": Case(lambda: Between(lambda x: x.flip(1)), least=0.6),
    "rolled": Case(lambda: Between(lambda x: x.roll(3, 1)), least=0.3),
    "centred": Case(lambda: Between(lambda x: x - x.mean(1, keepdim=True)), least=0.3),
    "padded": Case(lambda: Between(lambda x: F.pad(x, (0, 0, 0, 0, 1, 3)), 12), least=0.5),
    "thinned": Case(lambda: Between(lambda x: x[:, 1::2], 4), least=0.3),
    "picked": Case(lambda: Between(lambda x: x[:, [3, 1, 7]], 3), least=0.2),
    "sorted": Case(lambda: Between(lambda x: x.sort(1).values), least=0.3),
    "normed over all": Case(lambda: Between(lambda x: F.normalize(x, dim=1)), least=0.3),
    "grouped norm": Case(lambda: Between(lambda x: F.group_norm(x, 2)), least=0.3),
    "instance norm": Case(lambda: Between(F.instance_norm), least=0.6),
    "response norm": Case(lambda: Between(lambda x: F.local_response_norm(x, 3)), least=0.3),
    "softmax": Case(lambda: Between(lambda x: x.softmax(1)), least=0.3),
    "gated": Case(lambda: Between(lambda x: F.glu(x, 1), 4), least=0.5),
    "unfolded": Case(lambda: Between(lambda x: F.pixel_unshuffle(x, 2), 32), least=0.6),
    "called by name": Case(Named, least=0.6),
    "answers an object": Case(Answers, least=0.4),
    "scales in no checkpoint": Case(Scales, least=0.4),
    "teaches in training": Case(Teaches, least=0.35),
    "not both together": Case(Together, least=0.4),
    "adapted": Case(Adapted, least=0.5),
    "inferring": Case(Inferring, least=0.6),
    "keeps its parameters": Case(Keeps, least=0.6),
    "logs": Case(Logs, least=0.6),
    "sampled": Case(Sampled, least=0.4),
    "masked answers": Case(MaskedAnswers, least=0.6),
    "by width": Case(ByWidth, least=0.2),
    "enlarged": Case(lambda: Between(lambda x: F.interpolate(x, scale_factor=2.0)), least=0.6),
    "enlarged exactly": Case(lambda: Between(lambda x: F.interpolate(x, (9, 9), mode="nearest-exact")), least=0.6),
    "enlarged smoothly": Case(lambda: Between(lambda x: F.interpolate(x, (9, 9), mode="bilinear")), least=0.6),
    "round the edges": Case(lambda: Between(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")), least=0.6),
    "mirrored at the edges": Case(lambda: Between(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), least=0.6),
    "pooled and back": Case(lambda: Between(pooled_and_back), least=0.6),
    "blurred": Case(lambda: Between(blurred), least=0.6),
    "channel shuffle": Case(lambda: Between(nn.ChannelShuffle(2)), least=0.6),
    "warped": Case(lambda: Between(warped), least=0.6),
    "quantised for show": Case(lambda: Between(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.01, 0, -128, 127))),
    "folded": Case(lambda: Between(lambda x: F.pixel_shuffle(x, 2), 2), least=0.3),
}

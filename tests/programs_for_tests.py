"""Random small networks: programs of convolutions and of whatever moves, joins, gates or takes channels apart."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

SIZE = 6


@dataclass(frozen=True)
class Step:
    """What is done to which earlier results (places in a list), and a number that it may need."""

    kind: str
    first: int
    second: int
    number: int


class Program(nn.Module):
    """Steps over a list of feature maps (N, C, 6, 6) that begins with the image; then a head of some kind."""

    def __init__(self, steps: tuple[Step, ...], head: str) -> None:
        super().__init__()
        self.steps, self.head = steps, head
        self.layers = nn.ModuleList()
        channels = [2]
        for step in steps:
            channels.append(self._add(step, channels))
        width = channels[-1]
        self.last = nn.Conv2d(width, 5, 3, padding=1)
        self.fc = nn.Linear(5 if head == "mean" else 5 * SIZE * SIZE, 3)

    def _add(self, step: Step, channels: list[int]) -> int:
        width = channels[step.first]
        if step.kind in ("conv", "normed"):
            layer: list[nn.Module] = [nn.Conv2d(width, step.number, 3, padding=1, bias=step.kind == "conv")]
            if step.kind == "normed":
                layer.append(nn.BatchNorm2d(step.number))
            self.layers.append(nn.Sequential(*layer, ACTIVATIONS[step.second % len(ACTIVATIONS)]()))
            return step.number
        if step.kind == "depthwise":
            self.layers.append(nn.Conv2d(width, width, 3, padding=1, groups=width))
            return width
        if step.kind == "attend":  # squeeze and excitation
            self.layers.append(nn.Sequential(nn.Linear(width, 3), nn.ReLU(), nn.Linear(3, width), nn.Sigmoid()))
            return width
        self.layers.append(nn.Identity())
        with torch.no_grad():
            shown = [torch.zeros(1, count, SIZE, SIZE) for count in (width, channels[step.second])]
            return apply(step, *shown).shape[1]

    def forward(self, image: Tensor) -> Tensor:
        results = [image]
        for step, layer in zip(self.steps, self.layers, strict=True):
            x, y = results[step.first], results[step.second] if step.second < len(results) else image
            if step.kind in ("conv", "normed", "depthwise"):
                results.append(layer(x))
            elif step.kind == "attend":
                results.append(x * layer(x.mean((2, 3)))[:, :, None, None])
            else:
                results.append(apply(step, x, y))
        x = torch.relu(self.last(results[-1]))
        if self.head == "mean":
            return self.fc(x.mean((2, 3)))
        return self.fc(HEADS[self.head](x).flatten(1))


def apply(step: Step, x: Tensor, y: Tensor) -> Tensor:
    """The steps without weights."""
    channels = x.shape[1]
    kind, number = step.kind, step.number
    if kind in ("add", "multiply") and y.shape[1] != channels:
        kind = "join"
    if kind in ("chunk", "gate", "shuffle") and channels % 2:
        kind = "flip"
    if kind == "add":
        return x + y
    if kind == "multiply":
        return x * torch.sigmoid(y)
    if kind == "join":
        return torch.cat([x, y], 1)
    if kind == "places":
        rows = torch.linspace(-1, 1, SIZE)[:, None].expand(len(x), 1, SIZE, SIZE)
        return torch.cat([rows, x] if number % 2 else [x, rows], 1)
    if kind == "flip":
        return x.flip(1)
    if kind == "mirror":
        return x + x.flip(1)
    if kind == "roll":
        return torch.roll(x, 1, 1)
    if kind == "pad":
        return F.pad(x, (0, 0, 0, 0, number % 3, (number + 1) % 3))
    if kind == "take":
        return x[:, -max(1, channels // 2) :]
    if kind == "drop":
        return x[:, : max(1, channels - 1)]
    if kind == "thin":
        return x[:, ::2]
    if kind == "chunk":
        first, second = x.chunk(2, 1)
        return torch.cat([second, torch.relu(first)], 1)
    if kind == "gate":
        return F.glu(x, 1)
    if kind == "shuffle":
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    if kind == "centre":
        return x - x.mean(1, keepdim=True)
    if kind == "spread":
        return torch.cat([torch.relu(x), torch.relu(-x)], 1)
    if kind == "spotlight":
        return x * torch.sigmoid(x.amax(1, keepdim=True))
    assert kind == "pick", kind
    return x[:, torch.arange(channels - 1, -1, -1)]


ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Softplus, nn.Identity)
HEADS = {
    "flat": lambda x: x,
    "last": lambda x: x.permute(0, 2, 3, 1),
    "turned": lambda x: x.transpose(2, 3),
}
PLAIN = ("add", "multiply", "join", "places", "flip", "mirror", "roll", "pad", "take", "drop", "thin")
MOVES = (*PLAIN, "chunk", "gate", "shuffle", "centre", "spread", "spotlight", "pick")


@st.composite
def programs(draw: st.DrawFn) -> Program:
    steps: list[Step] = [Step("normed", 0, 0, draw(st.integers(4, 8)))]
    for place in range(1, draw(st.integers(3, 8))):
        kind = draw(st.sampled_from(("conv", "normed", "depthwise", "attend", *MOVES)))
        number = draw(st.integers(3, 8))
        recent = st.integers(max(0, place - 2), place)
        steps.append(Step(kind, draw(recent), draw(st.integers(0, place)), number))
    return Program(tuple(steps), draw(st.sampled_from(("mean", *HEADS))))

"""Small networks with the habits of people's code around their layers: how they call, keep, answer and share."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Named(nn.Module):
    """Layers called by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 10, 3), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(input=torch.relu(self.first(input=x))))
        return self.head(input=x.mean((2, 3)))


@dataclass
class Answer:
    logits: Tensor
    features: list[Tensor]


class Answers(nn.Module):
    """Answers an object of its own, with the features of all layers, which therefore stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Answer:
        kept = self.body(self.stem(x))
        return Answer(self.head(kept.mean((2, 3))), [kept])


class Scales(nn.Module):
    """A scale of each channel that is no parameter and not in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x) * self.scale).mean((2, 3)))


class Teaches(nn.Module):
    """A second head that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)
        self.early = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = self.stem(x)
        logits = self.head(self.body(early).mean((2, 3)))
        return (logits, self.early(early.mean((2, 3)))) if self.training else logits


class Together(nn.Module):
    """Two groups that may go each alone, but not both: the code asks for nine channels of the sixteen."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.read, self.head = unit(2, 8), unit(2, 8), unit(16, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], 1)
        if both.shape[1] < 9:
            raise ValueError("too few channels")
        return self.head(self.read(both).mean((2, 3)))


class Adapted(nn.Module):
    """A linear layer with a low-rank one beside it (Hu et al. 2021), as a product of two bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.head = unit(2, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.down, self.up = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        return self.head(torch.relu(self.hidden(x) + x @ (self.up @ self.down).T))


class Inferring(nn.Module):
    """A part that runs in inference mode, which hides what it consists of from most tools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self.stem(x)
        return self.head(self.body(x).mean((2, 3)))


class Borrowed(nn.Module):
    """A layer kept in a plain list, so that it is none of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = unit(2, 8), nn.Linear(10, 3)
        self.hidden = [nn.Conv2d(8, 10, 3, padding=1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](self.stem(x)).mean((2, 3)))


class Keeps(nn.Module):
    """Parameters kept in a plain list as well: read from there, and for a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)
        self.kept = [self.head.bias, self.stem[0].weight]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.body(self.stem(x)).mean((2, 3)), self.head.weight, self.kept[0])


class Logs(nn.Module):
    """A hook closed over the network, which keeps what a layer answers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)
        self.log: list[Tensor] = []
        self.stem.register_forward_hook(lambda _module, _args, out: self.log.append(out))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Sampled(nn.Module):
    """Random numbers in between, as a variational autoencoder draws them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mean, self.read, self.head = unit(2, 8), nn.Conv2d(8, 4, 1), unit(4, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(self.stem(x))
        return self.head(self.read(mean + torch.randn_like(mean)).mean((2, 3))), mean


class MaskedAnswers(nn.Module):
    """Answers that must not be given are minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.body(self.stem(x)).mean((2, 3)))
        return logits.masked_fill(torch.tensor([False, True, False]), float("-inf"))


class Chances(nn.Module):
    """Answers a distribution, whose arguments PyTorch checks by their values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self.head(self.body(self.stem(x)).mean((2, 3))))


class ByWidth(nn.Module):
    """Adds where two widths are equal, and puts side by side where they are not: at two channels it is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(2, 8), unit(10, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = x + y if y.shape == x.shape else torch.cat([x, y], 1)
        return self.head(self.body(y).mean((2, 3)))

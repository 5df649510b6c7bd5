"""Small networks of every kind of coupling, and one trained on a little of Fashion-MNIST.

Weights, BatchNorm statistics and rankings are random, so that no channel is like another and no order is natural.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.config import AugmentConfig, DataConfig, TrainConfig
from autoprune.data import SearchData, load_search_data, normalise
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.space.policy import PruningPolicy
from autoprune.training.batches import Batch
from autoprune.training.batchnorm import recalibrate_batchnorm
from autoprune.training.teacher import Teacher
from autoprune.training.train import train_baseline


class FlattenNet(nn.Module):
    """Each channel of the second convolution feeds 2 x 3 inputs of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(6 * 2 * 3, 7)
        self.norm = nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.pool(self.features(x)), 1)
        logits: Tensor = self.head(torch.relu(self.norm(self.hidden(x))))
        return logits


class ConcatNet(nn.Module):
    """Dense connections: every layer sees the outputs of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 3, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x, self.second(torch.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.third(torch.relu(self.norm2(x)))], 1)
        logits: Tensor = self.head(torch.relu(self.norm3(x)).mean((2, 3)))
        return logits


class GroupedNet(nn.Module):
    """A grouped convolution, which is not cut, before one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.free = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.free(torch.relu(self.grouped(torch.relu(self.stem(x))))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class SmallNet:
    build: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]


SMALL_NETS: dict[str, SmallNet] = {
    "resnet20": SmallNet(lambda: build_model(ModelSpec("resnet20", 4, 1, 0.25)), (1, 8, 8)),
    "mobilenet_v2": SmallNet(lambda: build_model(ModelSpec("mobilenet_v2", 4, 1, 0.1)), (1, 8, 8)),
    "vgg16_bn": SmallNet(lambda: build_model(ModelSpec("vgg16_bn", 4, 1, 0.0625)), (1, 16, 16)),
    "flatten": SmallNet(FlattenNet, (2, 4, 6)),
    "concat": SmallNet(ConcatNet, (1, 5, 5)),
    "grouped": SmallNet(GroupedNet, (1, 5, 5)),
}


@cache
def elastic_net(name: str) -> ElasticModel:
    """One of `SMALL_NETS` with random weights and rankings; made once, so tests must leave it as it is."""
    net = SMALL_NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net.build().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert tensor is not None
                    nn.init.uniform_(tensor, 0.5, 1.5)
        groups = find_groups(model, net.input_shape).prunable
        ranking = {group.name: tuple(torch.randperm(group.channels).tolist()) for group in groups}
    return ElasticModel(model, groups, ranking)


def images_for(name: str, count: int = 3, *, seed: int = 0) -> Tensor:
    """(count, C, H, W) of standard normal pixels."""
    return torch.randn(count, *SMALL_NETS[name].input_shape, generator=torch.Generator().manual_seed(seed))


def policies(elastic: ElasticModel) -> st.SearchStrategy[PruningPolicy]:
    """Any policy of the model, rung or not; branches may be gone."""
    least = {group.name: group.least_channels for group in elastic.groups}
    pairs = (st.tuples(st.just(name), st.integers(least[name], kept)) for name, kept in elastic.full_policy.channels)
    return st.tuples(*pairs).map(PruningPolicy)


def smaller_policies(policy: PruningPolicy) -> st.SearchStrategy[PruningPolicy]:
    """Any policy that keeps no more of any group than `policy` does, and no branch less."""
    pairs = (st.tuples(st.just(name), st.integers(min(1, kept), kept)) for name, kept in policy.channels)
    return st.tuples(*pairs).map(PruningPolicy)


def random_policy(elastic: ElasticModel, seed: int) -> PruningPolicy:
    generator = torch.Generator().manual_seed(seed)
    return PruningPolicy.of(
        {group.name: int(torch.randint(1, group.channels + 1, (), generator=generator)) for group in elastic.groups}
    )


def nested_levels(elastic: ElasticModel, seed: int = 1) -> tuple[PruningPolicy, PruningPolicy, PruningPolicy]:
    """A random cut, half of that (rounded up) with every second branch gone, and the whole."""
    middle = random_policy(elastic, seed)
    branches = [group.name for group in elastic.groups if group.branch]
    halved = {name: -(-kept // 2) for name, kept in middle.channels}
    smallest = PruningPolicy.of(halved | dict.fromkeys(branches[::2], 0))
    return smallest, middle, elastic.full_policy


def same_state(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models hold the same tensors, bit for bit."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def asked_each_time(model: nn.Module) -> Teacher:
    """A teacher that remembers nothing, so that a training that was stopped and resumed goes the very same way."""
    return Teacher(model, images=0, classes=0, forms=None)


@cache
def little_data() -> SearchData:
    """512 training and 500 search images of Fashion-MNIST."""
    return load_search_data(DataConfig(search_images=500, max_train_images=512))


@cache
def _trained_resnet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(ModelSpec("resnet20", 10, 1, 0.25))
        config = TrainConfig(epochs=8, batch_size=32, learning_rate=0.1, ema_decay=0.9, augment=NO_AUGMENTATION)
        return train_baseline(model, little_data(), config, seed=0)


def trained_resnet() -> nn.Module:
    """A quarter-width ResNet-20 that has learnt `little_data`; each call gives a copy."""
    return copy.deepcopy(_trained_resnet())


NO_AUGMENTATION = AugmentConfig(crop_padding=0, flip=False)


def counted(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, int]:
    """(parameters, multiply-adds of convolutions and linear layers for one image), counted by hooks."""
    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs += output[0].numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model(torch.zeros(1, *input_shape))
    for handle in handles:
        handle.remove()
    return sum(parameter.numel() for parameter in model.parameters()), macs


class Counting(nn.Module):
    """Two logits for each image, its mean and its negative; counts the images that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([mean, -mean], 1)


def batch_of(images: Tensor, labels: list[int], indices: list[int] | None = None, form: int = 0) -> Batch:
    forms = torch.full((len(labels),), form)
    return Batch(images, torch.tensor(labels), torch.tensor(indices or range(len(labels))), forms)


def half_cut(teacher: nn.Module) -> nn.Module:
    """Half of each group's channels, recalibrated."""
    data = little_data()
    groups = find_groups(teacher, data.info.input_shape).prunable
    elastic = ElasticModel(teacher, groups, {group.name: tuple(range(group.channels)) for group in groups})
    model = elastic.cut(PruningPolicy.of({group.name: group.channels // 2 for group in groups}))
    recalibrate_batchnorm(model, normalise(data.train.images[:256], data.info))
    return model

"""Criteria worked out by hand on layers of a few weights."""

import copy
from pathlib import Path

import pytest
import torch
from models_for_tests import elastic_net, images_for, same_state
from torch import Tensor, nn

from autoprune.errors import InputError, ModelError
from autoprune.pruning.find import find_groups
from autoprune.pruning.groups import PrunableGroup
from autoprune.pruning.importance import (
    IMPORTANCES,
    TAYLOR_BATCH,
    bn_scale,
    l2_norm,
    lost_importance,
    rank_channels,
    ranking_of,
    score_channels,
    taylor,
)

NO_IMAGES = {"images": torch.zeros(0, 1, 1, 1), "labels": torch.zeros(0, dtype=torch.long)}


def conv_net(weights: list[list[float]], norm: list[float] | None = None) -> nn.Sequential:
    """A 1x2 convolution whose channel i has the weights i, a BatchNorm with the scales `norm`, and a linear layer."""
    conv = nn.Conv2d(1, len(weights), (1, 2), bias=False)
    conv.weight.data = torch.tensor(weights).view(len(weights), 1, 1, 2)
    scale = nn.BatchNorm2d(len(weights), affine=norm is not None)
    if norm is not None:
        scale.weight.data = torch.tensor(norm)
    return nn.Sequential(conv, scale, nn.Flatten(), nn.Linear(len(weights), 2))


def only_group(model: nn.Module, input_shape: tuple[int, int, int] = (1, 1, 2)) -> PrunableGroup:
    (group,) = find_groups(model, input_shape).prunable
    return group


def ranked(model: nn.Module, criterion: str) -> tuple[int, ...]:
    (ranking,) = rank_channels(model, (only_group(model),), criterion, **NO_IMAGES).values()
    return ranking


def test_l2_by_hand() -> None:
    model = conv_net([[3.0, 4.0], [0.0, 1.0], [5.0, -12.0]])
    assert l2_norm(model, only_group(model)).tolist() == [5.0, 1.0, 13.0]
    assert ranked(model, "l2") == (2, 0, 1)


class Residual(nn.Module):
    """Two convolutions whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Conv2d(1, 2, 1, bias=False) for _ in range(2))
        self.left.weight.data = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
        self.right.weight.data = torch.tensor([4.0, 12.0]).view(2, 1, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2))
        self.norms[0].weight.data = torch.tensor([1.0, -2.0])
        self.norms[1].weight.data = torch.tensor([0.5, 4.0])
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        added = self.norms[0](self.left(x)) + self.norms[1](self.right(x))
        logits: Tensor = self.head(torch.flatten(added, 1))
        return logits


def test_coupled_layers_count_together() -> None:
    model = Residual()
    group = only_group(model, (1, 1, 1))
    assert l2_norm(model, group).tolist() == [5.0, 13.0]
    assert bn_scale(model, group).tolist() == [1.5, 6.0]


def test_bn_scale_by_hand() -> None:
    model = conv_net([[3.0, 4.0], [0.0, 1.0], [5.0, -12.0]], norm=[0.5, -2.0, 1.0])
    assert bn_scale(model, only_group(model)).tolist() == [0.5, 2.0, 1.0]
    assert ranked(model, "bn_scale") == (1, 2, 0)


def test_without_scales_the_l2_norm_is_taken() -> None:
    model = conv_net([[3.0, 4.0], [0.0, 1.0]])
    assert bn_scale(model, only_group(model)).tolist() == [5.0, 1.0]


def linear_net() -> nn.Sequential:
    """Hidden h = (1, 2) x, logits (h0 + h1, 0): with x = 1 they are (3, 0)."""
    hidden, head = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
    hidden.weight.data = torch.tensor([[1.0], [2.0]])
    head.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    return nn.Sequential(nn.Flatten(), hidden, head)


def test_taylor_by_hand() -> None:
    """d loss / d logit0 = p0 - 1 for the true class 0, and d logit0 / d weight i = x = 1: w x g = (1, 2) (p0 - 1)."""
    model = linear_net()
    group = only_group(model, (1, 1, 1))
    p0 = float(torch.sigmoid(torch.tensor(3.0)))
    model[1].weight.grad = torch.full((2, 1), p0 - 1)
    expected = torch.tensor([(p0 - 1) ** 2, (2 * (p0 - 1)) ** 2])
    torch.testing.assert_close(taylor(model, group), expected)


def test_taylor_takes_its_gradients_from_the_images() -> None:
    """An image of class 0 pulls the other way than one of class 1; the mean over images decides."""
    model = linear_net()
    model[1].weight.data = torch.tensor([[1.0], [-3.0]])
    model[2].weight.data = torch.tensor([[1.0, 0.1], [0.0, 0.0]])
    group = only_group(model, (1, 1, 1))
    images, labels = torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1, 1), torch.tensor([0, 1, 1])
    ranking = rank_channels(model, (group,), "taylor", images=images, labels=labels)
    # Both gradients hold the same factor (the mean of x * (p0 - [class 0])): 1 * 1 against -3 * 0.1.
    assert ranking == {"1": (0, 1)}
    assert rank_channels(model, (group,), "l2", images=images, labels=labels) == {"1": (1, 0)}


def test_taylor_is_the_same_in_many_batches() -> None:
    """The loss is a mean over all images, however they are split."""
    model = linear_net()
    group = only_group(model, (1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * TAYLOR_BATCH + 3, 1, 1, 1, generator=generator)
    labels = torch.randint(0, 2, (len(images),), generator=generator)
    whole = copy.deepcopy(model)
    nn.functional.cross_entropy(whole(images), labels).backward()
    scores = taylor(whole, group)
    expected = tuple(torch.argsort(scores, descending=True).tolist())
    assert rank_channels(model, (group,), "taylor", images=images, labels=labels) == {"1": expected}


@pytest.mark.parametrize("criterion", IMPORTANCES)
def test_ranking_is_whole_and_leaves_the_model_alone(criterion: str) -> None:
    elastic = elastic_net("flatten")
    model = copy.deepcopy(elastic.original).requires_grad_(False)
    labels = torch.tensor([0, 1, 2])
    ranking = rank_channels(model, elastic.groups, criterion, images=images_for("flatten"), labels=labels)
    assert {name: sorted(order) for name, order in ranking.items()} == {
        group.name: list(range(group.channels)) for group in elastic.groups
    }
    assert same_state(model, elastic.original)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_ties_keep_their_order() -> None:
    weights = [[1.0, 0.0]] * 40 + [[2.0, 0.0]] + [[1.0, 0.0]] * 40
    assert ranked(conv_net(weights), "l2") == (40, *range(40), *range(41, 81))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = conv_net([[1.0, value], [0.0, 1.0]])
    with pytest.raises(ModelError, match="group 0: its weights are not finite"):
        ranked(model, "l2")


@pytest.mark.parametrize("criterion", IMPORTANCES)
def test_the_ranking_is_that_of_the_scores(criterion: str) -> None:
    elastic = elastic_net("flatten")
    shown = {"images": images_for("flatten"), "labels": torch.tensor([0, 1, 2])}
    scored = score_channels(elastic.original, elastic.groups, criterion, **shown)
    ranking = rank_channels(elastic.original, elastic.groups, criterion, **shown)
    assert ranking_of(scored) == ranking
    for name, order in ranking.items():
        ordered = scored[name][list(order)]
        assert (ordered[:-1] >= ordered[1:]).all()
        assert (ordered >= 0).all()


def test_lost_importance_by_hand() -> None:
    """The mean of 5, 1, 13, 1 is 5: normalised 1, 0.2, 2.6, 0.2. The best channel alone loses 1.4 of 4."""
    scores = torch.tensor([5.0, 1.0, 13.0, 1.0])
    assert lost_importance(scores, (1, 2, 3, 4)) == pytest.approx((1.4 / 4, 0.4 / 4, 0.2 / 4, 0.0))
    assert lost_importance(1000 * scores, (1, 4)) == pytest.approx((0.35, 0.0))


def test_channels_without_any_importance_are_all_equal() -> None:
    assert lost_importance(torch.zeros(4), (1, 2, 4)) == (0.75, 0.5, 0.0)


def test_a_users_own_criterion(tmp_path: Path) -> None:
    """With gradients, as those that are built in have them; its scores are checked."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def first(model, group): return 0 * model[0].weight.grad.sum((1, 2, 3)) + torch.tensor([1.0, 3.0, 2.0])\n"
        "def short(model, group): return torch.ones(2)\n"
        "def negative(model, group): return torch.tensor([1.0, -1.0, 0.0])\n"
        "def listed(model, group): return [1.0, 2.0, 3.0]\n"
    )
    model = conv_net([[3.0, 4.0], [0.0, 1.0], [5.0, -12.0]])
    images, labels = torch.rand(4, 1, 1, 2), torch.tensor([0, 1, 0, 1])
    before = copy.deepcopy(model)

    def ranking(name: str) -> tuple[int, ...]:
        (found,) = rank_channels(model, (only_group(model),), f"{file}:{name}", images=images, labels=labels).values()
        return found

    assert ranking("first") == (1, 2, 0)
    assert same_state(model, before) and all(parameter.grad is None for parameter in model.parameters())
    for name, message in (
        ("short", r"gave \(2,\) for group 0, must give a tensor \(3,\)"),
        ("negative", "gave a score for group 0 that is negative or not finite"),
        ("listed", r"gave list for group 0"),
        ("none", "has no callable 'none'"),
    ):
        with pytest.raises(InputError, match=rf"search\.importance=.*: .*{message}"):
            ranking(name)

"""Models whose weights no pruning can start from are refused by name; what only looks odd is let pass."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.models import ModelSpec, build_model, check_weights


def net() -> nn.Module:
    return build_model(ModelSpec("resnet20", 10, 1, width=0.25))


def with_weight(weight: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    return model


def with_statistic(name: str, value: float) -> nn.Module:
    model = net()
    model.get_buffer(f"bn1.{name}")[0] = value
    return model


def half_statistics() -> nn.Module:
    model = net()
    model.get_submodule("bn1").half()
    for parameter in model.get_submodule("bn1").parameters():
        parameter.data = parameter.data.float()
    return model


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of torch, on sparse and lazy tensors
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: net().bfloat16(), r"conv1\.weight is bfloat16, not float32; call \.float\(\) on the model"),
        (lambda: net().half(), r"conv1\.weight is float16, not float32; call \.float\(\)"),
        (lambda: net().double(), r"conv1\.weight is float64, not float32; call \.float\(\)"),
        (half_statistics, r"bn1\.running_mean is float16, not float32; call \.float\(\)"),
        (lambda: net().to("meta"), r"conv1\.weight is a meta tensor, without values"),
        (lambda: with_weight(torch.eye(2).to_sparse()), r"0\.weight is no dense tensor \(sparse_coo\)"),
        (lambda: with_weight(torch.eye(2).to(torch.int8)), r"0\.weight is int8; give the float32 model"),
        (lambda: with_weight(torch.eye(2, dtype=torch.complex64)), r"0\.weight is complex64"),
        (
            lambda: with_weight(torch.quantize_per_tensor(torch.eye(2), 1.0, 0, torch.qint8)),
            r"0\.weight is quantised \(qint8\)",
        ),
        (lambda: nn.Sequential(nn.LazyLinear(3)), r"0\.weight has no shape yet; run the model on one batch"),
        (lambda: with_weight(torch.full((2, 2), torch.nan)), r"0\.weight holds NaN or infinity"),
        (lambda: with_weight(torch.full((2, 2), -torch.inf)), r"0\.weight holds NaN or infinity"),
        (lambda: with_statistic("running_mean", torch.inf), r"bn1\.running_mean holds NaN or infinity"),
        (lambda: with_statistic("running_var", torch.nan), r"bn1\.running_var holds NaN or infinity"),
        (lambda: with_statistic("running_var", -0.5), r"bn1\.running_var is below zero"),
    ],
)
def test_weights_that_cannot_be_pruned_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=f"^mine: {message}"):
        check_weights(make(), "mine")


def test_ordinary_models_and_odd_buffers_pass() -> None:
    model = net()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    model.register_buffer("index", torch.arange(4))
    model.register_buffer("scale", torch.ones(1, dtype=torch.float64))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    check_weights(model, "mine")
    check_weights(nn.BatchNorm2d(3, track_running_stats=False), "mine")
    check_weights(nn.BatchNorm2d(3, affine=False), "mine")

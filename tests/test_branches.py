"""Branches that a network can do without: found, taken out, and nothing else changed."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import SMALL_NETS, elastic_net, images_for, random_policy, same_state
from torch import Tensor, nn

from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx, parity_max_abs
from autoprune.models import ModelSpec, build_model
from autoprune.pruning.branches import Nothing, remove_layers
from autoprune.pruning.cost import CutShapes, count_cost
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.runtimes.onnxruntime import make_session
from autoprune.space.policy import PruningPolicy
from autoprune.training.batchnorm import fold_batchnorm, foldable_layers, recalibrate_batchnorm
from autoprune.training.repair import WeightRepair

WITH_BRANCHES = ("resnet20", "mobilenet_v2")


def info_for(name: str) -> DataInfo:
    shape = SMALL_NETS[name].input_shape
    return DataInfo("test", tuple("abcd"), *shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])


def without(elastic: ElasticModel, *names: str, base: PruningPolicy | None = None) -> PruningPolicy:
    """`base`, or the whole, with these groups' branches gone."""
    return PruningPolicy.of((base or elastic.full_policy).as_dict() | dict.fromkeys(names, 0))


def branches_of(name: str) -> list[str]:
    return [group.name for group in elastic_net(name).groups if group.branch]


def silenced(elastic: ElasticModel, gone: list[str]) -> nn.Module:
    """A copy of the original in which what these branches add, their last layer's output, is zero."""
    model = copy.deepcopy(elastic.original)
    for group in elastic.groups:
        if group.name in gone:
            *_, last = (module for name, module in model.named_modules() if name in group.branch)
            assert isinstance(last, nn.BatchNorm2d)
            last.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    return model


def test_every_block_of_a_resnet_has_one_and_its_streams_none() -> None:
    groups = find_groups(build_model(ModelSpec("resnet20", 10, 1, 1.0)), (1, 28, 28)).prunable
    branches = {group.name: set(group.branch) for group in groups if group.branch}
    assert branches == {
        f"{block}.conv1": {f"{block}.{layer}" for layer in ("conv1", "bn1", "conv2", "bn2")}
        for block in (f"layer{stage}.{number}" for stage in (1, 2, 3) for number in (0, 1, 2))
    }
    assert {group.least_channels for group in groups if group.name in ("conv1", "layer2.0.conv2")} == {1}


@pytest.mark.parametrize("name", ["vgg16_bn", "flatten", "grouped"])
def test_a_network_without_shortcuts_has_none(name: str) -> None:
    assert branches_of(name) == []


def test_only_blocks_whose_input_is_added_can_go() -> None:
    """MobileNetV2: a block that changes the resolution or the width has no shortcut around it."""
    model = build_model(ModelSpec("mobilenet_v2", 4, 3, 0.5))
    groups = find_groups(model, (3, 32, 32)).prunable
    added = [group for group in groups if group.branch]
    blocks = {group.branch[0].rpartition(".")[0].rpartition(".")[0] for group in added}
    assert len(added) == 10 == len(blocks)  # of 17 blocks, those with stride 1 and as many channels in as out


class Bottleneck(nn.Module):
    """Only the last of the three layers' inputs can be emptied; the first is then read by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.narrow = nn.Conv2d(6, 3, 1)
        self.middle = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 6, 1, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        inner = torch.relu(self.middle(torch.relu(self.narrow(x))))
        logits: Tensor = self.head((x + self.wide(inner)).mean((2, 3)))
        return logits


def test_what_only_a_branch_read_goes_with_it() -> None:
    torch.manual_seed(0)
    model = Bottleneck().eval()
    groups = find_groups(model, (1, 5, 5)).prunable
    assert {group.name: group.branch for group in groups} == {
        "stem": (),
        "narrow": (),  # its reader has a bias: what it gives without channels is not nothing
        "middle": ("middle", "wide", "narrow"),
    }
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    for narrow in (3, 2):
        policy = PruningPolicy.of({"stem": 6, "narrow": narrow, "middle": 0})
        cut = elastic.cut(policy)
        assert [type(module) for module in (cut.narrow, cut.middle, cut.wide)] == [Nothing] * 3
        x = torch.randn(2, 1, 5, 5)
        with torch.no_grad():
            expected = model.head(torch.relu(model.stem(x)).mean((2, 3)))
            torch.testing.assert_close(cut(x), expected)
        assert CutShapes(elastic, (1, 5, 5)).cost(policy) == count_cost(cut, (1, 5, 5))


def test_finding_branches_leaves_the_model_as_it_was() -> None:
    model = build_model(ModelSpec("resnet20", 10, 1, 0.25)).train()
    model.requires_grad_(False)
    model.get_parameter("fc.weight").requires_grad_(True)
    before = copy.deepcopy(model)
    find_groups(model, (1, 8, 8))
    assert same_state(model, before)
    assert repr(model) == repr(before)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_removed_is_masked_is_onnx(name: str, tmp_path: Path) -> None:
    """One branch gone, each; then all of them."""
    elastic, images = elastic_net(name), images_for(name, 4)
    names = branches_of(name)
    assert names
    for gone in (*([each] for each in names[:4]), names):
        policy = without(elastic, *gone)
        cut = elastic.cut(policy)
        with torch.no_grad():
            expected, found = silenced(elastic, gone)(images), cut.eval()(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        file = tmp_path / "cut.onnx"
        export_onnx(cut, file, info_for(name))
        assert parity_max_abs(cut, file, images) < 1e-5 * max(1.0, float(expected.abs().max()))
        layers = [node for node in onnx.load(str(file)).graph.node if node.op_type in ("Conv", "Gemm")]
        left = [module for module in cut.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert (
            len(layers)
            == len(left)
            < sum(isinstance(module, nn.Conv2d | nn.Linear) for module in elastic.original.modules())
        )


def test_the_file_adds_no_zeros_and_takes_any_batch(tmp_path: Path) -> None:
    """ResNet-20 has 9 additions and 19 activations; each block without its branch has one and two fewer."""
    elastic = elastic_net("resnet20")
    for gone, additions in (([], 9), (["layer1.1.conv1"], 8), (branches_of("resnet20"), 0)):
        file = tmp_path / f"{additions}.onnx"
        export_onnx(elastic.cut(without(elastic, *gone)), file, info_for("resnet20"))
        kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
        assert kinds.count("Add") == additions
        assert "ConstantOfShape" not in kinds
        # The activation of a block with a convolution as its shortcut stays.
        assert kinds.count("Relu") == 19 - 2 * len(gone) + sum(
            name in gone for name in ("layer2.0.conv1", "layer3.0.conv1")
        )
        for count in (1, 5):
            logits = make_session(file, threads=1).run(None, {"images": images_for("resnet20", count).numpy()})[0]
            assert np.asarray(logits).shape == (count, 4)


class TwoBranches(nn.Module):
    """Two branches beside a shortcut, one of them with an activation of its own at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 1, bias=False))
        self.right = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.ReLU(), nn.Conv2d(5, 4, 1, bias=False), nn.ReLU())
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        logits: Tensor = self.head(((self.left(x) + self.right(x)) + x).mean((2, 3)))
        return logits


def test_branches_that_are_added_to_each_other_leave_no_zeros_either(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = TwoBranches().eval(), torch.randn(3, 1, 8, 8)
    groups = find_groups(model, (1, 8, 8)).prunable
    assert {group.name for group in groups if group.branch} == {"left.0", "right.0"}
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    for gone, additions in ((["left.0"], 1), (["right.0"], 1), (["left.0", "right.0"], 0)):
        cut = elastic.cut(without(elastic, *gone))
        export_onnx(cut, tmp_path / "cut.onnx", info_for("resnet20"))
        assert parity_max_abs(cut, tmp_path / "cut.onnx", images) < 1e-5
        kinds = [node.op_type for node in onnx.load(str(tmp_path / "cut.onnx")).graph.node]
        assert (kinds.count("Add"), kinds.count("Conv")) == (additions, 5 - 2 * len(gone))
        assert "ConstantOfShape" not in kinds


@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_costs_are_those_of_the_cut(name: str) -> None:
    elastic, shape = elastic_net(name), SMALL_NETS[name].input_shape
    shapes = CutShapes(elastic, shape)
    for seed, gone in enumerate((branches_of(name)[:1], branches_of(name)[1:3], branches_of(name))):
        policy = without(elastic, *gone, base=random_policy(elastic, seed))
        cut = elastic.cut(policy)
        assert shapes.cost(policy) == count_cost(cut, shape)
        assert shapes.layers(policy).keys() == {
            module_name for module_name, module in cut.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
        }


@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_a_cut_without_branches_can_be_cut_on(name: str) -> None:
    elastic = elastic_net(name)
    first = without(elastic, *branches_of(name)[:2], base=random_policy(elastic, 1))
    narrowed = elastic.narrow(first)
    assert narrowed.full_policy == first
    assert same_state(narrowed.original, elastic.cut(first))
    second = without(elastic, *branches_of(name), base=first)
    assert same_state(narrowed.cut(second), elastic.cut(second))
    assert same_state(narrowed.narrow(second).original, elastic.cut(second))
    assert elastic.cut_parameters(second).keys() == dict(elastic.cut(second).named_parameters()).keys()


def test_a_stream_cannot_be_emptied() -> None:
    elastic = elastic_net("resnet20")
    with pytest.raises(ValueError, match=r"group conv1 has 4 channels; the policy keeps 0"):
        elastic.cut(without(elastic, "conv1"))


def test_on_disk_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("resnet20", 4, 1, 0.25)
    model = build_model(spec).eval()
    groups = find_groups(model, (1, 8, 8)).prunable
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    cut = elastic.cut(without(elastic, "layer1.1.conv1", "layer2.0.conv1", base=random_policy(elastic, 2))).eval()
    save_pruned(tmp_path, cut, spec)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path)(images), cut(images))


def test_repair_calibration_and_folding_leave_out_what_is_gone() -> None:
    elastic, images = elastic_net("resnet20"), images_for("resnet20", 64)
    policy = without(elastic, "layer1.0.conv1", "layer3.2.conv1", base=random_policy(elastic, 3))
    kept = elastic.kept_channels(policy)
    cut = elastic.cut(policy)
    WeightRepair(elastic, images).apply(cut, kept)
    recalibrate_batchnorm(cut, images)
    with torch.no_grad():
        before = cut(images)
        fold_batchnorm(cut, foldable_layers(elastic.original, images[:4]))
        torch.testing.assert_close(cut(images), before, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in cut.modules())


def test_nothing_is_a_zero_of_the_type_it_is_given() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.full((2, 3), 1.5, dtype=dtype)
        assert torch.equal(x + Nothing()(x), x)
        assert (x + Nothing()(x)).dtype == dtype
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    remove_layers(model, ["0", "1.0"])
    assert isinstance(model[0], Nothing)
    assert list(model.parameters()) == []


class AddsInPlace(nn.Module):
    """Two residual blocks, one of which adds its input in place, one in place to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out = self.blocks[0](x)
        out += x
        x = torch.relu_(out)
        x += self.blocks[1](x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_branches_that_are_added_in_place_go_whole(tmp_path: Path) -> None:
    model = AddsInPlace().eval()
    groups = find_groups(model, (1, 8, 8)).prunable
    assert {group.name for group in groups if group.branch} == {"blocks.0.0", "blocks.1.0"}
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    cut = elastic.cut(without(elastic, "blocks.0.0", "blocks.1.0"))
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = model.head(torch.relu(model.stem(images)).mean((2, 3)))
        torch.testing.assert_close(cut(images), expected)
    file = tmp_path / "cut.onnx"
    export_onnx(cut, file, DataInfo("test", tuple("abc"), 1, 8, 8, mean=(0.0,), std=(1.0,)))
    assert parity_max_abs(cut, file, images) < 1e-5
    assert "Add" not in {node.op_type for node in onnx.load(str(file)).graph.node}


class NormedFirst(nn.Module):
    """A block that norms what it reads (He et al. 2016b): its norm has its readers' channels, not its makers'."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Conv2d(8, 6, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_branch_that_norms_first_goes_with_its_norm_and_comes_back_from_a_file(tmp_path: Path) -> None:
    model = NormedFirst().eval()
    groups = find_groups(model, (1, 8, 8)).prunable
    assert [group.name for group in groups if group.branch] == ["branch.2"]
    elastic = ElasticModel(model, groups, {group.name: tuple(range(group.channels)) for group in groups})
    cut = elastic.cut(without(elastic, "branch.2", base=PruningPolicy.of({"stem": 4, "branch.2": 8}))).eval()
    assert not list(cut.branch.parameters())
    save_pruned(tmp_path, cut, None)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path, architecture=NormedFirst())(images), cut(images))

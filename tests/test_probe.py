"""Proof of groups: a map of channels that is wrong is found out, whatever is wrong with it."""

import copy
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models_for_tests import SMALL_NETS
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.pruning import probe
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups, read_groups
from autoprune.pruning.groups import PrunableGroup, guessed_groups
from autoprune.pruning.probe import answers, difference, distinct, masked, proven_groups
from autoprune.space.policy import PruningPolicy

NETS = ("resnet20", "mobilenet_v2", "flatten", "concat")
FAULTS = ("swap", "shift", "reverse", "drop", "forget", "reroot")


def example(name: str) -> tuple[Tensor]:
    return (torch.randn(2, *SMALL_NETS[name].input_shape, generator=torch.Generator().manual_seed(3)),)


def plant(groups: tuple[PrunableGroup, ...], fault: str, rng: np.random.Generator) -> tuple[PrunableGroup, ...]:
    """The same groups with one fault in one member of one of them."""
    number = int(rng.integers(len(groups)))
    group = groups[number]
    place = int(rng.integers(len(group.members)))
    member = group.members[place]
    local, root = list(member.local), list(member.root)
    members = list(group.members)
    if fault == "swap":
        first, second = rng.choice(len(local), 2, replace=False)
        root[first], root[second] = root[second], root[first]
    elif fault == "shift":
        root = root[1:] + root[:1]
    elif fault == "reverse":
        root = root[::-1]
    elif fault == "drop":
        gone = int(rng.integers(len(local)))
        del local[gone], root[gone]
    elif fault == "reroot":
        root[int(rng.integers(len(root)))] = int(rng.integers(group.channels))
    if fault == "forget":
        del members[place]
    else:
        members[place] = replace(member, local=tuple(local), root=tuple(root))
    return (*groups[:number], replace(group, members=tuple(members)), *groups[number + 1 :])


def is_right(model: nn.Module, groups: tuple[PrunableGroup, ...], inputs: tuple[Tensor]) -> bool:
    """Whether ten random cuts in double precision answer like the masked model, to rounding."""
    exact = distinct(model, torch.Generator().manual_seed(11)).double()
    shown = tuple(tensor.double() for tensor in inputs)
    rng = np.random.default_rng(5)
    for _ in range(10):
        ranking = {group.name: tuple(rng.permutation(group.channels).tolist()) for group in groups}
        policy = PruningPolicy.of({group.name: int(rng.integers(1, group.channels + 1)) for group in groups})
        elastic = ElasticModel(exact, groups, ranking)
        try:
            kept = elastic.kept_channels(policy)
            found = answers(elastic.cut_to(kept), shown)
        except Exception:
            return False
        if difference(found, answers(masked(exact, kept), shown)) > 1e-9:
            return False
    return True


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        *((name, 25) for name in NETS if name != "mobilenet_v2"),
        ("mobilenet_v2", 8),
        pytest.param("mobilenet_v2", 25, marks=pytest.mark.slow),
    ],
)
def test_a_changed_map_is_found_out_whenever_it_matters(name: str, faults: int) -> None:
    """So many random faults in each of four networks."""
    model = SMALL_NETS[name].build().eval()
    inputs = example(name)
    groups = guessed_groups(model, inputs)[0].prunable
    assert proven_groups(model, groups, inputs).proven == groups
    rng = np.random.default_rng(17)
    mattered = 0
    for number in range(faults):
        planted = plant(groups, FAULTS[number % len(FAULTS)], rng)
        proof = proven_groups(model, planted, inputs)
        assert is_right(model, proof.proven, inputs)
        if proof.proven == planted:
            continue  # and that was right
        assert not is_right(model, planted, inputs)
        mattered += 1
        untouched = sum(ours == theirs for ours, theirs in zip(groups, planted, strict=True))
        assert len(proof.proven) >= untouched - 2  # one fault does not cost the rest
        assert all(proof.failed.values())
    assert mattered >= 0.6 * faults


class NumberInCode(nn.Module):
    """A view with the number of features written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.hidden, self.head = nn.Linear(6 * 16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.hidden(x.view(-1, 96))))  # type: ignore[no-any-return]


def test_what_fails_is_left_whole_and_everything_else_is_cut() -> None:
    model = NumberInCode().eval()
    found, _ = read_groups(model, (torch.randn(2, 1, 4, 4),))
    assert [group.name for group in found.prunable] == ["first", "hidden"]
    reasons = {group.name: group.reason for group in found.skipped}
    assert reasons["second"].startswith("the network does not run without some of its channels (RuntimeError: ")


def test_a_silent_branch_hides_nothing() -> None:
    """Zero at the end of a branch, as training often begins, must not hide that its map is wrong."""
    model = SMALL_NETS["resnet20"].build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    inputs = example("resnet20")
    groups = guessed_groups(model, inputs)[0].prunable
    planted = plant(groups, "reverse", np.random.default_rng(0))
    assert len(proven_groups(model, planted, inputs).proven) < len(groups)


def test_the_time_is_bounded() -> None:
    model = SMALL_NETS["resnet20"].build().eval()
    inputs = example("resnet20")
    groups = guessed_groups(model, inputs)[0].prunable
    planted = plant(groups, "reverse", np.random.default_rng(0))
    proof = proven_groups(model, planted, inputs, seconds=0)
    assert not proof.proven
    assert set(proof.failed) == {group.name for group in planted}
    assert "no time" in next(iter(proof.failed.values()))


def test_what_held_before_the_time_was_over_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts the proofs; of twelve layers the seventh is not to be cut."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 if place == 0 else 8, 8, 1) for place in range(12))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            for place, layer in enumerate(self.layers):
                x = torch.relu(layer(x))
                if place == 6 and x.shape[1] != 8:
                    raise ValueError("eight channels")
            answers: Tensor = self.head(x.mean((2, 3)))
            return answers

    model, inputs = Fixed().eval(), (torch.randn(2, 3, 4, 4),)
    groups, proofs, real = guessed_groups(model, inputs)[0].prunable, 0, probe._Probe.fault

    def counted(*args: object, **named: object) -> str | None:
        nonlocal proofs
        proofs += 1
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(probe._Probe, "fault", counted)
    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=lambda: proofs))
    proof = proven_groups(model, groups, inputs, seconds=5)
    assert 6 <= len(proof.proven) < 11
    assert len(proof.proven) + len(proof.failed) == len(groups)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = SMALL_NETS["flatten"].build().eval()
    groups = guessed_groups(model, example("flatten"))[0].prunable

    class Infinite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) / 0.0  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="NaN or infinity"):
        proven_groups(Infinite().eval(), groups, example("flatten"))


class ResponseNormed(nn.Module):
    """Two local response norms: their graph has paths without number, which a walk over paths never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_norms_over_neighbouring_channels_take_no_time() -> None:
    started = time.process_time()
    found = find_groups(ResponseNormed().eval(), (3, 16, 16))
    assert time.process_time() - started < 30  # it hung, while memory grew
    assert [group.name for group in found.prunable] == ["layers.8"]
    assert {group.name: group.reason for group in found.skipped}.keys() == {"layers.0", "layers.4", "layers.11"}


def test_masking_is_of_makers_and_readers_but_not_of_bare_tensors() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.make, self.read = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.make(x) / self.scale.view(1, 2, 1, 1))  # type: ignore[no-any-return]

    model = Scaled().eval()
    kept = {("make", "out"): torch.tensor([1]), ("read", "in"): torch.tensor([1]), ("scale", "dim0"): torch.tensor([1])}
    silent = masked(model, kept)
    assert silent.make.weight[0].item() == 0.0 == silent.make.bias[0].item()  # type: ignore[union-attr,index]
    assert silent.read.weight[1, 0].item() == 0.0 != silent.read.weight[1, 1].item()  # type: ignore[union-attr,index]
    assert silent.scale.tolist() == [1.0, 2.0]  # type: ignore[union-attr,operator]

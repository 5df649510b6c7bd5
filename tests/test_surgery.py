"""`autoprune.inspect` and `autoprune.cut` on random programs: what is cut is right, whatever the program does."""

import collections
import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from habits_for_tests import Chances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_for_tests import answers, assert_right, share_gone, with_distinct_values
from networks_for_tests import CASES, Between, ManyAnswers, images
from programs_for_tests import SIZE, Program, programs
from torch import Tensor, nn

import autoprune
from autoprune.errors import InputError, ModelError
from autoprune.pruning.plain import plain_copy

UNTIMED = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check_program(program: Program, keep: float) -> float:
    model = with_distinct_values(program)
    inputs = (torch.randn(2, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)),)
    before = copy.deepcopy(model.state_dict())
    cut = autoprune.cut(model, inputs, keep)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert_right(cut, model, inputs)
    seen = autoprune.inspect(cut, inputs)
    assert seen.params == sum(parameter.numel() for parameter in cut.parameters())
    return share_gone(cut, model)


def check_programs(count: int, keeps: tuple[float, ...]) -> list[float]:
    """The shares of parameters that went, one for each program."""
    shares: list[float] = []

    @settings(UNTIMED, max_examples=count)
    @given(program=programs(), keep=st.sampled_from(keeps))
    def check(program: Program, keep: float) -> None:
        shares.append(check_program(program, keep))

    check()
    return shares


def test_cuts_of_random_programs_are_right() -> None:
    shares = check_programs(12, (0.25, 0.5))
    assert sum(shares) / len(shares) > 0.2  # and it is no safety by leaving all as it is


@pytest.mark.slow
def test_cuts_of_hundreds_of_random_programs_are_right() -> None:
    shares = check_programs(400, (0.2, 0.34, 0.5, 0.7, 0.9))
    assert len(shares) >= 300
    assert sum(shares) / len(shares) > 0.2


@pytest.mark.parametrize("name", CASES)
def test_cuts_of_other_peoples_networks_are_right(name: str) -> None:
    case = CASES[name]
    model, inputs = with_distinct_values(case.build()), case.inputs()
    before, said = copy.deepcopy(model.state_dict()), answers(model, inputs)
    cut = autoprune.cut(model, inputs, 0.5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(answers(model, inputs), said, strict=True))
    plain = plain_copy(model)
    assert_right(cut, plain, inputs)
    assert share_gone(cut, plain) >= case.least
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}
    assert not own & {tensor.data_ptr() for tensor in (*cut.parameters(), *cut.buffers())}
    seen = autoprune.inspect(model, inputs)
    assert seen.groups if case.least else seen.skipped
    assert all(group.reason for group in seen.skipped)


def test_tied_weights_stay_one_tensor() -> None:
    case = CASES["tied"]
    cut = autoprune.cut(case.build(), case.inputs(), 0.5)
    assert cut.one.weight is cut.two.weight
    assert cut.one.bias is not cut.two.bias


def test_what_a_network_keeps_of_its_parameters_are_those_of_the_cut() -> None:
    cut = autoprune.cut(CASES["keeps its parameters"].build(), images(), 0.5)
    assert cut.kept[0] is cut.head.bias
    assert cut.kept[1] is cut.stem[0].weight


def test_a_hook_that_keeps_answers_keeps_those_of_its_own_network() -> None:
    model = CASES["logs"].build().eval()
    cut = autoprune.cut(model, images(), 0.5)
    assert model.log == cut.log == []
    cut(*images())
    assert model.log == []
    assert [tensor.shape[1] for tensor in cut.log] == [4]


def test_distributions_are_answers() -> None:
    model = with_distinct_values(Chances())
    cut = autoprune.cut(model, images(), 0.5)
    assert share_gone(cut, model) > 0.6
    assert autoprune.inspect(cut, images()).groups


@dataclasses.dataclass(slots=True)
class Slotted:
    features: Tensor


WRAPS = {
    "slots": Slotted,
    "deque": lambda x: collections.deque([x]),
    "values": lambda x: {"x": x}.values(),
    "generator": lambda x: (one for one in [x]),
    "zip": lambda x: zip([1], [x], strict=True),
    "function": lambda x: lambda: x,
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_is_answered_stays_whatever_it_is_wrapped_in(wrap: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, object]:
            x = self.conv(x)
            return self.head(x.mean((2, 3))), WRAPS[wrap](x)

    seen = autoprune.inspect(Wrapped(), images())
    assert {group.name: group.reason for group in seen.skipped}["conv"] == "it is the model's output"


@pytest.mark.parametrize(
    "made", [Tensor.to_sparse, Tensor.to_sparse_csr, lambda x: torch.nested.as_nested_tensor(list(x))]
)
@pytest.mark.filterwarnings("ignore")
def test_answers_that_are_no_plain_tensors_are_refused(made: Callable[[Tensor], Tensor]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return made(self.head(self.conv(x).mean((2, 3))))

    with pytest.raises(ModelError, match="sparse, nested or quantised tensor; let its forward return plain ones"):
        autoprune.inspect(Odd(), images())


class AtFive(nn.Module):
    """Something else at exactly five channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x if x.shape[1] != 5 else -x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_cut_at_whose_widths_the_code_does_something_else_is_refused() -> None:
    assert autoprune.cut(AtFive(), images(), {"stem": 4}).stem.out_channels == 4
    with pytest.raises(ModelError, match=r"answers something else .* give `keep` other numbers"):
        autoprune.cut(AtFive(), images(), {"stem": 5})


def test_every_run_of_a_layer_is_counted() -> None:
    """Stem 2x8x9, four times 8x8x9 and once 8x10x9 at 64 places each; 10x3."""
    case = CASES["again"]
    seen = autoprune.inspect(case.build(), case.inputs())
    assert seen.macs == 64 * 9 * (2 * 8 + 4 * 8 * 8 + 8 * 10) + 30


def test_products_without_weights_are_named() -> None:
    case = CASES["attends"]
    seen = autoprune.inspect(case.build(), case.inputs())
    # 4 tokens: patches 4x16x32, qkv 4x16x48, out 4x16x16, up and down 4x16x40 each, head 16x3.
    assert seen.macs == 4 * (16 * 32 + 16 * 48 + 16 * 16 + 2 * 16 * 40) + 48
    assert seen.uncounted == ("a product without weights (the model's forward)",)


def test_channels_by_name() -> None:
    case = CASES["excited"]
    model = case.build()
    cut = autoprune.cut(model, case.inputs(), {"stem.0": 5, "down": 1})
    assert (cut.stem[0].out_channels, cut.down.out_channels, cut.read[0].out_channels) == (5, 1, 10)
    assert cut.read[0].in_channels == cut.up.out_channels == cut.stem[1].num_features == 5


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        *((share, "keep: ") for share in (0, -0.5, 1.01, float("nan"), float("inf"), True, "half", None, [0.5])),
        ({"no such": 3}, "the model has no group 'no such'; its groups are stem.0, "),
        *(({"stem.0": wrong}, r"keep\['stem.0'\]: ") for wrong in (0, 13, -1, 2.0, True, "4", None)),
    ],
)
def test_a_wrong_keep_is_refused(keep: object, message: str) -> None:
    case = CASES["excited"]
    with pytest.raises(InputError, match=message):
        autoprune.cut(case.build(), case.inputs(), keep)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        (),
        "image",
        (None,),
        ([1.0],),
        (torch.tensor(1.0),),
        torch.zeros(0, 2, 8, 8),
        torch.full((1, 2, 8, 8), torch.nan),
    ],
)
def test_wrong_inputs_are_refused(inputs: object) -> None:
    with pytest.raises(InputError, match="example_inputs"):
        autoprune.inspect(CASES["excited"].build(), inputs)  # type: ignore[arg-type]


class ByValue(nn.Module):
    def __init__(self, choose: str) -> None:
        super().__init__()
        self.conv, self.head, self.choose = nn.Conv2d(2, 4, 3), nn.Linear(4, 2), choose

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.choose == "if" and y.mean() > 0:
            y = -y
        if self.choose == "item":
            y = y * float(y.max().item())
        if self.choose == "list":
            y = y + y.mean((1, 2, 3)).tolist()[0]
        if self.choose == "array":
            y = y + float(y.detach().numpy().max())
        if self.choose == "data" and y.data.sum() > 0:
            y = -y
        if self.choose == "int":
            y = y[:, :, : 1 + int(y[0, 0, 0, 0] > 0)]
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("choose", ["if", "item", "list", "array", "data", "int"])
def test_code_that_looks_at_values_is_refused(choose: str) -> None:
    with pytest.raises(ModelError, match="control flow of the model depends on the values of its inputs"):
        autoprune.inspect(ByValue(choose), images())


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, "a DataParallel, wraps the network; give its .module"),
        (lambda model: torch.jit.trace(model, images()), "TorchScript module; give the module that it was made of"),
        (lambda model: model.to("meta"), "meta tensor, without values"),
        (lambda model: nn.Sequential(model, nn.Linear(9, 2)), "does not run on its example inputs"),
        (lambda model: nn.Sequential(nn.LazyConv2d(2, 1), model), "has no shape yet"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_network_is_refused(wrap: object, message: str) -> None:
    model = CASES["excited"].build().eval()
    with pytest.raises(ModelError, match=message):
        autoprune.inspect(wrap(model), images())  # type: ignore[operator]


def test_random_numbers_and_modes_are_left_as_they_were() -> None:
    model = ManyAnswers().train()
    model.body[0].eval()
    inputs = CASES["many answers"].inputs()
    state = torch.get_rng_state()
    autoprune.cut(model, inputs, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in (model, model.body[0], model.body[1])] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_reason_is_given_for_what_stays() -> None:
    seen = autoprune.inspect(Between(lambda x: x.softmax(1)), images())
    reasons = {group.name: group.reason for group in seen.skipped}
    assert reasons == {"stem.0": "each of its channels changes all others", "head": "it is the model's output"}

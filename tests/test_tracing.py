"""What is known of operations: the table names those that PyTorch runs as they stand; its rules hold on networks."""

import pytest
import torch
from habits_for_tests import Borrowed, Inferring
from judge_for_tests import with_distinct_values
from models_for_tests import SMALL_NETS
from networks_for_tests import CASES, images

import autoprune
from autoprune.errors import ModelError
from autoprune.tracing import counting, operators
from autoprune.tracing.labels import Labels
from autoprune.tracing.tracer import trace

TABLES = {
    "RULES": operators.RULES,
    "REDUCTIONS_WITHOUT_TAG": operators.REDUCTIONS_WITHOUT_TAG,
    "SPLITS": operators.SPLITS,
    "SPREADS": operators.SPREADS,
    "PRODUCTS": counting.PRODUCTS,
    "UNCOUNTED": counting.UNCOUNTED,
}


@pytest.mark.parametrize("table", TABLES)
def test_each_name_is_of_an_operation_that_pytorch_runs_as_it_stands(table: str) -> None:
    """What PyTorch makes of others never comes by, so a rule for it would be dead; so would one for a name misspelt."""
    for name in TABLES[table]:
        packet = getattr(torch.ops.aten, name)  # raises if there is none
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        assert not all(overload._can_decompose() for overload in overloads), name


def test_no_entry_says_what_pytorch_says_itself() -> None:
    tags = {
        name: [
            getattr(packet, overload).tags for overload in packet.overloads() if not overload.endswith(("out", "_out"))
        ]
        for name in (*operators.ELEMENTWISE_WITHOUT_TAG, *operators.REDUCTIONS_WITHOUT_TAG)
        for packet in [getattr(torch.ops.aten, name)]
    }
    known = {torch.Tag.pointwise, torch.Tag.reduction}
    assert not [name for name, own in tags.items() if all(known & set(overload) for overload in own)]


@pytest.mark.parametrize("name", CASES)
def test_no_rule_fails_on_an_odd_network(name: str) -> None:
    model = CASES[name].build().eval()
    assert trace(model, CASES[name].inputs()).unforeseen == []


@pytest.mark.parametrize("name", SMALL_NETS)
def test_nothing_in_a_usual_network_is_unknown(name: str) -> None:
    found = trace(SMALL_NETS[name].build().eval(), (torch.randn(2, *SMALL_NETS[name].input_shape),))
    assert found.unforeseen == []
    assert not [reason for _, reason in found.labels.pins if "not followed" in reason]


def test_layers_in_inference_mode_are_counted() -> None:
    """64 places each of 2x8 and 8x10 filters of 3x3, and 10x3."""
    seen = autoprune.inspect(with_distinct_values(Inferring()), images())
    assert seen.macs == 64 * 9 * (2 * 8 + 8 * 10) + 30


def test_layers_that_are_not_the_networks_own_are_refused() -> None:
    with pytest.raises(ModelError, match=r"uses parameters that are not its own .* plain list"):
        autoprune.inspect(Borrowed(), images())


def test_labels_are_the_same_once_they_are_united() -> None:
    labels = Labels()
    first, second = labels.add_side("a", 0, 3, 1).labels, labels.add_side("b", 0, 3, 1).labels
    assert not labels.are_same(first, second)
    labels.unite(first[1:], second[1:])
    assert not labels.are_same(first, second)
    assert labels.are_same(first[1:], second[1:])
    labels.unite(first[:1], second[:1])
    assert labels.are_same(first, second)

"""The state of a searcher: whoever is given it goes on exactly as the one that it was taken from, also after a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import searcher_process
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from test_searchers import installed

from autoprune.errors import InputError
from autoprune.foundation.tensor_json import from_json, to_json
from autoprune.policies.table import KINDS, searcher_maker
from autoprune.search.searcher import Brief, Searcher, SearcherState, load_state, save_state
from autoprune.search.toy import toy_problem

ASKS = 20  # twice those before the kill
QUICK = ("ddpg", "evolution")


def made(name: str) -> Searcher:
    return searcher_maker(name)(Brief(toy_problem(), seed=0, max_evaluations=100))


def played(searcher: Searcher, asks: int) -> list[str]:
    """What it asks for."""
    problem = toy_problem()
    found = []
    for _ in range(asks):
        asked = searcher.ask()
        found.append(" ".join(map(str, asked.policies)))
        searcher.tell([problem.evaluate(policy) for policy in asked.policies])
    return found


@pytest.mark.parametrize("name", installed(sorted(KINDS)))
def test_a_searcher_goes_on_from_a_state_as_the_one_that_it_is_of(name: str, tmp_path: Path) -> None:
    """Whether it was told of what it had asked for or not, and as often as one likes."""
    whole, again = made(name), made(name)
    first = played(whole, 6)
    told = whole.state()
    asked = whole.ask()
    in_between = whole.state()
    problem = toy_problem()
    outcomes = [problem.evaluate(policy) for policy in asked.policies]
    whole.tell(outcomes)
    rest = played(whole, 4)
    save_state(tmp_path / "told.safetensors", told)  # as it was then, though it went on
    save_state(tmp_path / "asked.safetensors", in_between)

    again.restore(load_state(tmp_path / "told.safetensors"))
    assert again.ask() == asked
    last = made(name)
    last.restore(load_state(tmp_path / "asked.safetensors"))
    last.tell(outcomes)
    assert played(last, 4) == rest
    assert first and played(made(name), 6) == first


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(KINDS)]
)
def test_a_searcher_that_is_killed_goes_on_as_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    whole = _asked(name, tmp_path / "whole.safetensors")
    state = tmp_path / "killed.safetensors"
    stop = min(9, len(whole) - 1)
    with _started(name, state, stop=stop) as process:
        assert process.stdout is not None
        before = [process.stdout.readline().rstrip("\n") for _ in range(stop + 1)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert before == whole[: stop + 1]
    assert _asked(name, state) == whole[stop:]  # the last one was not told


def _started(name: str, state: Path, *, stop: int | None = None) -> "subprocess.Popen[str]":
    program = [sys.executable, searcher_process.__file__, name, str(state), str(ASKS)]
    stopping = [] if stop is None else [str(stop)]
    return subprocess.Popen([*program, *stopping], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(name: str, state: Path) -> list[str]:
    with _started(name, state) as process:
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.splitlines()


def nested(depth: int) -> bytes:
    """A file whose metadata are lists in lists."""
    return save({}, metadata={"facts": "[" * depth})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "a", "pairs"])
KEYS = st.integers() | st.sampled_from(["a", "pairs"])


@given(st.recursive(LEAVES, lambda each: st.lists(each) | st.dictionaries(KEYS, each), max_leaves=10))
def test_what_is_taken_apart_can_be_put_together(value: object) -> None:
    taken = to_json(value)
    assert from_json(taken.text, taken.tensors) == value


def test_tensors_within_come_back_as_copies() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    taken = to_json({"state": {0: {"step": torch.tensor(3), "of": (weight, 2)}}, "names": ["w"]})
    weight.zero_()
    again = from_json(taken.text, taken.tensors)
    assert again["state"][0]["step"] == 3
    assert torch.equal(again["state"][0]["of"][0], torch.arange(6.0).reshape(2, 3))
    assert again["state"][0]["of"][1] == 2 and again["names"] == ["w"]
    for wrong in (object(), "tensor:0", {"a": {1, 2}}):
        with pytest.raises(TypeError):
            to_json(wrong)


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 50, nested(100_000)])
def test_a_file_that_holds_no_state_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"state\.safetensors: not the state of a searcher"):
        load_state(path)
    save_state(path, SearcherState({"a": 1}))
    assert load_state(path) == SearcherState({"a": 1}, {})

"""A trained actor: exported whole, the same in ONNX Runtime as in Stable-Baselines3, applied without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_job import autoprune
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.envs.rollout import demonstrate
from autoprune.errors import InputError
from autoprune.policies.actor import Training, checked_searcher, load_actor, roll_out
from autoprune.policies.exploration import act_with
from autoprune.policies.heuristics import varied_policies
from autoprune.policies.learners import (
    AgentSettings,
    Crossq,
    Ddpg,
    OffPolicyLearner,
    Ppo,
    PpoLearner,
    Sac,
    Td3,
    Tqc,
    make_learner,
)
from autoprune.policies.table import searcher_maker
from autoprune.policies.trained import save_actor
from autoprune.search.loop import run_search
from autoprune.search.toy import toy_problem

INFO = Training(model="toy", target="latency <= 0.45", evaluations=20, best_reward=-0.2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an agent that has searched the toy problem a little."""
    folder = tmp_path_factory.mktemp("agent")
    trained = run_search(searcher_maker("ddpg"), toy_problem(), max_evaluations=12, seed=0).agent
    assert trained is not None
    save_actor(folder, trained, INFO, searcher="ddpg")
    return folder


@pytest.mark.parametrize(
    "settings",
    [Ddpg(), Td3(), Sac(), Tqc(), Crossq(), Ppo()],
    ids=["ddpg", "td3", "sac", "tqc", "crossq", "ppo"],
)
def test_the_exported_actor_does_what_the_agents_own_policy_does(settings: AgentSettings, tmp_path: Path) -> None:
    """After some training: CrossQ's normalisation has statistics then, and is used without those of the batch."""
    problem = toy_problem()
    learner = make_learner(settings, decisions=len(problem.decisions), episodes=4)
    for episode, policy in enumerate(varied_policies(problem, 4, seed=0), 1):
        learner.learn([demonstrate(problem, policy)], np.linspace(-1.0, 1.0, episode).tolist())
        with_statistics = [layer for layer in learner.actor.modules() if list(layer.buffers(recurse=False))]
        assert bool(with_statistics) == isinstance(settings, Crossq)
        assert not any(layer.training for layer in with_statistics)
    assert isinstance(learner, OffPolicyLearner | PpoLearner)
    save_actor(tmp_path, learner.actor, INFO, searcher="test")
    observations = np.random.default_rng(0).uniform(-1.0, 1.0, (64, len(OBSERVATION_FIELDS))).astype(np.float32)
    agent: BaseAlgorithm = learner.agent
    expected, _ = agent.predict(observations, deterministic=True)
    actor = load_actor(tmp_path)
    np.testing.assert_allclose(actor.act(observations), expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(actor.act(observations[:1]), expected[:1, 0], atol=1e-5)
    np.testing.assert_allclose(act_with(learner.actor)(0, observations[:1]), expected[:1, 0], atol=1e-5)


def test_the_files_say_what_they_are(saved: Path) -> None:
    info = json.loads((saved / "agent.json").read_text())
    assert info["schema"] == 1
    assert info["searcher"] == "ddpg"
    assert info["observation"] == list(OBSERVATION_FIELDS)
    assert info["training"] == {"model": "toy", "target": "latency <= 0.45", "evaluations": 20, "best_reward": -0.2}
    model = onnx.load(saved / "agent.onnx")
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == 17
    assert sorted(path.name for path in saved.iterdir()) == ["agent.json", "agent.onnx"]


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "tqc", "crossq", "ppo"])
def test_the_saved_actor_decides_as_the_best_episode_did(name: str, tmp_path: Path) -> None:
    problem = toy_problem()
    result = run_search(searcher_maker(name), problem, max_evaluations=12, seed=0)
    assert result.agent is not None
    save_actor(tmp_path, result.agent, INFO, searcher=name)
    assert roll_out(load_actor(tmp_path), problem) == result.best.policy


def test_an_actor_is_applied_without_torch_and_without_stable_baselines3(saved: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from autoprune.policies.actor import load_actor, roll_out; "
        "from autoprune.search.toy import toy_problem; "
        "print(roll_out(load_actor(Path(sys.argv[1])), toy_problem())); "
        "assert not {'torch', 'stable_baselines3'} & set(sys.modules), 'the actor imported a training library'"
    )
    done = subprocess.run([sys.executable, "-c", program, str(saved)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(roll_out(load_actor(saved), toy_problem()))


def _drop_field(info: dict[str, Any]) -> None:
    info["observation"] = info["observation"][:-1]


def _swap_fields(info: dict[str, Any]) -> None:
    info["observation"] = info["observation"][::-1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_field, "other observation fields; they differ in ['last_action']"),
        (_swap_fields, "other observation fields; they differ in their order"),
        (lambda info: info.update(schema=2), "schema 2 is not supported"),
        (lambda info: info.update(min_version="99.0"), "needs autoprune 99.0 or later"),
        (lambda info: info.pop("searcher"), "not the description of an agent"),
        (lambda info: info.update(searcher=7), "not the description of an agent"),
        (lambda info: info.update(min_version="new"), "not the description of an agent"),
        (lambda info: info.update(min_version=None), "not the description of an agent"),
        (lambda info: info.update(schema=[1]), "not the description of an agent"),
        (lambda info: info.update(training=[]), "agent.json: training: Input should be a valid dictionary"),
        (
            lambda info: info.update(training={"ratios": {"latency": "half"}}),
            "training.ratios.latency: Input should be a valid number, got 'half'; training must hold model (a name)",
        ),
        (lambda info: info.update(training={"model": 3}), "training.model: Input should be a valid string, got 3;"),
    ],
    ids=[
        *("field missing", "fields swapped", "schema", "version", "key missing"),
        *("searcher", "version of words", "no version", "schema of a list"),
        *("training of a list", "ratio of words", "model of a number"),
    ],
)
def test_another_description_is_refused(
    saved: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    info = json.loads((saved / "agent.json").read_text())
    spoil(info)
    (tmp_path / "agent.json").write_text(json.dumps(info))
    (tmp_path / "agent.onnx").write_bytes((saved / "agent.onnx").read_bytes())
    with pytest.raises(InputError) as caught:
        load_actor(tmp_path)
    assert message in str(caught.value)
    assert "agent.json" in str(caught.value)


@given(
    fields=st.one_of(
        st.none(),
        st.integers(),
        st.text(max_size=3000),
        st.dictionaries(st.text(max_size=9), st.integers(), max_size=3),
        st.lists(st.one_of(st.integers(), st.none(), st.floats(), st.text(max_size=9), st.lists(st.integers()))),
    )
)
def test_other_observations_are_refused_with_both_lists(fields: object) -> None:
    info = {"schema": 1, "searcher": "ddpg", "observation": fields, "min_version": "0.1.0"}
    with pytest.raises(InputError) as caught:
        checked_searcher(Path("agent.json"), info)
    said = str(caught.value)
    assert said.startswith("agent.json: the agent was trained on other observation fields")
    assert str(list(OBSERVATION_FIELDS)) in said
    assert repr(fields)[:200] in said
    assert len(said) < 3000


Nodes = Callable[[str], list[onnx.NodeProto]]


def write_actor(folder: Path, answer: Nodes, outputs: list[onnx.ValueInfoProto]) -> None:
    """An actor whose graph is `answer`'s nodes after `zero`, which is 0 for each observation: (batch, 1)."""
    fields = len(OBSERVATION_FIELDS)
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = onnx.numpy_helper.from_array(np.zeros((fields, 1), dtype=np.float32), "weights")
    nodes = [node("MatMul", ["observation", "weights"], ["zero"]), *answer("zero")]
    inputs = [value("observation", onnx.TensorProto.FLOAT, ["batch", fields])]
    graph = onnx.helper.make_graph(nodes, "made", inputs, outputs, initializer=[weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "agent.onnx")


def node(kind: str, *inputs: str, to: str = "action", **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, [to], **attributes)


def constant(value: Any, to: str, dtype: Any = np.float32) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.array(value, dtype=dtype))
    return onnx.helper.make_node("Constant", [], [to], value=tensor)


def output(name: str = "action", kind: int = onnx.TensorProto.FLOAT, shape: Any = ("batch", 1)) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


INT64, STRING = onnx.TensorProto.INT64, onnx.TensorProto.STRING
WRONG_ACTORS: dict[str, tuple[Nodes, list[onnx.ValueInfoProto], str]] = {
    "NaN": (lambda zero: [node("Div", zero, zero)], [output()], "answers NaN or infinity"),
    "infinity": (
        lambda zero: [node("Exp", zero, to="one"), node("Div", "one", zero)],
        [output()],
        "answers NaN or infinity",
    ),
    "NaN for some": (
        lambda zero: [
            constant(10.0, "ten"),
            node("ReduceSum", "observation", to="sum"),
            node("Mul", "sum", "ten", to="large"),
            node("Log", "large", to="logarithm"),
            node("Add", "logarithm", zero),
        ],
        [output()],
        "answers NaN or infinity",
    ),
    "three outputs": (
        lambda zero: [node("Identity", zero, to=name) for name in ("action", "b", "c")],
        [output(name) for name in ("action", "b", "c")],
        "takes ['observation'] and gives ['action', 'b', 'c'], must take ['observation'] and give ['action']",
    ),
    "no action": (
        lambda zero: [node("Identity", zero, to="act")],
        [output("act")],
        "takes ['observation'] and gives ['act'], must take ['observation'] and give ['action']",
    ),
    "a scalar": (
        lambda zero: [node("ReduceSum", zero, keepdims=0)],
        [output(shape=())],
        "answers float32 () to 1 observations",
    ),
    "one for all": (
        lambda zero: [node("ReduceSum", zero, keepdims=1)],
        [output(shape=(1, 1))],
        "answers float32 (1, 1) to 3 observations",
    ),
    "two for each": (
        lambda zero: [node("Concat", zero, zero, axis=1)],
        [output(shape=("batch", 2))],
        "answers float32 (1, 2) to 1 observations",
    ),
    "ints": (lambda zero: [_cast(zero, INT64)], [output(kind=INT64)], "answers tensor(int64)"),
    "strings": (lambda zero: [_cast(zero, STRING)], [output(kind=STRING)], "answers tensor(string)"),
    "no shape that fits": (
        lambda zero: [constant([7], "shape", np.int64), node("Reshape", zero, "shape")],
        [output(shape=(7,))],
        "does not run on 1 observations",
    ),
    "terabytes": (
        lambda zero: [
            constant([2**40], "shape", np.int64),
            node("ConstantOfShape", "shape", to="huge"),
            node("ReduceSum", "huge", to="sum", keepdims=0),
            node("Add", zero, "sum"),
        ],
        [output()],
        "does not run on 1 observations",
    ),
}


def _cast(value: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [value], ["action"], to=kind)


@pytest.mark.parametrize("case", WRONG_ACTORS)
def test_an_actor_that_does_not_answer_one_finite_float_is_refused(saved: Path, tmp_path: Path, case: str) -> None:
    answer, outputs, message = WRONG_ACTORS[case]
    (tmp_path / "agent.json").write_bytes((saved / "agent.json").read_bytes())
    write_actor(tmp_path, answer, outputs)
    with pytest.raises(InputError) as caught:
        load_actor(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'agent.onnx'}: ")
    assert message in str(caught.value)


def test_apply_refuses_such_an_actor_before_any_work(saved: Path, tmp_path: Path) -> None:
    answer, outputs, message = WRONG_ACTORS["NaN"]
    (tmp_path / "agent.json").write_bytes((saved / "agent.json").read_bytes())
    write_actor(tmp_path, answer, outputs)
    finished = autoprune("apply", "demo", "--agent", tmp_path, "--run-dir", tmp_path / "run")
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {tmp_path / 'agent.onnx'}: {message}; ")
    assert len(finished.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_that_answers_nan_only_later_is_refused_then(saved: Path, tmp_path: Path) -> None:
    """Finite for observations near 0, as those it is tried on, and not for ones of 1 throughout."""
    (tmp_path / "agent.json").write_bytes((saved / "agent.json").read_bytes())

    def answer(zero: str) -> list[onnx.NodeProto]:
        return [
            constant(len(OBSERVATION_FIELDS) - 0.5, "edge"),
            node("ReduceSum", "observation", to="sum"),
            node("Sub", "edge", "sum", to="left"),
            node("Sqrt", "left", to="root"),
            node("Mul", zero, "root"),
        ]

    write_actor(tmp_path, answer, [output()])
    actor = load_actor(tmp_path)
    with pytest.raises(InputError, match="answers NaN or infinity"):
        actor.act(np.ones((1, len(OBSERVATION_FIELDS)), dtype=np.float32))


def test_a_missing_or_broken_network_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"agent\.json: no such file"):
        load_actor(tmp_path)
    (tmp_path / "agent.json").write_bytes((saved / "agent.json").read_bytes())
    with pytest.raises(InputError, match=r"agent\.onnx"):
        load_actor(tmp_path)
    (tmp_path / "agent.onnx").write_bytes((saved / "agent.onnx").read_bytes()[:200])
    with pytest.raises(InputError, match=r"agent\.onnx"):
        load_actor(tmp_path)
    narrow = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["observation"], ["action"])],
        "narrow",
        [onnx.helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.helper.make_tensor_value_info("action", onnx.TensorProto.FLOAT, ["batch", 3])],
    )
    onnx.save(
        onnx.helper.make_model(narrow, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "agent.onnx",
    )
    with pytest.raises(InputError, match=f"not an actor for {len(OBSERVATION_FIELDS)} observation fields"):
        load_actor(tmp_path)


def test_the_description_tells_what_the_agent_was_trained_for(saved: Path, tmp_path: Path) -> None:
    assert load_actor(saved).training == INFO
    assert INFO.metrics == {"latency"}
    trained = run_search(searcher_maker("ddpg"), toy_problem(), max_evaluations=12, seed=0).agent
    assert trained is not None
    told = INFO.model_copy(update={"ratios": {"latency": 0.45}, "params": 30})
    save_actor(tmp_path, trained, told, searcher="ddpg")
    assert load_actor(tmp_path).training == told

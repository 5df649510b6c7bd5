"""A trained actor: exported whole, the same in ONNX Runtime as in Stable-Baselines3, applied without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.layerwise import LayerwisePruningEnv
from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.envs.rollout import demonstrate
from autoprune.errors import InputError
from autoprune.policies.actor import Training, load_actor, roll_out
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
from autoprune.policies.searcher import run_search
from autoprune.policies.table import SEARCHERS
from autoprune.policies.trained import TrainedActor, TrainingInfo, exported_network
from autoprune.search.toy import toy_problem

INFO = TrainingInfo(model="toy", target="latency <= 0.45", evaluations=20, best_reward=-0.2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an agent that has searched the toy problem a little."""
    folder = tmp_path_factory.mktemp("agent")
    trained = run_search(SEARCHERS["ddpg"](), toy_problem(), max_evaluations=12, seed=0).agent
    assert trained is not None
    trained.save(folder, INFO)
    return folder


@pytest.mark.parametrize(
    "settings",
    [Ddpg(), Td3(), Sac(), Tqc(), Crossq(), Ppo()],
    ids=["ddpg", "td3", "sac", "tqc", "crossq", "ppo"],
)
def test_the_exported_actor_does_what_the_agents_own_policy_does(settings: AgentSettings, tmp_path: Path) -> None:
    """After some training: CrossQ's normalisation has statistics then, and is used without those of the batch."""
    problem = toy_problem()
    learner = make_learner(settings, LayerwisePruningEnv(problem), episodes=4)
    for episode, policy in enumerate(varied_policies(problem, 4, seed=0), 1):
        learner.learn([demonstrate(problem, policy)], np.linspace(-1.0, 1.0, episode).tolist())
        with_statistics = [layer for layer in learner.actor.modules() if list(layer.buffers(recurse=False))]
        assert bool(with_statistics) == isinstance(settings, Crossq)
        assert not any(layer.training for layer in with_statistics)
    assert isinstance(learner, OffPolicyLearner | PpoLearner)
    TrainedActor("test", exported_network(learner.actor)).save(tmp_path, INFO)
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
    result = run_search(SEARCHERS[name](), problem, max_evaluations=12, seed=0)
    assert result.agent is not None
    result.agent.save(tmp_path, INFO)
    assert roll_out(load_actor(tmp_path), problem) == result.best.policy


def test_an_actor_is_applied_without_torch_and_without_stable_baselines3(saved: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from autoprune.policies.actor import Training, load_actor, roll_out; "
        "from autoprune.search.toy import toy_problem; "
        "print(roll_out(load_actor(Path(sys.argv[1])), toy_problem()).key); "
        "assert not {'torch', 'stable_baselines3'} & set(sys.modules), 'the actor imported a training library'"
    )
    done = subprocess.run([sys.executable, "-c", program, str(saved)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == roll_out(load_actor(saved), toy_problem()).key


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
        (lambda info: info.update(searcher=None), "searcher must be a name"),
        (lambda info: info.update(observation="action"), "observation must be the list of the fields' names, got 'act"),
        (
            lambda info: info.update(observation=[{}, 1]),
            "observation must be the list of the fields' names, got [{}, 1]",
        ),
        (lambda info: info.update(observation=None), "got None; this version's are is_conv, is_depthwise"),
        (lambda info: info.update(observation=["a" * 9000]), "This version's: is_conv, is_depthwise"),
        (_drop_field, "damage. This version's: is_conv"),
        (lambda info: info.update(training=[]), "training must hold model (a name)"),
        (lambda info: info.update(training={"ratios": {"latency": "half"}}), "training must hold model (a name)"),
        (lambda info: info.update(training={"model": 3}), "training must hold model (a name)"),
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
    assert len(str(caught.value)) < 2000


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


def _network(
    folder: Path, saved: Path, answer: str, *, kind: int = onnx.TensorProto.FLOAT, output: str = "action"
) -> None:
    """A well-described agent whose network answers something else: `answer` is the node that makes it."""
    fields = len(OBSERVATION_FIELDS)
    given = onnx.helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", fields])
    nodes = {
        "nan": [("Sub", ["observation", "observation"], ["zero"]), ("Div", ["zero", "zero"], ["all"])],
        "infinite": [("Sub", ["observation", "observation"], ["zero"]), ("Reciprocal", ["zero"], ["all"])],
        "scalar": [("Identity", ["observation"], ["all"])],
        "three": [("Identity", ["observation"], ["all"])],
        "int": [("Cast", ["observation"], ["all"])],
        "fine": [("Identity", ["observation"], ["all"])],
    }[answer]
    made = [onnx.helper.make_node(op, inputs, outputs) for op, inputs, outputs in nodes]
    if answer == "int":
        made[0].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT64))
    if answer == "three":
        made.append(onnx.helper.make_node("Identity", ["all"], [output]))
    else:
        keep = int(answer != "scalar")
        axes = {} if answer == "scalar" else {"axes": [1]}
        made.append(onnx.helper.make_node("ReduceMax", ["all"], [output], keepdims=keep, **axes))
    shape = {"three": ["batch", fields], "scalar": []}.get(answer, ["batch", 1])
    graph = onnx.helper.make_graph(made, answer, [given], [onnx.helper.make_tensor_value_info(output, kind, shape)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "agent.onnx")
    (folder / "agent.json").write_bytes((saved / "agent.json").read_bytes())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("nan", "answers NaN or infinity"),
        ("infinite", "answers NaN or infinity"),
        ("scalar", "answers float32 of shape () to 1 observations, not a float32 each"),
        ("three", f"answers float32 of shape (1, {len(OBSERVATION_FIELDS)}) to 1 observations"),
    ],
)
def test_an_actor_answers_one_finite_number_for_each_observation(
    saved: Path, tmp_path: Path, answer: str, message: str
) -> None:
    _network(tmp_path, saved, answer)
    with pytest.raises(InputError) as caught:
        load_actor(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "agent.onnx"))


def test_an_actor_of_other_types_or_names_is_refused_and_one_that_is_fine_is_not(saved: Path, tmp_path: Path) -> None:
    _network(tmp_path, saved, "int", kind=onnx.TensorProto.INT64)
    with pytest.raises(InputError, match="answers int64 of shape"):
        load_actor(tmp_path)
    _network(tmp_path, saved, "fine", output="choice")
    with pytest.raises(InputError, match=r"its outputs are \['choice'\], not \['action'\]"):
        load_actor(tmp_path)
    _network(tmp_path, saved, "fine")
    assert load_actor(tmp_path).act(np.full((2, len(OBSERVATION_FIELDS)), 3.0, np.float32)).tolist() == [1.0, 1.0]


def test_an_actor_that_is_shown_other_fields_says_so(saved: Path) -> None:
    actor = load_actor(saved)
    for shape in ((1, 3), (len(OBSERVATION_FIELDS),)):
        with pytest.raises(InputError, match=r"trained on 21 observation fields and is shown an array of shape \("):
            actor.act(np.zeros(shape, np.float32))


def test_the_description_tells_what_the_agent_was_trained_for(saved: Path, tmp_path: Path) -> None:
    assert load_actor(saved).training == Training(model="toy", metrics=frozenset({"latency"}))
    trained = run_search(SEARCHERS["ddpg"](), toy_problem(), max_evaluations=12, seed=0).agent
    assert trained is not None
    trained.save(tmp_path, replace(INFO, ratios={"latency": 0.45}, params=30))
    ratios = {"latency": 0.45}
    assert load_actor(tmp_path).training == Training("toy", 30, ratios, frozenset({"latency"}))

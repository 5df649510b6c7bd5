"""The examples of plug-ins: each keeps its seam's contract and goes through a whole job; violations are caught."""

import importlib.util
import itertools
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_job
import torch
from onnx import numpy_helper
from test_searchers import installed, slow
from torch import nn

from autoprune.config.file import find_config, load_config
from autoprune.data import load_search_data
from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.errors import InputError
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.factories import load_factory, short_name
from autoprune.jobs.compare import check_searchers
from autoprune.jobs.run import run
from autoprune.policies.baselines import ListSearcher, RandomSearcher
from autoprune.policies.table import KINDS, searcher_maker
from autoprune.pruning.cost import CutShapes, layer_shapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.structure import load_pruned
from autoprune.runtimes.find import find_runtime
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.runtimes.runtime import InputSpec, LoadedModel
from autoprune.search.prepare import prepare
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, MakeSearcher, SearcherState
from autoprune.search.toy import toy_problem
from autoprune.space.layer_option import check_effects, find_option_kinds, layer_options
from autoprune.space.policy import PruningPolicy, load_policy, save_policy
from autoprune.steps.choice import search_choice
from autoprune.steps.finalists import distance
from autoprune.steps.subject import load_subject
from autoprune.testing import ContractError, check_option, check_runtime, check_searcher

PLUGINS = Path(__file__).parents[1] / "examples" / "plugins"


def plugin(file: str, name: str) -> str:
    return f"{PLUGINS / file}:{name}"


HILL_CLIMBING = plugin("hill_climbing.py", "HillClimbing")
TWO_OF_FOUR = plugin("two_of_four.py", "TwoOfFour")
PLAIN_LAYOUT = plugin("plain_layout.py", "PlainLayout")
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def test_plug_ins_are_short_and_touch_nothing() -> None:
    for path in PLUGINS.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs_openvino), PLAIN_LAYOUT])
def test_every_runtime_keeps_the_contract(name: str) -> None:
    check_runtime(lambda: find_runtime(name))


@pytest.mark.parametrize(
    "name", [*installed(sorted(set(KINDS) - {"crossq", "tqc"})), *slow(("crossq", "tqc")), HILL_CLIMBING]
)
def test_every_searcher_keeps_the_contract(name: str) -> None:
    check_searcher(searcher_maker(name))


def test_the_example_finds_more_than_it_starts_from() -> None:
    problem = toy_problem()
    searcher = load_factory(HILL_CLIMBING, field="search.agent")(Brief(problem, seed=0, max_evaluations=100), steps=1)
    rewards = []
    while policies := searcher.ask().policies:
        outcomes = [problem.evaluate(policy) for policy in policies]
        rewards += [outcome.reward for outcome in outcomes]
        searcher.tell(outcomes)
    assert max(rewards) > rewards[0] + 0.05
    assert len(rewards) < 100  # it comes to an end by itself


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("search", {"agent": HILL_CLIMBING, "settings": {"steps": 2}, "max_evaluations": 6}),
        ("search", {"importance": plugin("geometric_median.py", "distance_to_others")}),
        ("search", {"reward": {"form": plugin("soft_target.py", "soft_target"), "cost": "macs"}}),
        ("search", {"options": [TWO_OF_FOUR], "agent": "knapsack"}),
    ],
    ids=["searcher", "importance", "reward form", "option"],
)
def test_a_job_with_each_plug_in(
    section: str, settings: dict[str, Any], small_checkpoint: Path, tmp_path: Path
) -> None:
    config = small_job.write_config(
        tmp_path / "job.yaml", model={"checkpoint": str(small_checkpoint)}, **{section: settings}
    )
    small_job.done("run", config, "--run-dir", tmp_path / "run", "--quiet")
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["checks"]["target_met"]
    if settings.get("agent") == HILL_CLIMBING:
        assert result["search"]["searcher"] == "hill_climbing"


@pytest.mark.parametrize("name", [pytest.param("openvino", marks=needs_openvino), PLAIN_LAYOUT])
def test_a_job_with_another_runtime(name: str, small_checkpoint: Path, tmp_path: Path) -> None:
    """The latency target is that of the runtime: its layers are measured apart from those of the usual one, and so are
    the files."""
    target, measure = {"metric": "latency", "max_ratio": 0.8}, {"runtime": name}
    config = small_job.write_config(
        tmp_path / "job.yaml", model={"checkpoint": str(small_checkpoint)}, target=target, measure=measure
    )
    table = tmp_path / "latency.sqlite"
    small_job.done("run", config, "--run-dir", tmp_path / "run", "--quiet", AUTOPRUNE_LATENCY_TABLE=str(table))
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    runtime = find_runtime(name)
    assert result["environment"]["runtime"] == f"{runtime.key}, {runtime.device}"
    assert result["checks"]["onnx_parity_max_abs"] < 1e-4
    assert result["pruned"]["test_accuracy"] > 0.9
    assert result["ratios"]["macs"] < 1  # a noisy machine may miss the target; that it was searched for shows
    with closing(sqlite3.connect(table)) as connection:
        devices = [json.loads(key)["device"] for (key,) in connection.execute("SELECT key FROM devices")]
    assert [(device["runtime"], device["provider"]) for device in devices] == [(runtime.key, runtime.device)]


@pytest.mark.parametrize("command", ["run", "adapt"])
def test_an_adaptive_model_needs_onnx_runtime(command: str, tmp_path: Path) -> None:
    arguments = ("demo", "--run-dir", tmp_path / "run", "-o", f"measure.runtime={PLAIN_LAYOUT}")
    finished = small_job.autoprune(command, *arguments, *(("-o", "adaptive.enabled=true") if command == "run" else ()))
    assert finished.returncode == 2
    assert "an input-adaptive file chooses its level with ONNX's If" in " ".join(finished.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_file_is_evaluated_in_another_runtime(small_checkpoint: Path, tmp_path: Path) -> None:
    config = small_job.write_config(tmp_path / "job.yaml", measure={"runtime": PLAIN_LAYOUT})
    info = load_search_data(load_config(config, []).data).info
    export_onnx(small_job.net(3), tmp_path / "net.onnx", info)
    said = small_job.done("evaluate", config, tmp_path / "net.onnx", "--json", "-", "--quiet")
    assert json.loads(said)["device"]["runtime"] == find_runtime(PLAIN_LAYOUT).key


@dataclass(frozen=True)
class Wrong(OnnxRuntime):
    """ONNX Runtime with a fault."""

    fault: str = ""

    def open_model(self, model: Path | bytes, *, threads: int) -> LoadedModel:
        if self.fault == "threads":
            threads = 2
        if self.fault == "broken" and isinstance(model, Path):
            model = model.read_bytes()
        loaded = super().open_model(model, threads=threads)
        return WrongModel(loaded.session, loaded.inputs, self.fault)


class WrongModel:
    def __init__(self, session: Any, inputs: tuple[InputSpec, ...], fault: str) -> None:
        self.session, self.inputs, self.fault = session, inputs, fault
        self._last: list[np.ndarray] = []
        self._given: dict[tuple[int, ...], np.ndarray] = {}

    def _run(self, *arrays: np.ndarray) -> np.ndarray:
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        answer: np.ndarray = self.session.run(None, feed)[0]
        if self.fault == "first row":
            answer[:] = answer[:1]
        if self.fault == "shuffled":
            answer = answer[::-1]
        if self.fault == "double":
            answer = answer.astype(np.float64).tolist()  # type: ignore[assignment]
        return answer

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        answer = self._run(*arrays)
        if self.fault == "previous":
            self._last.append(answer)
            return self._last[-2] if len(self._last) > 1 and self._last[-2].shape == answer.shape else answer
        if self.fault == "cached":
            return self._given.setdefault(arrays[0].shape, answer)
        if self.fault == "one buffer":
            buffer = self._given.setdefault(answer.shape, answer)
            buffer[:] = answer
            return buffer
        if self.fault == "in place":
            arrays[0][:] = 0
        return answer

    def bind(self, *arrays: np.ndarray) -> Callable[[], np.ndarray]:
        if self.fault == "not run":
            answer = self._run(*arrays)
            return lambda: answer
        if self.fault == "one bound":
            self._last = list(arrays)
            return lambda: self._run(*self._last)
        if self.fault == "swapped":
            return lambda: self._run(*arrays[::-1])
        return lambda: self._run(*arrays)


class Clocked(OnnxRuntime):
    numbers = itertools.count()

    @property
    def key(self) -> str:
        return f"{super().key} {next(self.numbers)}"


class Nameless(OnnxRuntime):
    key = ""  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("previous", "call: answers otherwise than PyTorch"),
        ("first row", "call: answers otherwise than PyTorch"),
        ("shuffled", "call: answers otherwise than PyTorch"),
        ("cached", "call: answers otherwise than PyTorch"),
        ("one buffer", "a later one wrote over an earlier answer"),
        ("in place", "must leave the images as they are"),
        ("double", r"call: must give an array \(1, 3\), gave list"),
        ("one bound", "bind: must give an array|bind: answers otherwise"),
        ("swapped", "bind, of two inputs: answers otherwise"),
        ("not run", "a call must run the whole batch"),
        ("broken", "open_model: its error must name the file cut.onnx"),
    ],
)
def test_wrong_runtimes_are_caught(fault: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_runtime(lambda: Wrong(fault=fault))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's accounts of threads")
def test_a_runtime_that_takes_more_threads_is_caught() -> None:
    with pytest.raises(ContractError, match="with threads=1 other threads compute"):
        check_runtime(lambda: Wrong(fault="threads"))


@pytest.mark.parametrize(("make", "message"), [(Clocked, "key: must stay"), (Nameless, "key: must be a text, got ''")])
def test_keys_that_are_none_are_caught(make: Callable[[], OnnxRuntime], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_runtime(make)


class Repeating(ListSearcher):
    def ask(self) -> Ask:
        return Ask((toy_problem().floor_policy,))


class Unseeded(RandomSearcher):
    def __init__(self, brief: Brief) -> None:
        super().__init__(brief)
        self._rng = np.random.default_rng()


class Forgetful(RandomSearcher):
    def restore(self, state: SearcherState) -> None:
        pass


class Unsaved(RandomSearcher):
    def state(self) -> SearcherState:
        return SearcherState({"rng": self._rng})


class UnsavedLater(RandomSearcher):
    def state(self) -> SearcherState:
        return SearcherState({"asked": {1} if self._asked else 0})

    def ask(self) -> Ask:
        self._asked = True
        return super().ask()

    _asked = False


class Unnamed(RandomSearcher):
    name = ""


class OffTheLadder(RandomSearcher):
    def ask(self) -> Ask:
        return Ask((tuple(option + 1 for option in toy_problem().full_policy),))


class BeyondTheLimits(RandomSearcher):
    def ask(self) -> Ask:
        return Ask((toy_problem().full_policy,))


class Widths(RandomSearcher):
    def ask(self) -> Ask:
        problem = toy_problem()
        return Ask((problem.pruning_of(problem.floor_policy),))  # type: ignore[arg-type]


class Listing(RandomSearcher):
    def ask(self) -> Ask:
        return [toy_problem().floor_policy]  # type: ignore[return-value]


class Shared(RandomSearcher):
    """Its state is the very list that it goes on with."""

    def __init__(self, brief: Brief) -> None:
        super().__init__(brief)
        self._given = [0]

    def ask(self) -> Ask:
        self._given[0] += 1
        rng = np.random.default_rng(self._given[0])
        self._rng = rng
        return super().ask()

    def state(self) -> SearcherState:
        return SearcherState({"given": self._given})

    def restore(self, state: SearcherState) -> None:
        self._given = state.facts["given"]


class FromTheGlobalGenerator(RandomSearcher):
    def __init__(self, brief: Brief) -> None:
        super().__init__(brief)
        np.random.seed(brief.seed)

    def ask(self) -> Ask:
        self._rng = np.random.default_rng(np.random.randint(1 << 30))
        return super().ask()

    def restore(self, state: SearcherState) -> None:
        np.random.seed(0)


class BadActor(RandomSearcher):
    def trained(self) -> nn.Module:  # type: ignore[override]
        return nn.Linear(len(OBSERVATION_FIELDS), 2)


class Silent(RandomSearcher):
    def ask(self) -> Ask:
        return Ask(())


class AllOrNothing(RandomSearcher):
    def tell(self, outcomes: Sequence[Outcome]) -> None:
        assert len(outcomes) == 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda brief: Repeating(brief, name="again", policies=()), "20 times in a row nothing new"),
        (Unseeded, "the same brief gave other policies the second time"),
        (Forgetful, "state: given to a new searcher after 1 asks, it asked for"),
        (Unsaved, "state: cannot be saved, as facts of JSON and tensors"),
        (UnsavedLater, "state: cannot be saved, as facts of JSON and tensors"),
        (Unnamed, "name: must be a text, got ''"),
        (OffTheLadder, "is no policy; one is a tuple with a Python int for each decision"),
        (BeyondTheLimits, "breaks a limit; only probes may"),
        (Widths, "is no policy; one is a tuple"),
        (Listing, "must give an Ask with a tuple of policies"),
        (Shared, "state: given to a new searcher"),
        (FromTheGlobalGenerator, "state: given to a new searcher"),
        (BadActor, r"trained: must give finite actions \(3, 1\) for 3 observations, gave \(3, 2\)"),
        (Silent, "gave no policy at all"),
        (AllOrNothing, "with the first outcome of 16 it failed"),
    ],
)
def test_violations_are_caught(make: MakeSearcher, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_searcher(make)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search.agent", "nowhere.py:Mine"),
        ("search.importance", plugin("geometric_median.py", "mine")),
        ("search.reward.form", plugin("soft_target.py", "GOAL")),
        ("measure.runtime", plugin("plain_layout.py", "CPU_PROVIDER")),
    ],
)
def test_a_file_that_does_not_give_a_plug_in_is_refused_before_any_work(key: str, value: str, tmp_path: Path) -> None:
    config = load_config(find_config("demo"), [f"{key}={value}"])
    with pytest.raises(InputError, match=re.escape(f"{key}={value}: ")):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ((f"search.agent={HILL_CLIMBING}", "search.settings={stps: 2}"), f"search.agent={HILL_CLIMBING}"),
        (("search.reward.form={file}:of_one",), "search.reward.form={file}:of_one"),
        (("search.importance={file}:of_one",), "search.importance={file}:of_one"),
        (("measure.runtime={file}:of_one",), "measure.runtime={file}:of_one"),
    ],
)
@pytest.mark.parametrize("is_applied", [False, True])
def test_a_plug_in_that_cannot_be_called_is_refused_before_any_work(
    overrides: tuple[str, ...], named: str, is_applied: bool, tmp_path: Path
) -> None:
    """Also where a policy is applied: it is scored too, and levels are searched."""
    file = tmp_path / "mine.py"
    file.write_text("def of_one(score): return 1.0\n")
    written = [override.replace("{file}", str(file)) for override in (*overrides, "adaptive.enabled=true")]
    choose = search_choice if is_applied else None
    with pytest.raises(InputError, match=re.escape(named.replace("{file}", str(file))) + r": .* cannot be called so"):
        run(load_config(find_config("demo"), written), tmp_path / "run", choose=choose)
    assert not (tmp_path / "run").exists()


def test_searchers_of_files_can_be_compared(tmp_path: Path) -> None:
    check_searchers(["uniform", HILL_CLIMBING])
    for names, message in (
        (["uniform", "nowhere.py:Mine"], "nowhere.py: no such file"),
        ([HILL_CLIMBING, HILL_CLIMBING], "name each of them once"),
        (["unifrom"], "unknown unifrom"),
    ):
        with pytest.raises(InputError, match=message):
            check_searchers(names)
    searchers = ("--searchers", f"uniform,{HILL_CLIMBING}", "--seeds", "1", "-o", "search.max_evaluations=12")
    small_job.done("compare", "toy", *searchers, "--run-dir", tmp_path / "run", "--quiet")
    comparison = json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    assert {search["searcher"] for search in comparison["searches"]} == {"uniform", "HillClimbing"}


def test_a_run_folder_is_named_by_the_searcher_not_by_its_path() -> None:
    assert short_name(HILL_CLIMBING) == "HillClimbing"
    assert short_name("ddpg") == "ddpg"


class Patterned:
    """Two of each four weights, as the example; what tests break of it is given."""

    name = "2:4"

    def __init__(self, broken: dict[str, Any]) -> None:
        self._whole, self._broken = load_factory(TWO_OF_FOUR, field="search.options")(), broken

    def sizes(self, layer_name: str, layer: nn.Module) -> Sequence[int]:
        return self._broken.get("sizes", self._whole.sizes(layer_name, layer))  # type: ignore[no-any-return]

    def left(self, size: int) -> float:
        return self._broken.get("left", self._whole.left)(size)  # type: ignore[no-any-return]

    def apply(self, layer: nn.Module, size: int) -> None:
        self._broken.get("apply", self._whole.apply)(layer, size)


def no_option(layer: Any, size: int) -> None:
    """Changes nothing."""


def halved(layer: Any, size: int) -> None:
    layer.weight.data[: len(layer.weight) // 2] *= size / 8


def by_chance(layer: Any, size: int) -> None:
    if size < 4:
        layer.weight.data *= torch.rand_like(layer.weight.data) < 0.5


def with_bias(layer: Any, size: int) -> None:
    if size < 4:
        layer.weight.data[:, ::2] = 0.0
        if layer.bias is not None:
            layer.bias.data.zero_()


def in_a_copy(layer: Any, size: int) -> None:
    """Flattened, the weight is its own memory only where it lies as its shape says."""
    layer.weight.data.flatten(1)[:, ::2] *= size == 4


def test_the_kind_of_option_keeps_the_contract() -> None:
    check_option(load_factory(TWO_OF_FOUR, field="search.options"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"left": lambda size: 0.25 if size == 2 else 1.0},
            r"left: says that 0\.250 of the weights, and of their MACs",
        ),
        ({"apply": no_option}, r"left: says that 0\.500 of .*; 1\.000 are"),
        ({"apply": halved}, "applied again it changed more"),
        ({"apply": by_chance}, "gave other weights the second time"),
        ({"apply": with_bias}, "changed bias"),
        ({"apply": in_a_copy}, r"left: says that 0\.500 of .*; 1\.000 are"),
        ({"sizes": (4, 2)}, "ascending whole numbers"),
        ({"sizes": (0, 4)}, "ascending whole numbers"),
        ({"sizes": ()}, "no option for any"),
        ({"left": lambda size: size / 2}, "left must ascend from above 0 to 1"),
    ],
)
def test_an_option_that_breaks_the_contract_is_caught(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_option(lambda: Patterned(broken))


def test_options_of_layers_are_kept_through_cut_training_and_file(small_checkpoint: Path, tmp_path: Path) -> None:
    """A target of MACs that widths alone cannot reach: two of each four weights are left wherever the policy says so,
    in the pruned model and in its file."""
    config = small_job.write_config(
        tmp_path / "job.yaml",
        model={"checkpoint": str(small_checkpoint)},
        target={"metric": "macs", "max_ratio": 0.6},
        search={"options": [TWO_OF_FOUR], "agent": "knapsack", "max_evaluations": 6, "min_keep": 0.8},
        finetune={"epochs": 2},
    )
    run_dir = tmp_path / "run"
    small_job.done("run", config, "--run-dir", run_dir, "--quiet")
    kept = load_policy(run_dir / "policy.json").as_dict()
    patterned = {name.removesuffix(" 2:4") for name, size in kept.items() if name.endswith(" 2:4") and size == 2}
    assert patterned
    model = load_pruned(run_dir / "pruned", architecture=load_subject(load_config(config)).model)
    for name in patterned:
        rows = model.get_submodule(name).weight.detach().flatten(1)  # type: ignore[operator, union-attr]
        fours = rows[:, : rows.shape[1] // 4 * 4].reshape(-1, 4)
        assert int((fours != 0).sum(1).max()) == 2, name
    result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    assert result["checks"]["target_met"]
    assert result["ratios"]["macs"] <= 0.6
    weights = [
        numpy_helper.to_array(one) for one in onnx.load(str(run_dir / "export" / "model.onnx")).graph.initializer
    ]
    assert max(np.mean(weight == 0) for weight in weights if weight.ndim > 1) > 0.4


@pytest.mark.parametrize("change", [{"adaptive": {"enabled": True}}, {"finetune": {"cut_per_step": 0.5}}])
def test_options_of_layers_are_refused_where_they_cannot_be_kept(
    change: dict[str, Any], small_checkpoint: Path, tmp_path: Path
) -> None:
    config = small_job.write_config(
        tmp_path / "job.yaml", model={"checkpoint": str(small_checkpoint)}, search={"options": [TWO_OF_FOUR]}, **change
    )
    ended = small_job.autoprune("run", config, "--run-dir", tmp_path / "run", "--quiet")
    assert ended.returncode == 2
    assert "search.options" in ended.stderr
    assert not (tmp_path / "run").exists()


def _conv_twice() -> nn.Module:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.unused, self.last = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.again(self.again(self.first(x))).mean((2, 3)))  # type: ignore[no-any-return]

    return Twice().eval()


def test_options_cost_what_they_leave_of_all_runs_by_hand() -> None:
    """8 channels of 4 x 4: a layer that runs twice takes 2 * 16 * 576 MACs, of which half are left."""
    model = _conv_twice()
    kinds = find_option_kinds([TWO_OF_FOUR])
    options = layer_options(model, kinds, layer_shapes(model, (1, 4, 4)))
    assert [option.name for option in options] == ["again 2:4"]  # the first reads one channel, one is never run
    elastic = ElasticModel(model, (), {}, options)
    shapes = CutShapes(elastic, (1, 4, 4))
    whole, half = (shapes.cost(PruningPolicy.of({"again 2:4": size})) for size in (4, 2))
    assert (whole.macs - half.macs, whole.params - half.params) == (16 * 576, 288)
    assert elastic.full_policy == PruningPolicy.of({"again 2:4": 4})


def test_a_layer_has_one_kind_of_option_and_user_code_is_named() -> None:
    model = _conv_twice()
    run = layer_shapes(model, (1, 4, 4))

    class Other(Patterned):
        name = "other"

    with pytest.raises(InputError, match=r"search\.options: 2:4 and other are both for again; a layer has one"):
        layer_options(model, (Patterned({}), Other({})), run)

    class Raising(Patterned):
        def sizes(self, layer_name: str, layer: nn.Module) -> Sequence[int]:
            raise RuntimeError("no idea")

    with pytest.raises(InputError, match=r"search\.options: 2:4: sizes of first failed \(RuntimeError: no idea\)"):
        layer_options(model, (Raising({}),), run)

    def in_place(layer: Any, size: int) -> None:
        layer.weight.mul_(1.0 if size == 4 else 0.5)  # of a leaf that wants gradients

    (option,) = layer_options(model, (Patterned({"apply": in_place}),), run)
    assert option.lost_importance(model.get_submodule("again")) == (pytest.approx(0.75), 0.0)


def test_a_stored_policy_with_a_size_that_is_none_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    config = small_job.write_config(
        tmp_path / "job.yaml",
        model={"checkpoint": str(small_checkpoint)},
        target={"metric": "macs", "max_ratio": 0.9},
        search={"options": [TWO_OF_FOUR]},
    )
    loaded = load_config(config)
    subject = load_subject(loaded)
    full = prepare(loaded, subject.model, subject.data).elastic.full_policy.as_dict()
    patterned = next(name for name in full if name.endswith(" 2:4"))
    for size in (0, 3):
        policy = PruningPolicy.of({**full, patterned: size})
        save_policy(tmp_path / "policy.json", policy, model=loaded.model.name, original=full)
        ended = small_job.autoprune(
            "apply", config, "--policy", tmp_path / "policy.json", "--run-dir", tmp_path / "run", "--quiet"
        )
        assert ended.returncode == 2
        assert f"{patterned} is {size}, not one of 2, 4" in " ".join(ended.stderr.split())
    save_policy(
        tmp_path / "policy.json", PruningPolicy.of({**full, patterned: 2}), model=loaded.model.name, original=full
    )
    small_job.done("apply", config, "--policy", tmp_path / "policy.json", "--run-dir", tmp_path / "run", "--quiet")
    assert load_policy(tmp_path / "run" / "policy.json").as_dict()[patterned] == 2


def test_finalists_may_differ_in_options_alone() -> None:
    model = _conv_twice()
    options = layer_options(model, find_option_kinds([TWO_OF_FOUR]), layer_shapes(model, (1, 4, 4)))
    two, four = (PruningPolicy.of({"again 2:4": size}) for size in (2, 4))
    assert distance((), two, four, options) == 0.5


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"apply": no_option}, r"left 1\.00 of the weights, and `left` says 0\.50"),
        ({"sizes": ()}, "2:4 is for no layer of this model"),
    ],
)
def test_a_run_goes_by_no_option_that_does_not_do_what_it_says(broken: dict[str, Any], message: str) -> None:
    model, kinds = _conv_twice(), (Patterned(broken),)
    options = layer_options(model, kinds, layer_shapes(model, (1, 4, 4)))
    with pytest.raises(InputError, match=message):
        check_effects(options, model, kinds)
    whole = (Patterned({}),)
    check_effects(layer_options(model, whole, layer_shapes(model, (1, 4, 4))), model, whole)

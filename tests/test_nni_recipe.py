"""What goes to another machine: the recipe as files, and a service there that scores by them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_job

from autoprune.config import RunConfig
from autoprune.config.file import find_config, load_config
from autoprune.errors import ConfigError, InputError, RunError
from autoprune.nni.client import is_served
from autoprune.nni.remote import keeper
from autoprune.nni.remote.machines import check_machines, environment
from autoprune.nni.remote.recipe import FACTS, WEIGHTS, problem_from, write_recipe
from autoprune.nni.remote.report import Report, bars_in, report_in, told_bars
from autoprune.nni.trial import serve_trial
from autoprune.reports.tensorboard import RunLogger
from autoprune.search.problem import SearchProblem
from autoprune.search.racing import Bar
from autoprune.search.toy import toy_problem
from autoprune.steps.context import Workspace, checked, context_of
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore


def workspace_of(config: RunConfig, root: Path, logger: RunLogger) -> Workspace:
    place = Workspace(config, RunDir(root), TrialStore(root / "trials.sqlite"), logger)
    return place if config.problem == "toy" else context_of(place, checked(config))


@pytest.fixture(scope="module")
def written(small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchProblem]:
    """A recipe of the small job in a folder, and the problem that it is of."""
    config = load_config(small_config, ["target={metric: macs, max_ratio: 0.9}"])
    folder = tmp_path_factory.mktemp("recipe")
    with RunLogger(folder / "logs") as logger:
        place = workspace_of(config, folder / "run", logger)
        write_recipe(place, folder / "code")
    return folder / "code", place.prepared.problem


@pytest.fixture
def copied(written: tuple[Path, SearchProblem], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "code"))


def test_the_files_make_the_same_problem(written: tuple[Path, SearchProblem]) -> None:
    folder, here = written
    there = problem_from(folder)
    assert (there.decisions, there.limits, there.fingerprint) == (here.decisions, here.limits, here.fingerprint)
    for policy in (here.floor_policy, here.full_policy):
        assert there.evaluate(policy) == here.evaluate(policy)


def test_data_may_have_another_name_there(written: tuple[Path, SearchProblem], tmp_path: Path) -> None:
    folder, here = written
    moved = Path(shutil.copy(small_job.__file__, tmp_path / "moved.py"))
    there = problem_from(folder, data=f"{moved}:bars")
    assert there.evaluate(here.floor_policy) == here.evaluate(here.floor_policy)


def test_other_data_are_refused(written: tuple[Path, SearchProblem]) -> None:
    with pytest.raises(RunError, match="is another here than where the search runs"):
        problem_from(written[0], data=f"{small_job.__file__}:bars_with_other_labels")


def test_another_version_is_refused(copied: Path) -> None:
    facts = json.loads((copied / FACTS).read_text())
    (copied / FACTS).write_text(json.dumps({**facts, "version": "0.0"}))
    with pytest.raises(RunError, match=r"the run has autoprune 0\.0, this machine"):
        problem_from(copied)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1}', "[" * 100_000])
def test_a_broken_recipe_is_named(copied: Path, text: str) -> None:
    (copied / FACTS).write_text(text)
    with pytest.raises(InputError, match=r"recipe\.json: not a recipe"):
        problem_from(copied)


def test_no_file_holds_code(written: tuple[Path, SearchProblem]) -> None:
    folder, _ = written
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.yaml", FACTS, WEIGHTS, "importance.safetensors"]
    )


class Told:
    """NNI, as one trial sees it."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self.looks: list[Mapping[str, Any]] = []
        self.final: Mapping[str, Any] | None = None

    def parameters(self) -> Mapping[str, Any]:
        return self._parameters

    def report(self, figures: Mapping[str, Any], *, is_final: bool) -> None:
        if is_final:
            self.final = figures
        else:
            self.looks.append(figures)

    @property
    def reports(self) -> list[Report]:
        assert self.final is not None
        return [report_in(figures, "trial") for figures in (*self.looks, self.final)]


def scored(folder: Path, parameters: Mapping[str, Any]) -> tuple[Told, str | None]:
    told = Told(parameters)
    return told, serve_trial(folder, told)


@dataclass(frozen=True)
class There:
    """A service that scores by a recipe, and what stands where NNI's trial keeper would."""

    folder: Path
    scorer: subprocess.Popen[bytes]
    keeper: subprocess.Popen[bytes]


@contextmanager
def scoring_there(code: Path) -> Iterator[There]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as keeper_process:
        folder = code / "service"
        folder.mkdir()
        variables = {**os.environ, keeper.KEEPER: str(keeper_process.pid), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "autoprune.nni.remote.scorer", str(code), str(folder)]
        with subprocess.Popen(command, env=variables) as scorer:
            try:
                deadline = time.monotonic() + 120
                while not is_served(folder):
                    assert scorer.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
                yield There(folder, scorer, keeper_process)
            finally:
                keeper_process.kill()
        assert not (folder / "service.sock").exists()  # it ended with the keeper, and by itself
        assert scorer.returncode == 0


def test_a_service_there_scores_as_the_run_would(written: tuple[Path, SearchProblem], copied: Path) -> None:
    _, here = written
    parameters = {decision.name: 0 for decision in here.decisions}
    with scoring_there(copied) as there:
        told, refused = scored(there.folder, parameters)
        raced, _ = scored(there.folder, {**parameters, **told_bars({0: Bar(seen=1e9, reward=1e9)})})
        empty, why = scored(there.folder, {})
    assert refused is None
    expected = here.evaluate(here.floor_policy)
    scores = {report.score.look: report.score for report in told.reports}
    assert list(scores) == [0, 1]  # 150 images are fewer than a second look takes
    assert scores[1] == expected.score
    assert told.final is not None and told.final["default"] == expected.reward
    assert told.reports[-1].policy == expected.pruning and told.reports[-1].parameters == parameters
    assert [report.score.look for report in raced.reports] == [0]  # it is behind, and was known
    assert why is not None and f"{here.decisions[0].name} is missing" in why
    assert empty.final is None


def test_what_a_tuner_proposes_is_brought_within_the_limits(tmp_path: Path) -> None:
    config = load_config(find_config("toy"), ["nni.platform=remote"])
    with RunLogger(tmp_path / "logs") as logger:
        write_recipe(workspace_of(config, tmp_path / "run", logger), tmp_path / "code")
    here = toy_problem()
    wide = {decision.name: len(decision.ladder) - 1 for decision in here.decisions}
    with scoring_there(tmp_path / "code") as there:
        told, _ = scored(there.folder, wide)
        agents, _ = scored(there.folder, {**wide, **told_bars({})})
    assert here.is_feasible(here.policy_of(told.reports[-1].policy))
    assert here.policy_of(agents.reports[-1].policy) == here.full_policy  # ours knows the limits


def test_bars_go_there_and_back() -> None:
    bars = {0: Bar(-0.1234567890123, -0.3), 1: Bar(-1e-9, 2.0)}
    assert bars_in(told_bars(bars)) == bars
    assert bars_in({"conv1": 3}) is None


@pytest.mark.parametrize("figures", [{}, {"autoprune": 3}, {"autoprune": "{}"}, {"autoprune": '{"policy": NaN}'}])
def test_a_report_that_is_none_is_named(figures: Mapping[str, Any]) -> None:
    with pytest.raises(RunError, match="trial abc: reports no score"):
        report_in(figures, "abc")


def test_a_trial_keeper_talks_through_the_socket(tmp_path: Path) -> None:
    told = {"managerCommandChannel": "ws://localhost:8080/platform/remote/1", "platform": "remote"}
    (tmp_path / keeper.LAUNCHER).write_text(json.dumps(told))
    given = keeper.prepare(tmp_path, "/tmp/socket", "imagefolder:/there")
    after = json.loads((tmp_path / keeper.LAUNCHER).read_text())
    assert after == {**told, "managerCommandChannel": "ws+unix:/tmp/socket:/platform/remote/1"}
    assert given[keeper.SOCKET] == "/tmp/socket" and given[keeper.DATA] == "imagefolder:/there"
    assert str(keeper.PRELOAD) in given["NODE_OPTIONS"] and keeper.PRELOAD.is_file()


def nni_of(*machines: Mapping[str, Any], platform: str = "remote") -> Any:
    nni = load_config(find_config("toy")).nni
    return nni.model_copy(update={"platform": platform, "machines": machines})


def test_machines_are_checked_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("nni")
    key = tmp_path / "key"
    key.touch()
    good = {"host": "there", "user": "me", "sshKeyFile": str(key)}
    check_machines(nni_of(good, {**good, "data": "imagefolder:/there"}))
    for machines, message in (
        ((), "nni.machines: none is named"),
        ((good, {**good, "password": "x"}), r"nni\.machines\[1\]\.password: would be written"),
        (({**good, "data": 3},), r"nni\.machines\[0\]\.data: must be a text"),
        (({**good, "sshKeyFile": "/no/key"},), r"nni\.machines\[0\]: .*key file"),
        (({**good, "prot": 22},), r"nni\.machines\[0\]: .*prot"),
        (({"user": "me", "sshKeyFile": str(key)},), r"nni\.machines\[0\]: .*host"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_machines(nni_of(*machines))
    with pytest.raises(ConfigError, match=r"are for nni\.platform=remote"):
        check_machines(nni_of(good, platform="local"))


def test_each_machine_may_name_its_data() -> None:
    nni = nni_of({"host": "a", "user": "me"}, {"host": "b", "user": "me", "port": 2222, "data": "imagefolder:/b"})
    assert environment(nni, 8080) == {
        "AUTOPRUNE_NNI_PORT": "8080",
        "AUTOPRUNE_NNI_DATA": '{"me@b:2222": "imagefolder:/b"}',
    }
    assert environment(nni_of(platform="local"), 8080) == {}

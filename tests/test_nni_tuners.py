"""The tuners that NNI's dispatcher makes: what they propose after a resume, and users' own, kept in order, too."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from nni_for_tests import nni_run

from autoprune.errors import ConfigError
from autoprune.nni.algorithms import SEEDED, TUNERS, check_tuner, from_anywhere, option_space, own_settings

pytest.importorskip("nni")
pytestmark = pytest.mark.filterwarnings("ignore")  # NNI's own
WIDTHS = ("a", "b", "c", "d")
Parameters = Mapping[str, Any]
Event = tuple[str, str, Parameters | None]  # trial, what happened to it, its parameters


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an experiment as NNI's dispatcher finds it."""
    for name in ("checkpoint", "db"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path / "checkpoint"))
    return tmp_path


def note(experiment: Path, events: Iterable[Event]) -> None:
    """As NNI does it."""
    with contextlib.closing(sqlite3.connect(experiment / "db" / "nni.sqlite")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS TrialJobEvent (trialJobId text, event text, data text)")
        for trial, event, parameters in events:
            data = None if parameters is None else json.dumps({"parameter_id": 0, "parameters": parameters})
            database.execute("INSERT INTO TrialJobEvent VALUES (?, ?, ?)", (trial, event, data))


def made(name: str, experiment: Path, *, seed: int | None = 0) -> Any:
    from autoprune.nni.tuner import OrderedTuner

    known = TUNERS[name]
    seeded = {"seed": seed} if name in SEEDED else {}
    tuner = OrderedTuner(name, {**known.settings, **own_settings(name, experiment), **seeded})
    if (experiment / "db" / "nni.sqlite").exists():
        tuner.load_checkpoint()
    tuner.update_search_space({width: option_space(5, known.space) for width in WIDTHS})
    return tuner


def proposed(tuner: Any, trials: int) -> list[Parameters]:
    """As NNI's manager keeps them: whole numbers without a point."""
    found: list[Parameters] = []
    for number in range(trials):
        found += tuner.generate_multiple_parameters([number], st_callback=lambda *_: None)
    return [{name: int(value) if name in WIDTHS else value for name, value in each.items()} for each in found]


def options(found: Iterable[Parameters]) -> list[tuple[int, ...]]:
    return [tuple(each[width] for width in WIDTHS) for each in found]


def succeeded(found: Iterable[Parameters], first: int = 0) -> list[Event]:
    return [
        event
        for number, each in enumerate(found, first)
        for event in ((f"t{number}", "RUNNING", each), (f"t{number}", "SUCCEEDED", None))
    ]


def results(found: Iterable[Parameters]) -> list[dict[str, Any]]:
    return [{"parameter": each, "value": {"default": -1.0 - 0.1 * sum(options([each])[0])}} for each in found]


@pytest.mark.parametrize("name", ["TPE", "Random", "GridSearch"])
def test_after_a_resume_nothing_is_proposed_again(name: str, experiment: Path) -> None:
    before = proposed(made(name, experiment), 6)
    note(experiment, succeeded(before[:3]))
    note(experiment, [("r", "RUNNING", before[3]), ("s", "RUNNING", before[4]), ("s", "EARLY_STOPPED", None)])
    note(experiment, [("f", "RUNNING", before[5]), ("f", "FAILED", None)])
    resumed = [made(name, experiment) for _ in range(2)]
    after = []
    for tuner in resumed:
        tuner.import_data(results(before[:3]))
        after.append(proposed(tuner, 8))
    assert not set(options(before[:5])) & set(options(after[0]))
    assert after[0] == after[1]  # the same seed and history
    if name == "GridSearch":
        assert options(after[0])[0] == options(before)[5]  # it has no result, and no other trial will try it


@pytest.mark.parametrize("name", SEEDED)
def test_after_a_resume_chance_goes_on_and_does_not_turn_into_a_grid(name: str, experiment: Path) -> None:
    before = proposed(made(name, experiment), 8)
    note(experiment, succeeded(before))
    tuner = made(name, experiment)
    tuner.import_data(results(before))
    once = proposed(tuner, 8)
    note(experiment, succeeded(once, first=8))
    tuner = made(name, experiment)
    tuner.import_data(results([*before, *once]))
    twice = proposed(tuner, 8)
    assert len(set(options([*before, *once, *twice]))) == 24
    for found in (once, twice):
        assert all(len({each[place] for each in options(found)}) > 2 for place in range(4))  # a grid begins at its end


def test_an_experiment_that_begins_proposes_what_nnis_own_tuner_does(experiment: Path) -> None:
    from nni.algorithms.hpo.random_tuner import RandomTuner

    own = RandomTuner(seed=0)
    own.update_search_space({width: option_space(5, "randint") for width in WIDTHS})
    assert proposed(made("Random", experiment), 5) == proposed(own, 5)
    note(experiment, [])  # killed before it had begun a trial
    assert proposed(made("Random", experiment), 3) == proposed(made("Random", experiment), 3)


@pytest.mark.parametrize("name", sorted(TUNERS))
def test_each_tuner_goes_on_after_a_second_resume(name: str, experiment: Path) -> None:
    """PBT ended at more trials of a generation than that has."""
    found: list[Parameters] = []
    trials = 3 if name in ("GP", "Metis") else 6  # before these begin to compute for long
    for _ in range(3):
        tuner = made(name, experiment)
        tuner.import_data(results(found))
        new = proposed(tuner, trials)
        assert len(new) == trials
        note(experiment, succeeded(new, first=len(found)))
        found += new
        tuner.import_data(results(new[-1:]))  # of a trial of before, which ends only now


@pytest.mark.parametrize("name", ["GP", pytest.param("Metis", marks=pytest.mark.slow)])
def test_those_that_fit_a_process_propose_better_ones_once_they_know_ten(name: str, experiment: Path) -> None:
    """Where each option farther from the second loses as much again."""
    tuner = made(name, experiment)

    def lost(parameters: Parameters) -> float:
        return float(sum((option - 2) ** 2 for option in parameters.values()))

    found = []
    for number in range(13):
        (parameters,) = tuner.generate_multiple_parameters([number], st_callback=lambda *_: None)
        tuner.receive_trial_result(number, parameters, {"default": -lost(parameters)})
        found.append(lost(parameters))
    assert sum(found[10:]) / 3 < sum(found[:10]) / 10


def test_it_ends_with_a_manager_whom_nobody_looks_after() -> None:
    code = "import time; from autoprune.nni.tuner import end_with_manager; end_with_manager(); time.sleep(60)"
    with subprocess.Popen(["true"]) as manager:  # it stays in the list of processes until we wait for it
        environment = {**os.environ, "AUTOPRUNE_NNI_MANAGER": str(manager.pid)}
        assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=50).returncode == 1


OWN = """
from nni.algorithms.hpo.tpe_tuner import TpeTuner


class Own(TpeTuner):
    def generate_parameters(self, parameter_id, **more):
        found = super().generate_parameters(parameter_id, **more)
        return {**found, "conv1": 99} if parameter_id == 1 else found
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def test_a_tuner_of_ones_own_is_kept_in_order(own: Path) -> None:
    from autoprune.nni.tuner import OrderedTuner

    tuner = OrderedTuner(f"{own}:Own", {"optimize_mode": "maximize"})
    tuner.update_search_space({"conv1": option_space(5, "quniform")})
    tuner.import_data([{"parameter": None, "value": 1.0}, {"parameter": {"conv1": 1}, "value": {"default": 1.0}}])
    (parameters,) = tuner.generate_multiple_parameters([0])
    tuner.trial_end(0, True)
    tuner.receive_trial_result(0, parameters, {"default": 1.0})


def test_the_dispatcher_finds_it_from_its_own_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    monkeypatch.setenv("HOME", str(own.parent))
    assert from_anywhere("own.py:Own") == from_anywhere("~/own.py:Own") == f"{own.resolve()}:Own"
    assert [from_anywhere(name) for name in ("TPE", "package.module:Class")] == ["TPE", "package.module:Class"]


def test_an_advisor_is_refused() -> None:
    name = "nni.algorithms.hpo.hyperband_advisor:Hyperband"
    with pytest.raises(ConfigError, match=r"is an advisor of NNI's; give a subclass of nni\.tuner\.Tuner"):
        check_tuner(name, {})


def test_trials_that_fail_are_made_up_for_and_no_more_run_at_a_time(own: Path, tmp_path: Path) -> None:
    """Its tuner is the user's own, and proposes once what is no option."""
    with nni_run(tmp_path) as run:
        settings = ("-o", "nni.settings.optimize_mode=maximize", "-o", "search.max_evaluations=5")
        run.done("run", "toy", "--tuner", f"{own}:Own", "--run-dir", str(run.root), *settings)
        assert [number for _, number, *_ in run.episodes()] == [1, 2, 3, 4, 5]
        with contextlib.closing(sqlite3.connect(run.database())) as connection:
            stored = [json.loads(params) for (params,) in connection.execute("SELECT params FROM ExperimentProfile")]
            (failed,) = connection.execute("SELECT count(*) FROM TrialJobEvent WHERE event = 'FAILED'").fetchone()
        assert failed == 1
        assert {params["trialConcurrency"] for params in stored} == {2}
        assert max(params["maxTrialNumber"] for params in stored) == 6

"""Real experiments of NNI, on the toy: how they end, go on and are stopped, and what is refused before one begins."""

import os
import re
import shlex
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from nni_for_tests import NniRun, kill, nni_run

from autoprune.config import NniConfig
from autoprune.errors import RunError
from autoprune.jobs.nni import END_S
from autoprune.nni.manager import Experiment, Server, managed, trial_command
from autoprune.nni.processes import command_of, marked
from autoprune.nni.space import search_space
from autoprune.policies.table import searcher_maker
from autoprune.search.loop import run_search
from autoprune.search.toy import toy_problem

pytest.importorskip("nni")


def listening_elsewhere(processes: set[int]) -> set[str]:
    """The addresses, but for loopback, on which these processes listen."""
    inodes = set()
    for process in processes:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            link = str(entry.readlink())
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    assert found, "nothing listens"
    return found - {"0100007F"}


def test_an_experiment_ends_by_itself_and_serves_loopback_alone(tmp_path: Path) -> None:
    with nni_run(tmp_path) as run:
        process = run.begin("TPE", 5)
        manager = run.manager()
        run.wait_for(1)
        assert listening_elsewhere({manager}) == set()
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert [(searcher, number) for searcher, number, *_ in run.episodes()] == [
            ("nni: TPE", number) for number in range(1, 6)
        ]
        assert run.finished_in_nni() == run.succeeded_in_nni() == sorted(run.trials())
        assert (run.root / "policy.json").is_file()
        assert run.left() == []
        assert re.search(r"TPE +│ 5 of 5 +│ finished", run.done("list", str(tmp_path)))
        before = run.episodes()
        run.done("resume", str(run.root))  # there is nothing left to do
        assert run.episodes() == before
        (run.root / "config.yaml").write_text("seed: [")
        assert "unreadable" in run.done("list", str(tmp_path))


def test_an_agent_finds_through_nni_what_it_finds_without(tmp_path: Path) -> None:
    with nni_run(tmp_path) as run:
        run.done(
            "run", "toy", "--run-dir", str(run.root), "-o", "search.agent=evolution", "-o", "search.max_evaluations=8"
        )
        expected = run_search(searcher_maker("evolution"), toy_problem(), max_evaluations=8, seed=0)
        assert [reward for *_, reward in run.episodes()] == [outcome.reward for outcome in expected.outcomes]
        assert run.left() == []


def test_killed_with_its_manager_it_goes_on(tmp_path: Path) -> None:
    with nni_run(tmp_path) as run:
        process = run.begin("TPE", 6)
        run.wait_for(2)
        kill([run.manager(), process.pid])
        process.communicate(timeout=60)
        before = run.episodes()
        run.done("resume", str(run.root))
        after = run.episodes()
        assert [number for _, number, *_ in after] == list(range(1, 7))
        assert after[: len(before)] == before
        assert run.left() == []
        proposed = [tuple(parameters.values()) for parameters in run.begun().parameters]
        assert len(set(proposed)) == len(proposed) >= 6


@pytest.mark.slow
def test_who_finds_its_port_taken_by_another_experiment_takes_no_trial_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that begin at the same moment, one by NNI's own command: the port is free when it is looked at."""
    from nni.experiment import launcher

    with nni_run(tmp_path) as run:
        process = run.begin("Random", 40)
        run.wait_for(1)
        (port,) = (int(found) for found in re.findall(r"--port (\d+)", command_of(run.manager())))
        monkeypatch.setattr("autoprune.nni.manager.free_port", lambda server, with_next: nullcontext(port))
        monkeypatch.setattr("autoprune.nni.manager.START_TRIES", 2)
        monkeypatch.setattr(launcher, "_check_rest_server", launcher._check_rest_server)  # it is set anew
        monkeypatch.setattr(launcher, "_ensure_port_idle", lambda *of: None)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        folder, space = tmp_path / "late" / "nni", search_space(toy_problem().decisions, "quniform")
        late = Experiment(folder, "late", "late", space, trial_command(folder, NniConfig()), 3, 0, NniConfig())
        with pytest.raises(RunError, match=rf"localhost:{port}/late"), managed(late, Server(), goes_on=False):
            pass
        assert list(marked(folder)) == []
        assert process.poll() is None
        run.done("stop", str(run.root))
        process.communicate(timeout=60)


@pytest.mark.slow
def test_moved_between_two_trials_it_ends_with_what_was_asked_for(tmp_path: Path) -> None:
    """So does the study that watches it."""
    optuna = pytest.importorskip("optuna")
    journal = tmp_path / "study.log"
    with nni_run(tmp_path) as run:
        process = run.begin("TPE", 6, "-o", f"search.study=journal:{journal}")
        run.wait_for(3)
        kill([run.manager(), process.pid])
        process.communicate(timeout=60)
        before = run.episodes()
        elsewhere = replace(run, root=tmp_path / "elsewhere")
        run.root.rename(elsewhere.root)
        said = elsewhere.done("resume", str(elsewhere.root))
        assert "was moved: NNI begins anew" in said
        after = elsewhere.episodes()
        assert [number for _, number, *_ in after] == list(range(1, 7))
        assert after[: len(before)] == before
        assert elsewhere.left() == []
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (summary,) = optuna.study.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()
    assert len(trials) == len({candidate for _, _, candidate, _ in after})
    assert {trial.value for trial in trials} == {reward for *_, reward in after}


def test_it_can_be_stopped_and_looked_at(tmp_path: Path) -> None:
    with nni_run(tmp_path) as run:
        process = run.begin("Random", 40)
        run.wait_for(1)
        assert "processes ended" in run.done("stop", str(run.root))
        process.communicate(timeout=60)
        assert run.left() == []
        assert "nothing was running" in run.done("stop", str(run.root))
        page = run.start("view", str(run.root))
        assert page.stdout is not None
        assert any("http://127.0.0.1" in line for line in page.stdout)  # it is served now
        run.done("stop", str(run.root))
        said, _ = page.communicate(timeout=60)
        assert page.returncode == 1
        assert "its page was stopped or killed" in said
        assert run.left() == []


def test_one_that_a_script_began_in_the_background_can_be_stopped(tmp_path: Path) -> None:
    with nni_run(tmp_path) as run:
        command = shlex.join(run.command("run", "toy", "--run-dir", str(run.root), "-o", "search.max_evaluations=40"))
        environment = {**os.environ, "HOME": str(run.home)}
        script = subprocess.Popen(["sh", "-c", f"{command} & wait"], env=environment)
        run.wait_for(1)
        started = time.monotonic()
        run.done("stop", str(run.root))
        assert time.monotonic() - started < END_S
        script.wait(timeout=60)
        assert run.left() == []


# Bad input: one message, and nothing is begun


def refused(run: NniRun, *arguments: str) -> str:
    process = run.start(*arguments)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert run.left() == []
    (line,) = said.strip().splitlines()
    return line


def test_without_the_extra_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow" / "nni").mkdir(parents=True)
    (tmp_path / "shadow" / "nni" / "__init__.py").write_text("raise ImportError('No module named nni')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    with nni_run(tmp_path) as run:
        line = refused(run, "run", "toy", "--run-dir", str(run.root))
        assert "install it with `pip install autoprune[nni]`" in line
        assert not run.root.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "toy", "--tuner", "BOHB"), "nni.tuner: BOHB is broken in NNI 3.0"),
        (("run", "toy", "-o", "nni.assessor=Medianstop"), "nni.assessor: goes with NNI's tuners"),
        (("run", "toy", "--port", "70000"), "65535"),
        (("run", "toy", "--host", "192.0.2.1"), "give 127.0.0.1 or 0.0.0.0"),
        (("resume", "{root}"), "holds no run; `autoprune nni run CONFIG"),
        (("view", "{root}"), "holds no run"),
        (("stop", "{root}"), "holds no run"),
    ],
)
def test_bad_input_is_told_at_once(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with nni_run(tmp_path) as run:
        given = [argument.format(root=run.root) for argument in arguments]
        more = ["--run-dir", str(run.root)] if given[0] == "run" else []
        process = run.start(*given, *more)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 2
        assert message in said
        assert run.left() == []
        assert not run.root.exists()


def test_a_tuner_of_ones_own_that_cannot_begin_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from nni.tuner import Tuner\n\n\nclass Picky(Tuner):\n    def update_search_space(self, space):\n"
        "        raise ValueError('wants no whole numbers')\n"
    )
    with nni_run(tmp_path) as run:
        process = run.begin(f"{own}:Picky", 3)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 2, said
        assert "nni.tuner: NNI's tuner has failed: ValueError: wants no whole numbers" in said
        assert run.left() == []

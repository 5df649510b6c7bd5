"""A search as a study of Optuna's: each candidate is there once, and workers share it, whoever of them dies."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autoprune.config import RunConfig, SearchConfig
from autoprune.config.file import load_config
from autoprune.errors import ConfigError, InputError, RunError
from autoprune.jobs.search import search
from autoprune.policies.shared import shared
from autoprune.prediction import latency_table
from autoprune.prediction.latency_model import LATENCY
from autoprune.prediction.table_store import TABLE_VARIABLE
from autoprune.search.executors import inline
from autoprune.search.problem import SearchProblem
from autoprune.search.searcher import Brief
from autoprune.search.toy import toy_problem
from autoprune.space.policy import PruningPolicy, load_policy
from autoprune.store.trials import EpisodeRow, TrialStore
from autoprune.studies.storage import storage_errors, without_password
from autoprune.studies.study import WATCHED, study_of

optuna = pytest.importorskip("optuna")

EVALUATIONS = 16
STORAGES = ["sqlite", "journal"]
SHARING = Path(__file__).parent / "sharing.py"


def place(kind: str, folder: Path) -> str:
    return f"sqlite:///{folder}/study.db" if kind == "sqlite" else f"journal:{folder}/study.log"


def config(where: str, agent: str, *, seed: int = 0, evaluations: int = EVALUATIONS, name: str = "mine") -> RunConfig:
    section = SearchConfig(agent=agent, max_evaluations=evaluations, study=where, study_name=name)
    return RunConfig(problem="toy", seed=seed, search=section)


def trials(where: str, name: str = "mine") -> list[Any]:
    """As any other program reads them."""
    storage = where
    if where.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(where.removeprefix("journal:"))
        storage = optuna.storages.JournalStorage(backend)
    return list(optuna.load_study(study_name=name, storage=storage).get_trials())


def rows(folder: Path) -> list[EpisodeRow]:
    return TrialStore(folder / "trials.sqlite").episodes()


def policy_of(trial: Any) -> tuple[int, ...]:
    return tuple(trial.params.values())


def complete(found: list[Any]) -> list[Any]:
    return [trial for trial in found if trial.state.name == "COMPLETE"]


@pytest.mark.parametrize(("kind", "agent"), [("sqlite", "nsga2"), ("sqlite", "evolution"), ("journal", "tpe")])
def test_a_study_holds_each_candidate_once_as_the_store_does(kind: str, agent: str, tmp_path: Path) -> None:
    where = place(kind, tmp_path)
    search(config(where, agent), tmp_path / "run", resume=False)
    search(config(where, agent), tmp_path / "run", resume=True)
    found, stored = trials(where), {row.policy: row for row in rows(tmp_path / "run")}
    assert len(found) == len(stored) == EVALUATIONS
    problem = toy_problem()
    for trial in found:
        row = stored[problem.pruning_of(policy_of(trial)).key]
        assert trial.state.name == "COMPLETE"
        assert trial.values[0] == trial.intermediate_values[row.score.look] == row.reward
        assert trial.values[1:] == ([row.predicted_latency_ms] if agent == "nsga2" else [])
        assert trial.user_attrs["divergence"] == row.score.divergence
        assert trial.user_attrs["widths"] == row.channels
        original_ms = problem.original_cost.predicted_latency_ms
        assert trial.user_attrs["predicted_latency_share"] == row.predicted_latency_ms / original_ms


def test_a_watched_search_goes_as_without(tmp_path: Path) -> None:
    where = place("journal", tmp_path)
    search(config(where, "evolution"), tmp_path / "watched", resume=False)
    alone = RunConfig(problem="toy", search=SearchConfig(agent="evolution", max_evaluations=EVALUATIONS))
    search(alone, tmp_path / "alone", resume=False)
    courses = [[row.policy for row in rows(tmp_path / run)] for run in ("watched", "alone")]
    assert courses[0] == courses[1]


@pytest.mark.parametrize("agent", ["tpe", "nsga2"])
def test_the_same_seed_alone_gives_the_same_run(agent: str, tmp_path: Path) -> None:
    for kind in STORAGES:
        search(config(place(kind, tmp_path), agent), tmp_path / kind, resume=False)
    courses = [[row.policy for row in rows(tmp_path / run)] for run in STORAGES]
    assert courses[0] == courses[1]
    assert len(set(courses[0])) == EVALUATIONS  # none twice


def test_one_with_a_larger_budget_goes_on_from_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("journal", tmp_path)
    search(config(where, "tpe"), tmp_path / "first", resume=False)
    looks = []
    looked = SearchProblem.look
    monkeypatch.setattr(SearchProblem, "look", lambda *args: looks.append(args[1]) or looked(*args))
    monkeypatch.setattr("autoprune.steps.context.usual", lambda: inline)  # and nobody looks in another process
    search(config(where, "tpe", evaluations=EVALUATIONS + 5, seed=1), tmp_path / "second", resume=False)
    assert len(looks) == 5
    assert len({row.policy for row in rows(tmp_path / "second")}) == len(trials(where)) == EVALUATIONS + 5


def start(log: Path, run_dir: Path, where: str, *, kill_at: int = 0, seconds: float = 0.1) -> subprocess.Popen[str]:
    words = f"search.study={where} search.study_name=mine search.agent=tpe search.max_evaluations={EVALUATIONS}"
    overrides = [word for key in words.split() for word in ("-o", key)]
    command = [sys.executable, SHARING, log, str(seconds), str(kill_at), "search", "toy", *overrides]
    if run_dir.exists():
        command.append("--resume")
    return subprocess.Popen(
        [*map(str, command), "--run-dir", str(run_dir)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def best(run_dir: Path) -> PruningPolicy:
    return load_policy(run_dir / "policy.json")


@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.slow), "journal"])
def test_two_workers_share_a_search_and_a_dead_one_loses_nothing(kind: str, tmp_path: Path) -> None:
    where, log = place(kind, tmp_path), tmp_path / "looks"
    dying = start(log, tmp_path / "dying", where, kill_at=5)
    lasting = start(log, tmp_path / "lasting", where)
    assert dying.wait(timeout=120) == -signal.SIGKILL
    dying.communicate()
    ended(lasting)
    found = trials(where)
    evaluated = [policy_of(trial) for trial in complete(found)]
    assert len(evaluated) == len(set(evaluated)) == EVALUATIONS
    [lost] = [trial for trial in found if trial.state.name != "COMPLETE" and "withdrawn" not in trial.user_attrs]
    assert lost.state.name == "FAIL"
    assert policy_of(lost) in evaluated
    looks = Counter(log.read_text().splitlines())
    assert {policy for policy, count in looks.items() if count > 1} == {" ".join(map(str, policy_of(lost)))}
    workers = Counter(trial.user_attrs["worker"].rpartition("/")[2] for trial in complete(found))
    assert workers["dying"] == 4
    assert len(rows(tmp_path / "lasting")) == EVALUATIONS

    ended(start(log, tmp_path / "dying", where))  # it takes over all that the other has found, and looks at nothing
    assert Counter(log.read_text().splitlines()) == looks
    assert best(tmp_path / "dying") == best(tmp_path / "lasting")


def test_workers_that_start_together_end_together(tmp_path: Path) -> None:
    where, log = place("sqlite", tmp_path), tmp_path / "looks"
    workers = [start(log, tmp_path / str(number), where) for number in range(2)]
    for worker in workers:
        ended(worker)
    assert len(set(log.read_text().splitlines())) == len(log.read_text().splitlines()) == EVALUATIONS
    assert len({best(tmp_path / str(number)) for number in range(2)}) == 1
    assert [len(rows(tmp_path / str(number))) for number in range(2)] == [EVALUATIONS] * 2


def test_a_worker_that_was_killed_goes_on_alone_as_if_it_had_not_been(tmp_path: Path) -> None:
    where, log = place("journal", tmp_path), tmp_path / "looks"
    killed = start(log, tmp_path / "killed", where, kill_at=13, seconds=0.0)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    ended(start(log, tmp_path / "killed", where, seconds=0.0))
    search(config(place("sqlite", tmp_path), "tpe"), tmp_path / "whole", resume=False)
    courses = [[row.policy for row in rows(tmp_path / run)] for run in ("killed", "whole")]
    assert courses[0] == courses[1]


def test_what_kills_its_workers_is_left_out(tmp_path: Path) -> None:
    with study_of(toy_problem(), config(where := place("journal", tmp_path), "tpe"), ("maximize",)) as study:
        assert study is not None
        policy = toy_problem().floor_policy
        for _ in range(3):
            assert study.lost.keys() <= {policy}
            assert study.claim(policy, {}, max_evaluations=EVALUATIONS)
            study.release()
            study.look()
        assert study.lost == {}
    assert [trial.state.name for trial in trials(where)] == ["FAIL"] * 3


def test_a_policy_has_one_worker_and_the_budget_holds(tmp_path: Path) -> None:
    problem, where = toy_problem(), place("sqlite", tmp_path)
    with (
        study_of(problem, config(where, "tpe"), WATCHED) as ours,
        study_of(
            toy_problem(TrialStore(tmp_path / "other" / "trials.sqlite")), config(where, "tpe"), WATCHED
        ) as others,
    ):
        assert ours is not None
        assert others is not None
        assert ours.claim(problem.floor_policy, {}, max_evaluations=2)
        assert not others.claim(problem.floor_policy, {}, max_evaluations=2)
        assert others.claim(problem.full_policy, {}, max_evaluations=2)
        outcome = problem.evaluate(problem.floor_policy)
        ours.finish(outcome, [outcome.reward])
        assert not ours.claim((1, 1, 1, 1), {}, max_evaluations=2)
        others.look()
        assert list(others.finished) == [problem.floor_policy]
        ours.look()
        assert ours.running == {problem.full_policy}


def test_trials_that_are_of_no_search_take_nothing_of_the_budget(tmp_path: Path) -> None:
    where, added = place("sqlite", tmp_path), {"RUNNING": None, "COMPLETE": 0.0}
    with study_of(toy_problem(), config(where, "tpe"), WATCHED) as study:
        by_hand = optuna.load_study(study_name="mine", storage=where)
        for state, value in added.items():
            by_hand.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState[state], value=value))
        assert study is not None
        assert study.claim(toy_problem().floor_policy, {}, max_evaluations=1)
    search(config(where, "tpe"), tmp_path / "run", resume=False)
    assert len(rows(tmp_path / "run")) == EVALUATIONS
    assert not [trial for trial in trials(where) if "withdrawn" in trial.user_attrs]


def test_a_study_of_another_problem_is_refused(tmp_path: Path) -> None:
    where = place("journal", tmp_path)
    search(config(where, "random"), tmp_path / "run", resume=False)
    other = config(where, "random").model_copy(update={"search": config(where, "nsga2").search})
    with pytest.raises(ConfigError, match=r"'mine' there is of another problem \(directions differ\).*study_name"):
        search(other, tmp_path / "other", resume=False)
    assert not (tmp_path / "other").exists()
    rewarded = RunConfig.model_validate(
        {"problem": "toy", "search": {"study": where, "study_name": "mine", "reward": {"form": "amc"}}}
    )
    with pytest.raises(ConfigError, match=r"search\.reward differ"):
        search(rewarded, tmp_path / "other", resume=False)


def test_a_study_of_another_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.studies.identity.JOIN_S", 0.2)
    where = place("journal", tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(where.removeprefix("journal:"))
    optuna.create_study(study_name="mine", storage=optuna.storages.JournalStorage(backend))
    with pytest.raises(ConfigError, match=r"none of autoprune's; choose another search\.study_name"):
        search(config(where, "random"), tmp_path / "run", resume=False)


def test_ladders_and_latency_are_the_first_workers(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others measure nothing, whatever device they are; what they ask for otherwise is refused before any work."""
    words = ["target={metric: latency, max_ratio: 0.95}", "search.agent=tpe", "search.max_evaluations=6"]
    words.append(f"search.study={place('journal', tmp_path)}")
    search(load_config(small_config, words), tmp_path / "first", resume=False)
    monkeypatch.setenv(TABLE_VARIABLE, os.devnull)
    monkeypatch.setattr(latency_table, "measure_layers", lambda *_, **__: pytest.fail("a layer is timed"))
    search(load_config(small_config, words), tmp_path / "second", resume=False)
    stores = [TrialStore(tmp_path / run / "trials.sqlite") for run in ("first", "second")]
    assert stores[0].kept(LATENCY) == stores[1].kept(LATENCY)
    policies = [{row.policy: row.score for row in store.episodes()} for store in stores]
    assert policies[0] == policies[1]
    assert len(policies[0]) == 6
    other = load_config(small_config, [*words, "search.min_keep=0.5"])
    with pytest.raises(ConfigError, match=r"of another problem \(search\.min_keep differ"):
        search(other, tmp_path / "third", resume=False)


def test_scores_that_cannot_be_are_refused(tmp_path: Path) -> None:
    where = place("journal", tmp_path)
    search(config(where, "random"), tmp_path / "run", resume=False)
    file = Path(where.removeprefix("journal:"))
    file.write_text(file.read_text().replace('\\"look\\":0', '\\"look\\":\\"x\\"'))
    with pytest.raises(InputError, match=r"trial 0: scores: '0\.look': Input should be a valid integer"):
        search(config(where, "random"), tmp_path / "other", resume=False)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("study.db", "must be journal:FILE or the URL of a database"),
        ("redis://127.0.0.1", "must be journal:FILE or the URL of a database"),
    ],
)
def test_what_is_no_storage_is_refused_as_it_is_read(where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(study=where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
        ("journal:/nowhere/at/all/study.log", "No such file or directory"),
        ("postgresql://me:secret@127.0.0.1:1/study", r"me:\*\*\*@127"),
        ("mysql+nothing://127.0.0.1:1/study", "nothing"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told_before_any_work(where: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        search(config(where, "random"), tmp_path / "run", resume=False)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_storage_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database " * 100)
    (tmp_path / "study.log").write_text("no journal\n" * 100)
    for kind in STORAGES:
        with pytest.raises(InputError, match=r"search\.study=.*study\.(db|log): cannot be opened"):
            search(config(place(kind, tmp_path), "random"), tmp_path / "run", resume=False)


def test_a_storage_that_goes_away_ends_the_search_with_one_message(tmp_path: Path) -> None:
    where = place("sqlite", tmp_path)
    with (
        pytest.raises(RunError, match=r"search\.study: cannot be read or written \(.*go on with --resume"),
        study_of(problem := toy_problem(), config(where, "random"), WATCHED) as study,
    ):
        assert study is not None
        (tmp_path / "study.db").write_text("gone")
        study.add(problem.evaluate(problem.floor_policy), [0.0])


@pytest.mark.parametrize(("said", "told"), [("", "OSError"), (" \n", "OSError"), ("gone\nfor good", "gone")])
def test_an_error_of_a_storage_is_told_by_its_first_line_or_its_kind(said: str, told: str) -> None:
    with pytest.raises(RunError, match=rf"cannot be read or written \({told}\)"), storage_errors():
        raise OSError(said)


def test_passwords_are_not_shown() -> None:
    assert without_password("mysql+pymysql://me:p@ss@host:3306/db") == "mysql+pymysql://me:***@host:3306/db"
    assert without_password("sqlite:///a:b@c.db") == "sqlite:///a:b@c.db"


def test_a_shared_searcher_keeps_its_state_in_the_study(tmp_path: Path) -> None:
    problem = toy_problem()
    with study_of(problem, config(place("journal", tmp_path), "tpe"), ("maximize",)) as study:
        assert study is not None
        brief, make = Brief(problem, 0, 5), shared("tpe", {}, study)
        searcher = make(brief)
        asked = searcher.ask()
        searcher.tell([problem.evaluate(asked.policies[0])])
        again = make(brief)
        again.restore(searcher.state())
        assert again.ask() == asked  # it is finished, and costs nothing
        assert again.trained() is None

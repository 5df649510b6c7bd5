"""The parts of searches as experiments of NNI: its space, desks, service and tuners, and ours."""

import errno
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nni_for_tests import kill

from autoprune.errors import ConfigError, InputError, RunError
from autoprune.nni.algorithms import REFUSED, TUNERS, check_assessor, check_tuner, space_type
from autoprune.nni.errands import Errands
from autoprune.nni.manager import Server, free_port
from autoprune.nni.proposals import Proposals
from autoprune.nni.serve import OwnExperiment
from autoprune.nni.service import NOT_OURS, Booking, Refused, Service, serving
from autoprune.nni.space import parameters_of, proposed_options, search_space, within_limits
from autoprune.nni.trial import serve_trial
from autoprune.nni.wire import Line, ServiceGone, connected
from autoprune.nni.workers import Workers
from autoprune.policies.table import searcher_maker
from autoprune.results.kept import NNI_TRIALS
from autoprune.search.loop import run_search
from autoprune.search.problem import Looked
from autoprune.search.racing import NO_BARS
from autoprune.search.toy import toy_problem
from autoprune.store.score import Score
from autoprune.store.trials import TrialStore

pytest.importorskip("nni")

PROBLEM = toy_problem()
POLICIES = st.tuples(*(st.integers(0, len(decision.ladder) - 1) for decision in PROBLEM.decisions))


class Told:
    """A channel to nowhere: what a trial would have told NNI."""

    def __init__(self, parameters: dict[str, object]) -> None:
        self._parameters, self.reports = parameters, []

    def parameters(self) -> dict[str, object]:
        return self._parameters

    def report(self, figures: dict[str, float], *, is_final: bool) -> None:
        self.reports.append((is_final, figures))


# What NNI is told, and what it asks for


@pytest.mark.parametrize(
    ("kind", "values"), [("choice", [0, 1, 2, 3, 4]), ("randint", [0, 5]), ("quniform", [0, 4, 1])]
)
def test_a_space_holds_the_options_of_each_decision(kind: str, values: list[int]) -> None:
    space = search_space(PROBLEM.decisions, kind)
    assert space == {f"conv{number}": {"_type": kind, "_value": values} for number in (1, 2, 3, 4)}


@given(POLICIES)
def test_parameters_are_read_as_they_were_written(policy: tuple[int, ...]) -> None:
    parameters = json.loads(json.dumps(parameters_of(PROBLEM.decisions, policy)))
    assert proposed_options(PROBLEM.decisions, parameters) == policy
    as_floats = {name: float(option) for name, option in parameters.items()} | {"load_checkpoint_dir": "x"}
    assert proposed_options(PROBLEM.decisions, as_floats) == policy


@given(POLICIES)
def test_a_proposal_is_lowered_until_it_meets_the_target_and_no_further(policy: tuple[int, ...]) -> None:
    within = within_limits(PROBLEM, policy)
    assert PROBLEM.is_feasible(within)
    assert all(kept <= asked for kept, asked in zip(within, policy, strict=True))
    if PROBLEM.is_feasible(policy):
        assert within == policy


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conv2": 5}, r"conv2: has the options 0 to 4, got 5"),
        ({"conv2": 1.5}, r"conv2: must be a whole number, got 1.5"),
        ({"conv2": "wide"}, r"conv2: must be a whole number, got 'wide'"),
        ({"conv2": None}, r"conv2: must be a whole number, got None"),
    ],
)
def test_what_is_no_option_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        proposed_options(PROBLEM.decisions, {"conv1": 0, "conv2": 0, "conv3": 0, "conv4": 0, **changed})
    with pytest.raises(InputError, match=r"conv4 is missing; write the space with `autoprune nni space`"):
        proposed_options(PROBLEM.decisions, {"conv1": 0, "conv2": 0, "conv3": 0})


# The desks: which trial is what


def proposals(folder: Path, trials: int) -> Proposals:
    store = TrialStore(folder / "trials.sqlite")
    return Proposals(toy_problem(store), store, "nni: TPE", 0, trials)


def score_trial(desk: Proposals, trial: str, policy: tuple[int, ...]) -> float:
    booking = desk.book(trial, parameters_of(PROBLEM.decisions, policy))
    score = desk.problem.evaluate(booking.policy).score
    return desk.finish(booking, score)


def test_trials_are_episodes_in_the_order_in_which_they_finish(tmp_path: Path) -> None:
    desk = proposals(tmp_path, 3)
    rewards = [score_trial(desk, trial, policy) for trial, policy in (("b", (4, 4, 4, 4)), ("a", (0, 0, 0, 0)))]
    again = proposals(tmp_path, 3)
    assert {trial: (done.episode, done.was_clipped) for trial, done in again.finished.items()} == {
        "b": (1, True),
        "a": (2, False),
    }
    assert [(row.episode, row.reward) for row in again.store.episodes()] == list(enumerate(rewards, 1))
    result = again.result(wall_s=1.0)
    assert (result.evaluations, result.best.reward) == (2, max(rewards))


def test_a_trial_that_nni_begins_again_is_no_other(tmp_path: Path) -> None:
    score_trial(proposals(tmp_path, 2), "a", (1, 1, 1, 1))
    again = proposals(tmp_path, 2)
    score_trial(again, "a", (1, 1, 1, 1))
    assert len(again.finished) == len(again.store.episodes()) == 1


def test_no_more_trials_than_were_asked_for(tmp_path: Path) -> None:
    desk = proposals(tmp_path, 2)
    score_trial(desk, "a", (0, 0, 0, 1))
    desk.book("b", parameters_of(PROBLEM.decisions, (0, 0, 1, 0)))
    with pytest.raises(Refused, match="as many trials as were asked for"):
        desk.book("c", parameters_of(PROBLEM.decisions, (0, 1, 0, 0)))


def test_a_trial_that_an_assessor_ends_counts_as_far_as_it_was_looked_at(tmp_path: Path) -> None:
    desk = proposals(tmp_path, 2)
    booking = desk.book("a", parameters_of(PROBLEM.decisions, (0, 0, 0, 0)))
    desk.leave(booking, desk.problem.evaluate(booking.policy).score)
    assert desk.finished == {}  # nobody knows yet who ended it
    desk = proposals(tmp_path, 2)  # killed before it was asked
    desk.stopped_by_assessor("a")
    desk.stopped_by_assessor("never heard of")
    assert [(trial, done.was_stopped) for trial, done in desk.finished.items()] == [("a", True)]
    assert (desk.store.kept(NNI_TRIALS) or {}).keys() == {"a"}


def test_an_earlier_report_is_no_answer_to_who_wants_a_closer_look() -> None:
    """Of another machine: NNI tells them all again to a run that goes on."""
    problem, policy = toy_problem(), (1, 1, 1, 1)
    (score,) = problem.look(policy, -1, NO_BARS).scores
    problem.remember(Looked(policy, [score], 0.0))
    errands = Errands(problem, 1)
    asker = threading.Thread(target=lambda: list(errands.look({policy: score.look}, NO_BARS)), daemon=True)
    asker.start()
    while (parameters := errands.next_parameters("carrier", lambda: False)) is None:
        pass
    errands.finish(errands.book("told before", parameters), score)
    assert asker.is_alive()
    assert errands.next_parameters("carrier", lambda: False) == parameters
    closer = replace(score, look=score.look + 1)
    problem.remember(Looked(policy, [closer], 0.0))
    errands.finish(errands.book("new", parameters), closer)
    asker.join(timeout=10)
    assert not asker.is_alive()


def test_trials_of_our_tuner_that_nni_begins_again_are_our_searchers(tmp_path: Path) -> None:
    """They may come before the tuner that was begun again asks."""
    parameters = parameters_of(PROBLEM.decisions, (1, 1, 1, 1))

    def own() -> OwnExperiment:
        desk = proposals(tmp_path, 100)
        return OwnExperiment(desk, Errands(desk.problem, 1), desk.store, lambda: None)

    first = own()
    assert first.book("by NNI's tuner", parameters) and first.next_parameters("ours", lambda: False) is None
    again = own()
    booking = again.book("ours", parameters)
    (score,) = toy_problem().look(booking.policy, -1, NO_BARS).scores
    again.leave(booking, None)  # the process of before ends after it was begun again
    again.finish(booking, score)
    assert TrialStore(tmp_path / "trials.sqlite").episodes() == []


def test_our_searcher_gets_what_it_asks_for_whoever_carries_it() -> None:
    """In a thread a carrier that takes what there is, the second time only after it has lost it."""
    make, problem = searcher_maker("evolution"), toy_problem()
    expected = run_search(make, toy_problem(), max_evaluations=20, seed=3)
    errands = Errands(problem, workers=2)

    def carry() -> None:
        for number in itertools.count():
            if (parameters := errands.next_parameters("carrier", lambda: True)) is None:
                return
            if number % 5 == 0:
                errands.lose(parameters)
                continue
            booking = errands.book(f"trial {number}", parameters)
            looked = problem.look(booking.policy, -1, NO_BARS)
            problem.remember(looked)
            errands.finish(booking, looked.scores[-1])

    carrier = threading.Thread(target=carry)
    carrier.start()
    found = run_search(make, problem, max_evaluations=20, seed=3, execute=errands.execute)
    errands.end()
    carrier.join()
    assert [outcome.policy for outcome in found.outcomes] == [outcome.policy for outcome in expected.outcomes]


def test_what_a_killed_dispatcher_was_told_or_was_to_be_told_goes_to_the_next(tmp_path: Path) -> None:
    problem = toy_problem()
    errands, workers = Errands(problem, 1), Workers(problem, 1)
    try:
        with serving(Service(errands, problem, workers), tmp_path):
            with connected(tmp_path) as killed:
                killed.send({"ask": "next"})
            asker = threading.Thread(target=lambda: next(iter(errands.look({(1, 1, 1, 1): -1}, NO_BARS))), daemon=True)
            asker.start()
            with connected(tmp_path) as line:
                line.send({"ask": "next"})
                assert line.receive() == {"parameters": parameters_of(problem.decisions, (1, 1, 1, 1))}
            assert errands.next_parameters("of NNI that was resumed", lambda: False) is not None
            assert errands.next_parameters("of NNI that was resumed", lambda: False) is None
    finally:
        workers.close()


# The service


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Proposals, Path]]:
    desk = proposals(tmp_path, 3)
    workers = Workers(desk.problem, 1)
    folder = tmp_path / ("long " * 30) / "nni"  # longer than an address of a socket can be
    try:
        with serving(Service(desk, desk.problem, workers), folder):
            yield desk, folder
    finally:
        workers.close()


def test_a_trial_is_scored_by_the_service(served: tuple[Proposals, Path]) -> None:
    desk, folder = served
    channel = Told(parameters_of(PROBLEM.decisions, (1, 1, 1, 1)))
    assert serve_trial(folder, channel) is None
    ((is_final, figures),) = channel.reports
    expected = toy_problem().evaluate((1, 1, 1, 1))
    assert is_final
    assert figures["default"] == expected.reward
    assert figures["top1"] == expected.score.top1
    assert [done.policy for done in desk.finished.values()] == [expected.pruning]


def test_the_socket_is_its_users_alone(served: tuple[Proposals, Path]) -> None:
    _, folder = served
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert oct((folder / "service.sock").stat().st_mode)[-3:] == "600"


def test_a_trial_is_told_what_it_is_refused_for(served: tuple[Proposals, Path]) -> None:
    _, folder = served
    assert serve_trial(folder, Told({"conv1": 9})) == "search space: conv1: has the options 0 to 4, got 9"
    with connected(folder) as line:
        line.send({"ask": "next"})
        assert line.receive() == {"refused": NOT_OURS}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"hello\n", "no message"),
        (b"[" * 100_000 + b"\n", "no message"),
        (b'{"ask": "trial", "parameters": 3}\n', "not iterable"),
        (b'{"ask": "trial", "parameters": {"conv1": Infinity}}\n', "must be a whole number, got inf"),
    ],
)
def test_what_is_no_question_is_refused_and_ends_no_search(tmp_path: Path, said: bytes, reason: str) -> None:
    desk = proposals(tmp_path, 3)
    workers = Workers(desk.problem, 1)
    service = Service(desk, desk.problem, workers)
    try:
        with serving(service, tmp_path / "nni"), connected(tmp_path / "nni") as line:
            line._connection.sendall(said)
            assert reason in line.receive()["refused"]
            assert service.failure is None
    finally:
        workers.close()


def test_two_trials_of_one_policy_one_of_them_ended_lose_no_look(tmp_path: Path) -> None:
    desk = proposals(tmp_path, 3)
    (final,) = desk.problem.looks_after((1, 1, 1, 1), -1)
    looks = [replace(final, look=number, complete=number == 2) for number in range(3)]
    desk.problem._looks = lambda pruning: iter(looks)
    workers = Workers(desk.problem, 2)
    service = Service(desk, desk.problem, workers)
    first, second = (Booking(trial, (1, 1, 1, 1), NO_BARS) for trial in "ab")
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs, closing(service._scores(Line(ours), second)) as ended:
            next(ended)
            *_, score = service._scores(Line(ours), first)
            desk.finish(first, score)
            next(ended)
        assert desk.problem.known_scores((1, 1, 1, 1)) == tuple(looks)
        assert desk.result(wall_s=1.0).best.score == looks[-1]
    finally:
        workers.close()


def test_a_worker_that_is_killed_after_its_last_look_is_told_by_the_next_trial(tmp_path: Path) -> None:
    workers = Workers(toy_problem(), 1)
    with workers.looks((0, 0, 0, 0), -1) as looks:
        next(looks)
        kill([workers._processes[0].pid])
        workers._processes[0].join()
    with pytest.raises(RunError, match="was killed"), workers.looks((0, 0, 0, 0), -1) as looks:
        next(looks)


def test_what_is_raised_in_a_worker_is_raised_here() -> None:
    problem = toy_problem()

    def full(pruning: object) -> Iterator[Score]:
        raise OSError(errno.ENOSPC, "No space left on device")

    problem._looks = full
    workers = Workers(problem, 1)
    try:
        with pytest.raises(OSError, match="No space left"), workers.looks((0, 0, 0, 0), -1) as looks:
            next(looks)
    finally:
        workers.close()


def test_nobody_serves_where_there_is_no_service(tmp_path: Path) -> None:
    with pytest.raises(ServiceGone), connected(tmp_path):
        pass
    with pytest.raises(ServiceGone), connected(tmp_path / "nowhere"):
        pass


def test_a_trial_starts_without_torch_and_nni() -> None:
    code = "import sys, autoprune.nni.trial; print({'torch', 'nni', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Tuners


@pytest.mark.parametrize("name", TUNERS)
def test_each_tuner_takes_the_space_that_it_is_given(name: str) -> None:
    check_tuner(name, {})
    assert space_type(name) == TUNERS[name].space


@pytest.mark.parametrize("name", REFUSED)
def test_broken_tuners_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"nni.tuner={name}: {REFUSED[name]}; choose agent, TPE")):
        check_tuner(name, {})


def test_settings_that_a_tuner_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"nni.settings: TPE does not take \{'optimize_mode': 'up'\}"):
        check_tuner("TPE", {"optimize_mode": "up"})
    with pytest.raises(ConfigError, match=r"nni\.settings: optimize_mode=minimize looks for the lowest reward"):
        check_tuner("TPE", {"optimize_mode": "minimize"})
    with pytest.raises(ConfigError, match=r"nni\.assessor_settings: Medianstop does not take \{'start_step': -1\}"):
        check_assessor("Medianstop", {"start_step": -1})
    check_assessor("Curvefitting", {})
    with pytest.raises(ConfigError, match=r"nni\.tuner=Nothing: unknown"):
        check_tuner("Nothing", {})


@pytest.mark.filterwarnings("ignore")
def test_a_result_that_comes_after_its_trial_has_failed_kills_no_tuner() -> None:
    from autoprune.nni.tuner import OrderedTuner

    tuner = OrderedTuner("TPE", {"optimize_mode": "maximize"})
    tuner.update_search_space({"width": {"_type": "quniform", "_value": [0, 4, 1]}})
    (parameters,) = tuner.generate_multiple_parameters([0])
    tuner.trial_end(0, False)
    tuner.receive_trial_result(0, parameters, {"default": 1.0})


def test_a_port_that_is_in_use_is_refused_and_otherwise_the_next_one_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"--port {port}: cannot be served on 127\.0\.0\.1"),
            free_port(Server(port)),
        ):
            pass
    with free_port(Server()) as first, free_port(Server()) as second:  # of two that begin at once
        assert 8080 <= first < second

"""The Pareto front: by hand, against its definition, and as a command on real searches."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_for_tests import scored
from small_job import autoprune, done

from autoprune.jobs.front import COSTS, pareto_front
from autoprune.space.policy import load_policy
from autoprune.store.trials import EpisodeRow


def row(
    kl: float, latency_ms: float, *, energy_mj: float = 1.0, params: int = 10, episode: int = 1, look: int = 2
) -> EpisodeRow:
    policy = json.dumps({"a": episode})
    costs = (latency_ms, energy_mj, 5, params)
    score = scored(kl, kl, 0.9, 50, look=look, complete=look == 2)
    return EpisodeRow("ddpg", 0, episode, -kl, *costs, policy, wall_s=0.1, score=score)


def test_the_front_by_hand() -> None:
    slow, middle, fast = row(0.1, 3.0), row(0.3, 2.0), row(0.9, 1.0, look=1)
    beaten = row(0.4, 2.5)
    small = row(0.95, 2.5, params=3)
    dropped = row(0.0, 0.5, look=0)
    assert pareto_front([slow, beaten, dropped, fast, middle, small]) == (fast, middle, small, slow)
    assert pareto_front([]) == ()


def test_the_first_of_equals_stays() -> None:
    first, again = row(0.1, 1.0, episode=1), row(0.1, 1.0, episode=2)
    assert pareto_front([first, again]) == (first,)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * (1 + len(COSTS))), min_size=1, max_size=12))
def test_nothing_on_the_front_is_beaten_and_all_else_is(figures: list[tuple[int, ...]]) -> None:
    rows = [row(kl, latency, energy_mj=energy, params=params) for kl, latency, energy, params in figures]
    front = {
        (kept.score.kl, kept.predicted_latency_ms, kept.estimated_energy_mj, kept.params) for kept in pareto_front(rows)
    }
    for one in set(figures):
        beaten = any(all(a <= b for a, b in zip(other, one, strict=True)) for other in set(figures) - {one})
        assert (one in front) == (not beaten)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front") / "toy"
    done("search", "toy", "--agent", "random", "-o", "search.max_evaluations=20", "--run-dir", folder, "--quiet")
    return folder


def test_the_command_prints_the_front_and_saves_its_policies(searched: Path, tmp_path: Path) -> None:
    found = json.loads(done("front", searched, "--json", "--save", tmp_path / "kept"))["front"]
    assert 2 <= len(found) <= 20
    latencies = [point["predicted_latency_ms"] for point in found]
    assert latencies == sorted(latencies)
    for number, point in enumerate(found, 1):
        assert load_policy(tmp_path / "kept" / f"{number}.json").as_dict() == point["policy"]
    assert f"{found[0]['kl']:.4f}" in done("front", searched)


def test_what_is_no_run_is_refused(searched: Path, tmp_path: Path) -> None:
    finished = autoprune("front", tmp_path)
    assert finished.returncode == 2
    assert "trials.sqlite: no such file" in finished.stderr
    assert not (tmp_path / "trials.sqlite").exists()
    other = tmp_path / "file"
    other.touch()
    assert autoprune("front", searched, "--save", other).returncode == 2


def test_only_its_own_policies_are_overwritten(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"mine": 1}')
    ended = autoprune("front", searched, "--save", tmp_path)
    assert ended.returncode == 2
    assert f"--save {tmp_path / '1.json'}: there is a file already, and no policy of autoprune" in ended.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["1.json"]
    assert (tmp_path / "1.json").read_text() == '{"mine": 1}'
    ended = autoprune("front", searched, "--save", searched)
    assert ended.returncode == 2
    assert f"--save {searched}: is the folder of a run; choose another folder" in ended.stderr
    for _ in range(2):  # the second time over those of the first
        done("front", searched, "--save", tmp_path / "front")


@pytest.mark.parametrize("of", [None, "4", -1, 1.5])
def test_a_policy_that_does_not_say_what_it_is_cut_from_is_refused(searched: Path, tmp_path: Path, of: object) -> None:
    run_dir = shutil.copytree(searched, tmp_path / "run")
    policy = json.loads((run_dir / "policy.json").read_text())
    policy["groups"]["conv1"]["of"] = of
    (run_dir / "policy.json").write_text(json.dumps(policy))
    finished = autoprune("front", run_dir, "--save", tmp_path / "kept")
    assert finished.returncode == 2
    assert f"{run_dir / 'policy.json'}: groups.conv1.of: must be a whole number from 0 " in finished.stderr
    assert not (tmp_path / "kept").exists()


def test_a_policy_of_another_model_is_refused(searched: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(searched, tmp_path / "run")
    policy = json.loads((run_dir / "policy.json").read_text())
    policy["groups"]["more"] = policy["groups"]["conv1"]
    (run_dir / "policy.json").write_text(json.dumps(policy))
    finished = autoprune("front", run_dir, "--save", tmp_path / "kept")
    assert finished.returncode == 2
    assert f"{run_dir / 'policy.json'}: is of another model than the trials beside it" in finished.stderr

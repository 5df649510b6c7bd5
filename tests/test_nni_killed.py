"""Killed with -9: this process, NNI's manager, or both, at any point; `resume` ends with what was asked for."""

import random
import time
from pathlib import Path

import pytest
from nni_for_tests import NniRun, kill, nni_run

pytest.importorskip("nni")

TRIALS = 8
POINTS = range(10)  # of each kind


def killed(run: NniRun, which: str, tuner: str, chance: random.Random) -> None:
    """Begin an experiment and kill `which` of its processes at a point by chance: in its beginning too."""
    process = run.begin(tuner, TRIALS)
    after = chance.randrange(TRIALS)
    if after:
        run.wait_for(after)
    else:
        run.manager()
    time.sleep(chance.uniform(0.0, 1.5))
    if which in ("node", "both"):
        kill([run.manager()])
    if which in ("python", "both"):
        kill([process.pid])
    process.communicate(timeout=120)


def goes_on_exactly(run: NniRun, tuner: str) -> None:
    before = run.episodes() if (run.root / "trials.sqlite").is_file() else []
    run.done("resume", str(run.root))
    after = run.episodes()
    assert [number for _, number, *_ in after] == list(range(1, TRIALS + 1))
    assert after[: len(before)] == before  # none is lost, none is another now
    if tuner != "agent":
        assert len(run.trials()) == TRIALS
        assert len({trial.episode for trial in run.trials().values()}) == TRIALS
    assert run.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["TPE", "agent"])
@pytest.mark.parametrize("which", ["python", "node", "both"])
@pytest.mark.parametrize("point", POINTS)
def test_resume_ends_with_what_was_asked_for(tmp_path: Path, which: str, tuner: str, point: int) -> None:
    chance = random.Random(f"{which} {tuner} {point}")
    with nni_run(tmp_path) as run:
        killed(run, which, tuner, chance)
        goes_on_exactly(run, tuner)

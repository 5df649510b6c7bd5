"""What NNI adds to an evaluation: a trial through the service, and a trial that loads everything itself, as NNI's
examples do.

    python benchmarks/nni_overhead.py demo --trials 30

Runs two experiments of so many trials, one at a time, with NNI's random tuner, which proposes in no time. Prints the
medians: the bare evaluation, what a trial's process takes beside it, and from one trial to the next.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from autoprune.nni.client import EXPERIMENT
from autoprune.nni.manager import PRELOAD, preloading

ALONE = Path(__file__).with_name("nni_trial_alone.py")


@dataclass(frozen=True)
class Times:
    """Of the trials of an experiment, in s, in the order in which they began."""

    began: tuple[float, ...]
    ended: tuple[float, ...]
    evaluation: tuple[float, ...]

    @property
    def process_s(self) -> float:
        return statistics.median(end - begin for begin, end in zip(self.began, self.ended, strict=True))

    @property
    def evaluation_s(self) -> float:
        return statistics.median(self.evaluation)

    @property
    def next_s(self) -> float:
        """From the beginning of a trial to that of the next."""
        return statistics.median(later - earlier for earlier, later in zip(self.began, self.began[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration, such as demo")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--alone", type=int, default=6, help="trials that load everything")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        served = through_the_service(arguments.config, arguments.trials, Path(folder) / "served")
        alone = loading_everything(arguments.config, arguments.alone, Path(folder) / "alone")
    print(f"{'':28} {'evaluation':>10} {'process':>10} {'overhead':>10} {'to the next':>12}")
    for name, times in (("through the service", served), ("loading everything", alone)):
        over = times.process_s - times.evaluation_s
        print(f"{name:28} {times.evaluation_s:9.2f}s {times.process_s:9.2f}s {over:9.2f}s {times.next_s:11.2f}s")


def through_the_service(config: str, trials: int, run_dir: Path) -> Times:
    command = [sys.executable, "-m", "autoprune.cli", "nni", "run", config, "--search-only", "--tuner", "Random"]
    settings = ["-o", f"search.max_evaluations={trials}", "-o", "nni.concurrency=1", "--run-dir", str(run_dir)]
    subprocess.run([*command, *settings], check=True)
    database = sqlite3.connect(run_dir / "trials.sqlite")
    walls = database.execute("SELECT max(wall_s) FROM trials GROUP BY policy").fetchall()
    (manager,) = (run_dir / EXPERIMENT).glob("[!_]*/db/nni.sqlite")
    return Times(*_began_and_ended(manager), evaluation=tuple(wall for (wall,) in walls))


def loading_everything(config: str, trials: int, folder: Path) -> Times:
    """NNI's own way: a trial is a script that reads the model and the images, and evaluates."""
    from nni.experiment import Experiment, ExperimentConfig, RunMode

    folder.mkdir()
    space = folder / "space.json"
    command = [sys.executable, "-m", "autoprune.cli", "nni", "space", config, "--tuner", "Random"]
    subprocess.run([*command, "--run-dir", str(folder / "run"), "--out", str(space)], check=True)
    settings = ExperimentConfig("local")
    settings.search_space = json.loads(space.read_text())
    settings.trial_command = f"{sys.executable} {ALONE} {config}"
    settings.trial_code_directory = folder
    settings.trial_concurrency = 1
    settings.max_trial_number = trials
    settings.experiment_working_directory = folder
    settings.tuner.name = "Random"
    os.environ["NODE_OPTIONS"] = preloading(PRELOAD)
    experiment = Experiment(settings)
    experiment.start(8199, run_mode=RunMode.Detach)
    try:
        experiment._wait_completion()
        walls = [found[-1].data["wall_s"] for found in experiment.get_job_metrics().values()]
        (manager,) = folder.glob("[!_]*/db/nni.sqlite")
        return Times(*_began_and_ended(manager), evaluation=tuple(walls))
    finally:
        experiment.stop()


def _began_and_ended(database: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By NNI's clock, of its trials that succeeded."""
    query = "SELECT trialJobId, event, timestamp FROM TrialJobEvent WHERE event IN ('RUNNING', 'SUCCEEDED')"
    found: dict[str, dict[str, float]] = {}
    for trial, event, milliseconds in sqlite3.connect(database).execute(query):
        found.setdefault(trial, {})[event] = milliseconds / 1e3
    both = sorted((times["RUNNING"], times["SUCCEEDED"]) for times in found.values() if len(times) == 2)
    return tuple(begin for begin, _ in both), tuple(end for _, end in both)


if __name__ == "__main__":
    main()

"""Whatever a user's own file raises while a job works: one line that names its key, the file and the line; the run goes
on when the file is mended."""

from pathlib import Path

import pytest
import small_job

import autoprune
from autoprune.config.file import load_config
from autoprune.errors import UserCodeError

PLUGINS = Path(__file__).parents[1] / "examples" / "plugins"

MINE = f"""
import os
import sys
sys.path[:0] = [{str(PLUGINS)!r}, {str(Path(small_job.__file__).parent)!r}]
import small_job
from agreement import Agreement
from plain_layout import PlainLayout
from two_of_four import TwoOfFour
from autoprune.policies.baselines import RandomSearcher
from autoprune.pruning.importance import l2_norm

def count():
    count.calls = getattr(count, "calls", 0) + 1
    return count.calls

def fail(after=0):
    if count() > after:
        raise LookupError("a bad day")

class Searcher(RandomSearcher):
    def tell(self, outcomes):
        fail()

def form(score, cost_ratio):
    fail(after=3)
    return score.top1

def importance(model, group):
    fail()
    return l2_norm(model, group)

class Option(TwoOfFour):
    def apply(self, layer, size):
        fail(after=20)
        super().apply(layer, size)

class Runtime(PlainLayout):
    def open_model(self, model, *, threads):
        fail(after=10)
        return super().open_model(model, threads=threads)

class Task(Agreement):
    def divergence(self, outputs, original):
        fail(after=5)
        return super().divergence(outputs, original)

def bars(split):
    fail(after=1)
    return small_job.bars(split)

def net(num_classes):
    fail()
    return small_job.net(num_classes)

class Layer(small_job.nn.Module):
    def forward(self, x):
        fail(after=int(os.environ.get("PASSES", 0)))
        return x

def failing_net(num_classes):
    return small_job.nn.Sequential(*small_job.net(num_classes), Layer())
"""
FAIL = MINE[: MINE.index("raise")].count("\n") + 1  # its line


@pytest.mark.parametrize(
    ("key", "name", "workers"),
    [
        ("search.agent", "Searcher", 1),
        ("search.reward.form", "form", 1),
        ("search.importance", "importance", 1),
        ("search.options", "Option", 1),
        ("measure.runtime", "Runtime", 1),
        ("task", "Task", 2),
        ("data.name", "bars", 1),
        ("model.name", "net", 1),
        ("model.name", "failing_net", 1),
    ],
)
def test_each_kind_of_user_s_code_is_named_and_nothing_is_lost(
    key: str, name: str, workers: int, small_config: Path, tmp_path: Path
) -> None:
    mine, run_dir = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text(MINE)
    value = f"[{mine}:{name}]" if key == "search.options" else f"{mine}:{name}"
    command = ("search", small_config, "-o", f"{key}={value}", "--run-dir", run_dir, "--quiet")
    ended = small_job.autoprune(*command, OMP_NUM_THREADS=str(workers))
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f"{key}={mine}:{name}" in ended.stderr
    assert f"{mine}, line {FAIL}" in ended.stderr
    assert "a bad day" in ended.stderr
    if name in ("Searcher", "Task"):  # others are alike, and a job takes seconds
        stored = small_job.trials_in(run_dir)
        mine.write_text(MINE.replace("if count() > after:", "if count() < 0:"))
        small_job.done(*command, "--resume")
        assert small_job.trials_in(run_dir) >= max(stored, 1)
        assert stored > 0


def test_what_a_network_raises_after_it_was_found_good_is_no_bad_input(small_config: Path, tmp_path: Path) -> None:
    """By then it may have been cut wrongly, by us; which of the user's files it came through is the last line."""
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    named = ("-o", f"model.name={mine}:failing_net", "--run-dir", tmp_path / "run", "--quiet")
    ended = small_job.autoprune("search", small_config, *named, PASSES="60", OMP_NUM_THREADS="1")
    assert ended.returncode == 1, ended.stderr
    assert "a bad day" in ended.stderr
    assert f"{mine}, line {FAIL}, of model.name={mine}:failing_net" in ended.stderr.splitlines()[-1]


CALLING = """
from autoprune.policies.baselines import RandomSearcher

class Searcher(RandomSearcher):
    def __init__(self, brief):
        super().__init__(brief)
        self.problem = brief.problem

    def ask(self):
        self.problem.predict((10_000,) * 4)
        return super().ask()

class Full(RandomSearcher):
    def ask(self):
        raise OSError(28, "No space left on device", "a file of mine")
"""


def test_whose_file_called_ours_wrongly_is_the_last_line(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(CALLING)
    wrong = ("search", "toy", "--run-dir", tmp_path / "run", "--quiet", "--agent", f"{mine}:Searcher")
    ended = small_job.autoprune(*wrong)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    *_, raised, last = ended.stderr.splitlines()
    assert raised.startswith("IndexError: ")
    assert last == f"It came through {mine}, line 10, of search.agent={mine}:Searcher"
    full = small_job.autoprune("search", "toy", "--run-dir", tmp_path / "full", "--quiet", "--agent", f"{mine}:Full")
    assert full.returncode == 1
    assert full.stderr == "error: a file of mine: the disk is full; free some space and go on with --resume\n"


def test_from_python_it_is_told_the_same(small_config: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    config = load_config(small_config, [f"search.agent={tmp_path / 'mine.py'}:Searcher"])
    named = {"model": config.model.name, "data": config.data.name, "checkpoint": small_checkpoint}
    with pytest.raises(UserCodeError, match=rf"search\.agent=.*mine\.py, line {FAIL}: raised LookupError: a bad day"):
        autoprune.compress(**named, config=config, run_dir=tmp_path / "run")  # type: ignore[arg-type]

"""Fine-tuning, the same for every network: our own distillation with the run's settings and equal seeds."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.seeding import derive_seed
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.training.distill import finetune
from autoprune.training.scores import Judge
from autoprune.training.teacher import Teacher
from peers.contest import Contest

TUNED_FILE, ONNX_FILE, STATE_FILE = "tuned.json", "model.onnx", "state.pt"


@dataclass(frozen=True)
class Tuned:
    """`wall_s` is of the call that finished it, from where an earlier one was stopped; None: the run's own result."""

    search_accuracy: float
    wall_s: float | None


@dataclass(frozen=True)
class Schedule:
    epochs: int
    seed: int

    def folder(self, of_peer: Path) -> Path:
        return of_peer / f"{self.epochs}-epochs" / f"seed-{self.seed}"

    def is_of(self, contest: Contest) -> bool:
        """Whether the run itself fine-tuned so."""
        return self.epochs == contest.config.finetune.epochs and self.seed == contest.config.seed


def fine_tuned(
    model: nn.Module, contest: Contest, schedule: Schedule, folder: Path, *, teacher: Teacher, name: str
) -> Tuned:
    """Fine-tune `model`, a cut of the original, into `folder`; goes on where an earlier call was stopped."""
    if not (folder / TUNED_FILE).is_file():
        started = time.perf_counter()
        config = contest.config
        tuned = finetune(
            model,
            contest.subject.data,
            teacher=teacher,
            config=config.finetune.model_copy(update={"epochs": schedule.epochs}),
            learning_rate=config.finetune_learning_rate,
            seed=derive_seed(schedule.seed, "finetune 0"),  # as a run does
            description=f"{name}, seed {schedule.seed}",
            state_path=folder / STATE_FILE,
        )
        _keep(tuned, contest, folder, wall_s=time.perf_counter() - started)
        (folder / STATE_FILE).unlink(missing_ok=True)
    return Tuned(**read_json(folder / TUNED_FILE))


def as_run(contest: Contest, folder: Path) -> Tuned:
    """What the run itself fine-tuned."""
    if not (folder / TUNED_FILE).is_file():
        _keep(load_pruned(contest.run_dir.pruned, architecture=contest.original), contest, folder, wall_s=None)
        shutil.copy(contest.run_dir.model_onnx, folder / ONNX_FILE)
    return Tuned(**read_json(folder / TUNED_FILE))


def _keep(model: nn.Module, contest: Contest, folder: Path, *, wall_s: float | None) -> None:
    """The last file that is written says that all are there."""
    data = contest.subject.data
    save_pruned(folder, model, contest.subject.spec)
    export_onnx(model, folder / ONNX_FILE, data.info)
    write_json(folder / TUNED_FILE, asdict(Tuned(Judge(data.search, data.info)(model), wall_s)))

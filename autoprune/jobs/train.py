"""`autoprune train`: a baseline."""

from dataclasses import dataclass
from pathlib import Path

from autoprune.compute.compute import this_compute
from autoprune.compute.machine import check_machine
from autoprune.config import RunConfig
from autoprune.errors import InputError
from autoprune.foundation.files import require_free_space
from autoprune.foundation.paths import require_writable_file
from autoprune.models import save_weights
from autoprune.steps.amounts import check_amounts
from autoprune.steps.subject import load_subject
from autoprune.store.score import called
from autoprune.tasks.judging import mean_of
from autoprune.training.scores import Judge
from autoprune.training.train import train_baseline


@dataclass(frozen=True)
class TrainedBaseline:
    search_accuracy: float
    test_accuracy: float
    epochs: int
    metric: str  # what the two are of


def train(config: RunConfig, out: Path, *, resume: bool) -> TrainedBaseline:
    """Train the configured model from scratch and write its weights to `out`."""
    require_writable_file(out, field="--out")
    state_path = out.with_suffix(".state.pt")
    if out.exists():
        raise InputError(f"{out}: exists already; delete it or choose another --out")
    if state_path.exists() and not resume:
        raise InputError(f"{state_path}: a training was stopped here; go on with --resume or delete the file")
    require_free_space(out.parent)
    check_machine(config)
    subject = load_subject(config)
    check_amounts(config, subject)
    model = train_baseline(
        subject.model,
        subject.data,
        config.train,
        seed=config.seed,
        task=subject.task,
        compute=this_compute(own_kernels=config.own_kernels),
        state_path=state_path,
    )
    info = subject.data.info
    splits = (subject.data.search, subject.test)
    judges = [Judge(split, info, subject.task) for split in splits]
    on_search, on_test = (mean_of(judge.each(model).values) for judge in judges)
    trained = TrainedBaseline(on_search, on_test, config.train.epochs, called(judges[0].name))
    metadata = {
        "model": config.model.name,
        "data": config.data.name,
        "search_accuracy": f"{trained.search_accuracy:.4f}",
        "test_accuracy": f"{trained.test_accuracy:.4f}",
        "config": config.model_dump_json(),
    }
    save_weights(model, out, metadata)
    state_path.unlink(missing_ok=True)
    return trained

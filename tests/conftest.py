"""What all tests share: no display is needed, a busy machine makes no test too slow for hypothesis, a small job."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import small_job
import torch
from levels_for_tests import level_answers, level_files, random_levels

from autoprune.prediction.table_store import TABLE_VARIABLE
from autoprune.runtimes import onnxruntime

__all__ = ["level_answers", "level_files", "random_levels"]  # fixtures

assert onnxruntime.TELEMETRY_SWITCH in os.environ  # before any test module imports ONNX Runtime itself
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # beside others: OpenMP threads that wait for each other would slow all down
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
hypothesis.settings.register_profile("autoprune", deadline=None, print_blob=True)
hypothesis.settings.load_profile("autoprune")


@pytest.fixture(scope="session", autouse=True)
def _latency_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One latency table for all tests, those of other workers too, and the commands that they start: so two do not
    measure at once. The user's own stays as it is."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TABLE_VARIABLE, str(folder / "latency.sqlite"))
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained weights of `small_job.net`, made by `autoprune train`."""
    folder = tmp_path_factory.mktemp("small")
    weights = folder / "net.safetensors"
    small_job.done("train", small_job.write_config(folder / "train.yaml"), "--out", weights, "--quiet")
    return weights


@pytest.fixture(scope="session")
def small_config(small_checkpoint: Path) -> Path:
    """The small job, with its checkpoint."""
    return small_job.write_config(small_checkpoint.with_name("small.yaml"), model={"checkpoint": str(small_checkpoint)})


@pytest.fixture(scope="session")
def ddpg_config(small_checkpoint: Path) -> Path:
    """The small job with a search that is long enough to be stopped."""
    return small_job.write_config(
        small_checkpoint.with_name("ddpg.yaml"),
        model={"checkpoint": str(small_checkpoint)},
        search={"agent": "ddpg", "max_evaluations": 16},
    )


@pytest.fixture(scope="session")
def finished_run(ddpg_config: Path) -> Path:
    """The directory of a run of `ddpg_config` that nothing stopped; tests copy it and leave it as it is."""
    run_dir = ddpg_config.with_name("finished")
    small_job.done("run", ddpg_config, "--run-dir", run_dir, "--quiet")
    return run_dir


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> None:
    """ONNX Runtime switches subnormals off for the whole thread; the next test starts as a fresh process would."""
    torch.set_flush_denormal(False)

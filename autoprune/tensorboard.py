"""TensorBoard logs of a run: one event folder for the search and one for each stage of training."""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from autoprune.problem import Outcome
from autoprune.train import EpochLog

EVENT_FILES = "events.out.tfevents.*"
FLUSH_INTERVAL_S = 5
SEARCH = "search"


class RunLogger:
    """Writes scalars under `folder/STAGE`; use it as a context manager.

    A resumed run goes through its stages again from their first step (the scores come from the store), so a stage's
    earlier events are replaced when the stage is first written to: no step appears twice. A stage that a resumed run
    skips keeps its events.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def search_outcome(self, episode: int, outcome: Outcome) -> None:
        """What `episode` (from 1) of the search came to."""
        values = {
            "reward": outcome.reward,
            "top1": outcome.score.top1,
            "kl": outcome.score.kl,
            "cross_entropy": outcome.score.cross_entropy,
            "predicted_latency_ms": outcome.cost.predicted_latency_ms,
            "estimated_energy_mj": outcome.cost.estimated_energy_mj,
            "macs": outcome.cost.macs,
            "params": outcome.cost.params,
        }
        self._write(SEARCH, "episode", values, step=episode)

    def epoch(self, stage: str, log: EpochLog) -> None:
        """One epoch of `stage`, such as "train" or "finetune"."""
        values = asdict(log)
        self._write(stage, "epoch", values, step=values.pop("epoch"))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, stage: str, prefix: str, values: dict[str, float], *, step: int) -> None:
        if stage not in self._writers:
            self._writers[stage] = _fresh_writer(self.folder / stage)
        for name, value in values.items():
            self._writers[stage].add_scalar(f"{prefix}/{name}", value, step)


def _fresh_writer(folder: Path) -> SummaryWriter:
    for earlier in folder.glob(EVENT_FILES):
        earlier.unlink()
    return SummaryWriter(str(folder), flush_secs=FLUSH_INTERVAL_S)

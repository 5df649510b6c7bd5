"""TensorBoard logs of a run: one event folder for the search and one for each stage of training."""

import contextlib
import errno
import time
from dataclasses import asdict
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from autoprune.errors import RunError
from autoprune.search.problem import Outcome
from autoprune.training.train import EpochLog

EVENT_FILES = "events.out.tfevents.*"
SEARCH = "search"


class RunLogger:
    """Writes scalars under `folder/STAGE`; use it as a context manager. `RunError` if they cannot be written.

    Each call's events are on disk when it returns. (`SummaryWriter` writes in a thread, and waits for ever when the
    thread has died of a full disk.)

    A resumed run goes through its stages again from their first step (the scores come from the store), so a stage's
    earlier events are replaced when the stage is first written to: no step appears twice. A stage that a resumed run
    skips keeps its events.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, EventsWriter] = {}

    def search_outcome(self, episode: int, outcome: Outcome) -> None:
        """What `episode` (from 1) of the search came to."""
        values = {
            "reward": outcome.reward,
            **{name: metric.value for name, metric in outcome.score.metrics.items()},
            **asdict(outcome.cost),
        }
        self._write(SEARCH, "episode", values, step=episode)

    def epoch(self, stage: str, log: EpochLog) -> None:
        """One epoch of `stage`, such as "train" or "finetune"."""
        values = asdict(log)
        self._write(stage, "epoch", values, step=values.pop("epoch"))

    def close(self) -> None:
        for writer in self._writers.values():
            with contextlib.suppress(OSError):  # what did not fit was told when it was written
                writer.close()
        self._writers.clear()

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, stage: str, prefix: str, values: dict[str, float], *, step: int) -> None:
        folder = self.folder / stage
        summary = Summary(
            value=[Summary.Value(tag=f"{prefix}/{name}", simple_value=value) for name, value in values.items()]
        )
        try:
            if stage not in self._writers:
                self._writers[stage] = _fresh_writer(folder)
            self._writers[stage].write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._writers[stage].flush()
        except OSError as error:
            reason = (
                "the disk is full; free some space" if error.errno == errno.ENOSPC else f"{error.strerror}; mend it"
            )
            raise RunError(f"{folder}: {reason} and go on with --resume") from error


def _fresh_writer(folder: Path) -> EventsWriter:
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob(EVENT_FILES):
        earlier.unlink()
    return EventsWriter(str(folder / "events"))

"""A peer's cut that is as fast as ours: each of its settings brought to our measured latency, the best one taken."""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from autoprune.errors import RunError
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.files import read_json, write_json
from autoprune.foundation.progress import say
from autoprune.measure.latency import measure_interleaved, speedup
from autoprune.pruning.structure import load_pruned, save_pruned
from autoprune.runtimes.find import find_runtime
from autoprune.training.scores import Judge
from peers.contest import Contest
from peers.knob import Tried, least_fast_enough, tried_knobs, why_none
from peers.remote import Remote
from peers.table import Peer
from peers.task import Task, reason, shape_key, write_cut

CHOICE_FILE, CUT_FOLDER = "choice.json", "cut"


@dataclass(frozen=True)
class Choice:
    """The cut that goes on; its accuracy is that on the search split, BatchNorms recalibrated, not yet fine-tuned."""

    setting: str
    knob: float
    latency_ratio: float  # to ours
    kl: float  # to the original, on the images that score our own candidates
    search_accuracy: float
    wall_s: float
    tried: dict[str, list[Tried]]


class Workshop:
    """Cuts of one peer, measured against our exported file; equal widths are measured once."""

    def __init__(self, peer: Peer, contest: Contest, folder: Path, *, python: Path) -> None:
        self.peer, self.contest, self.folder = peer, contest, folder
        self._remote = Remote(python, config=contest.run_dir.config, peer=peer.name, scratch=folder)
        self._ratios: dict[tuple[tuple[int, int], ...], float] = {}

    def attempt(self, setting: str, knob: float) -> Tried:
        """A peer's failure, of whatever kind, is an answer too."""
        where = f"{self.peer.name}, {setting}, {self.peer.knob} {knob:.3f}"
        try:
            ratio = self._latency_ratio(self.cut(setting, knob))
        except Exception as error:
            say(f"{where}: {reason(error)}")
            return Tried(knob, None, reason(error))
        say(f"{where}: {ratio:.3f} of our latency")
        return Tried(knob, ratio)

    def cut(self, setting: str, knob: float) -> nn.Module:
        contest = self.contest
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".cut-") as made:
            if self.peer.own_environment:
                self._remote.write_cut(setting, knob, Path(made))
            else:
                data, score_images = contest.subject.data, contest.config.search.score_images
                task = Task(self.peer, setting, knob, contest.original, data, score_images, self.folder)
                write_cut(task, Path(made), contest.subject.spec)
            return load_pruned(made, architecture=contest.original)

    def close(self) -> None:
        self._remote.close()

    def _latency_ratio(self, model: nn.Module) -> float:
        key = shape_key(model)
        if key not in self._ratios:
            info, measure = self.contest.subject.data.info, self.contest.config.measure
            with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
                file = Path(folder) / "cut.onnx"
                export_onnx(model, file, info)
                ours, theirs = measure_interleaved(
                    [self.contest.run_dir.model_onnx, file],
                    torch.zeros(measure.batch_size, *info.input_shape).numpy(),
                    runtime=find_runtime(measure.runtime),
                    threads=measure.threads,
                    rounds=measure.rounds,
                    runs_per_round=measure.runs_per_round,
                )
            self._ratios[key] = speedup(theirs, ours).ratio
        return self._ratios[key]


def find_cut(workshop: Workshop) -> Choice:
    """The choice, and beside it the cut, recalibrated; found before, it is read.

    Raises `RunError` if no setting makes a network as fast as ours.
    """
    folder, contest = workshop.folder, workshop.contest
    if (folder / CHOICE_FILE).is_file():
        return TypeAdapter(Choice).validate_python(read_json(folder / CHOICE_FILE))
    started = time.perf_counter()
    tried: dict[str, list[Tried]] = {}
    candidates: list[tuple[float, str, Tried, nn.Module]] = []
    for setting in workshop.peer.settings:
        tried[setting] = tried_knobs(lambda knob, setting=setting: workshop.attempt(setting, knob))
        found = least_fast_enough(tried[setting])
        if found is not None:
            model = workshop.cut(setting, found.knob)
            contest.evaluator.recalibrate(model)
            candidates.append((contest.evaluator.score_model(model).divergence, setting, found, model))
    if not candidates:
        raise RunError("; ".join(f"{setting}: {why_none(attempts)}" for setting, attempts in tried.items()))
    kl, setting, found, model = min(candidates, key=lambda candidate: candidate[0])
    assert found.latency_ratio is not None
    subject = contest.subject
    choice = Choice(
        setting,
        found.knob,
        found.latency_ratio,
        kl,
        Judge(subject.data.search, subject.data.info)(model),
        time.perf_counter() - started,
        tried,
    )
    save_pruned(folder / CUT_FOLDER, model, subject.spec)
    write_json(folder / CHOICE_FILE, asdict(choice))
    return choice


def read_cut(workshop: Workshop) -> nn.Module:
    return load_pruned(workshop.folder / CUT_FOLDER, architecture=workshop.contest.original)

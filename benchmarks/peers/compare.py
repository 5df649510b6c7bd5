"""The comparison: cut every peer to our latency, fine-tune all alike, measure all files together, then score them."""

import copy
import hashlib
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from autoprune import __version__
from autoprune.errors import InputError
from autoprune.foundation.files import read_json, require_free_space, write_json
from autoprune.foundation.progress import bar, say
from autoprune.measure.device import environment
from autoprune.measure.latency import Latency
from autoprune.pruning.cost import count_cost
from autoprune.runtimes.find import find_runtime
from autoprune.steps.final import FileJudge
from autoprune.steps.met import timed_images, timed_together
from autoprune.training.scores import Judge
from autoprune.training.teacher import Teacher
from peers.contest import Contest
from peers.cut import Workshop, find_cut, read_cut
from peers.outcome import ORIGINAL, OURS, Measured, Row, as_json
from peers.table import PEERS, Peer
from peers.tune import ONNX_FILE, Schedule, as_run, fine_tuned

COMPARISON_FILE, RUN_FILE = "comparison.json", "run.json"
VERSION_OF = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Entrant:
    """A row in the making. `cut` is the network to fine-tune; None: there is none, and the row says why."""

    row: Row
    folder: Path
    cut: nn.Module | None

    def failed(self, error: Exception) -> "Entrant":
        say(f"{self.row.name}: {error}")
        return replace(self, row=replace(self.row, error=f"{type(error).__name__}: {error}"), cut=None)


def library_versions(peers: Sequence[Peer], *, pythons: dict[bool, Path]) -> dict[str, str]:
    """Of each peer's library, in the environment that has it. Raises `InputError` if one is not there."""
    versions: dict[str, str] = {}
    missing = []
    for peer in peers:
        python = pythons[peer.own_environment]
        if not python.is_file():
            missing.append(peer.name)
            continue
        command = [str(python), "-c", VERSION_OF, peer.library]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            missing.append(peer.name)
        versions[peer.name] = f"{peer.library} {found.stdout.strip()}"
    if missing:
        raise InputError(
            f"{pythons[True]}: cannot run {', '.join(missing)}; make the environment with benchmarks/install_peers.sh, "
            f"or leave them out: --peers {','.join(peer.name for peer in PEERS.values() if not peer.own_environment)}"
        )
    return versions


def compare(
    contest: Contest,
    peers: Sequence[Peer],
    out: Path,
    *,
    pythons: dict[bool, Path],
    epochs: int,
    seeds: Sequence[int],
) -> list[Row]:
    """The original's row, ours, and one for each of `peers`; written to `out`, where what is done is not done again.

    The test split is read once, when all else is done.
    """
    versions = library_versions(peers, pythons=pythons)
    _claim(out, contest)
    entrants = [_ourselves(contest, out)]
    for peer in peers:
        with closing(Workshop(peer, contest, out / peer.name, python=pythons[peer.own_environment])) as workshop:
            entrants.append(_brought_to_our_latency(workshop, versions[peer.name]))
    for seed in seeds:
        entrants = _all_tuned(entrants, contest, Schedule(epochs, seed))
    rows = _measured(entrants, contest, [Schedule(epochs, seed) for seed in seeds])
    summary = as_json(
        rows,
        run=str(contest.run_dir.root),
        epochs=epochs,
        seeds=seeds,
        environment=environment(find_runtime(contest.config.measure.runtime)),
    )
    write_json(out / COMPARISON_FILE, summary)
    return rows


def _claim(out: Path, contest: Contest) -> None:
    """Raises `InputError` if `out` holds the comparison of another run: its cuts are of another latency."""
    require_free_space(out)
    run_dir = contest.run_dir
    content = b"".join(file.read_bytes() for file in (run_dir.config, run_dir.policy, run_dir.model_onnx))
    run = {"run": str(run_dir.root), "sha256": hashlib.sha256(content).hexdigest()}
    if (out / RUN_FILE).is_file() and (known := read_json(out / RUN_FILE))["sha256"] != run["sha256"]:
        raise InputError(f"{out}: holds the comparison of another run ({known['run']}); choose another --out")
    write_json(out / RUN_FILE, run)


def _ourselves(contest: Contest, out: Path) -> Entrant:
    data = contest.subject.data
    cut = contest.our_cut()
    row = Row(
        OURS,
        "autoprune, this run",
        f"autoprune {__version__}",
        search_accuracy_cut=Judge(data.search, data.info)(cut),
        find_wall_s=contest.result.search.wall_s,
    )
    return Entrant(row, out / OURS, cut)


def _brought_to_our_latency(workshop: Workshop, version: str) -> Entrant:
    peer = workshop.peer
    entrant = Entrant(Row(peer.name, peer.method, version, knob=peer.knob), workshop.folder, None)
    try:
        choice = find_cut(workshop)
        say(f"{peer.name}: takes {choice.setting}, {peer.knob} {choice.knob:.3f}, {choice.wall_s:.0f} s")
        row = replace(
            entrant.row,
            choice=choice,
            search_accuracy_cut=choice.search_accuracy,
            find_wall_s=choice.wall_s,
        )
        return replace(entrant, row=row, cut=read_cut(workshop))
    except Exception as error:  # of whatever kind: it is the peer's result
        return entrant.failed(error)


def _all_tuned(entrants: Sequence[Entrant], contest: Contest, schedule: Schedule) -> list[Entrant]:
    """The teacher answers all of them alike, so it is asked once."""
    teacher = Teacher.of(contest.original, contest.subject.data, contest.config.finetune)
    return [
        entrant if entrant.cut is None else _tuned(entrant, entrant.cut, contest, schedule, teacher)
        for entrant in entrants
    ]


def _tuned(entrant: Entrant, cut: nn.Module, contest: Contest, schedule: Schedule, teacher: Teacher) -> Entrant:
    row, folder = entrant.row, schedule.folder(entrant.folder)
    try:
        if row.name == OURS and schedule.is_of(contest):
            tuned = as_run(contest, folder)
        else:
            model = copy.deepcopy(cut)  # it is fine-tuned again with the next seed
            tuned = fine_tuned(model, contest, schedule, folder, teacher=teacher, name=row.name)
    except Exception as error:
        if row.name == OURS:
            raise
        return entrant.failed(error)
    row = replace(
        row,
        search_accuracy=(*row.search_accuracy, tuned.search_accuracy),
        finetune_wall_s=(*row.finetune_wall_s, tuned.wall_s),
    )
    return replace(entrant, row=row)


def _measured(entrants: Sequence[Entrant], contest: Contest, schedules: Sequence[Schedule]) -> list[Row]:
    """All rows: the files of the first seed timed in turn (those of the others have the same layers), then every
    file's accuracy on the test split."""
    subject, measure = contest.subject, contest.config.measure
    info = subject.data.info
    finished = [entrant for entrant in entrants if entrant.cut is not None]
    first = [schedules[0].folder(entrant.folder) / ONNX_FILE for entrant in finished]
    say("measuring all files together")
    images = timed_images(subject.data.search, info, measure)
    original_latency, *latencies = timed_together([contest.run_dir.original_onnx, *first], images, measure)

    def row_of(row: Row, model: nn.Module, latency: Latency, files: Sequence[Path]) -> Row:
        figures = Measured.of(
            latency, original=original_latency, ours=latencies[0], cost=count_cost(model, info.input_shape)
        )
        scores = []
        for file in files:
            scores.append(FileJudge(info, file, find_runtime(measure.runtime))(file, subject.test))
            progress.advance()
        return replace(row, measured=figures, test_accuracy=tuple(scores))

    with bar("test split", 1 + len(finished) * len(schedules)) as progress:
        original = Row(
            ORIGINAL,
            "the original",
            "",
            search_accuracy=(Judge(subject.data.search, info)(contest.original),),
        )
        rows = {ORIGINAL: row_of(original, contest.original, original_latency, [contest.run_dir.original_onnx])}
        for entrant, latency in zip(finished, latencies, strict=True):
            assert entrant.cut is not None
            files = [schedule.folder(entrant.folder) / ONNX_FILE for schedule in schedules]
            rows[entrant.row.name] = row_of(entrant.row, entrant.cut, latency, files)
    return [rows[ORIGINAL], *(rows.get(entrant.row.name, entrant.row) for entrant in entrants)]

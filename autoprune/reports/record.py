"""What a finished run left in its directory, read back and checked."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.errors import InputError
from autoprune.foundation.files import read_json
from autoprune.prediction.latency_model import LATENCY
from autoprune.reports.charts import GroupWidths
from autoprune.results.kept import FINETUNE, FRAME, FinetuneFrame
from autoprune.results.max_drop import part_name
from autoprune.results.run import RunResult, parse_result
from autoprune.search.prepare import ORIGINAL, OriginalPoint
from autoprune.space.policy import load_policy
from autoprune.store.trials import EpisodeRow, TrialStore
from autoprune.training.train import EpochLog


@dataclass(frozen=True)
class RunRecord:
    """All that a run directory holds about a finished run; of several searches, the one whose policy was taken."""

    config: RunConfig
    config_text: str
    result: RunResult
    groups: tuple[GroupWidths, ...]
    chosen: dict[str, int]
    episodes: tuple[EpisodeRow, ...]
    finetune: tuple[EpochLog, ...]
    frame: FinetuneFrame | None = None  # None: of an earlier version
    original: OriginalPoint | None = None


def read_run(run_dir: Path) -> RunRecord:
    """Read a run directory whole; `InputError` names the file that is missing or broken."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run directory")
    config_path, store_path = run_dir / "config.yaml", run_dir / "trials.sqlite"
    config = load_config(config_path)
    if not (run_dir / "result.json").exists() and (policy := run_dir / "policy.json").is_file():
        raise InputError(
            f"{run_dir / 'result.json'}: no such file, so {run_dir} holds a search alone; see `autoprune front "
            f"{run_dir}`, or make a run of it with `autoprune apply CONFIG --policy {policy}`"
        )
    result = parse_result(read_json(run_dir / "result.json"), where=str(run_dir / "result.json"))
    if not store_path.exists():  # opening it would make an empty one
        raise InputError(f"{store_path}: no such file")
    try:
        store = TrialStore(store_path)
        part = next((number for number, trial in enumerate(result.search.max_drop_trials, 1) if trial.kept), None)
        searched = store if part is None else store.part(part_name(part))
        episodes, latency = searched.episodes(), store.kept(LATENCY)
        finetune, frame, original = store.kept(FINETUNE), store.kept(FRAME), store.kept(ORIGINAL)
    except sqlite3.DatabaseError as error:
        raise InputError(f"{store_path}: not a trials database ({error})") from None
    chosen, groups = _read_groups(run_dir / "policy.json", {} if latency is None else latency.ladders)
    return RunRecord(
        config=config,
        config_text=config_path.read_text(encoding="utf-8"),
        result=result,
        groups=groups,
        chosen=chosen,
        episodes=tuple(episodes),
        finetune=finetune or (),
        frame=frame,
        original=original,
    )


def _read_groups(path: Path, ladders: dict[str, tuple[int, ...]]) -> tuple[dict[str, int], tuple[GroupWidths, ...]]:
    policy = load_policy(path)
    raw = read_json(path)["groups"]
    groups = []
    for name, kept in policy.channels:
        before = raw[name].get("of")
        if not isinstance(before, int) or before < kept:
            raise InputError(f"{path}: group {name} keeps {kept} of {before!r} channels")
        groups.append(GroupWidths(name, kept, before, ladders.get(name, ())))
    return policy.as_dict(), tuple(groups)
